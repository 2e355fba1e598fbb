"""What each process publishes of its guards in the runtime folder, and how others read it.

A file for each guard, written anew every second by one thread of the process, and ever more rarely
while nothing changes. It says by when it will be written again. The process holds a lock on it,
which the kernel frees at its death: by that the others know the files of the dead, and sweep them.
Nobody needs access to a worker's port, nor a worker that answers.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

from ..errors import RuntimeDirError
from ..util.logs import logger
from ..util.rundir import RuntimeDir

__all__ = ["PUBLISHED_EVERY", "publish", "published", "withdraw"]

PUBLISHED_EVERY, PUBLISHED_AT_REST = 1.0, 10.0
"""Seconds between two writings of a status, and at most between two that are the same."""
TRIES = 20
"""How often a file is read that is being written meanwhile."""
SWEPT_EVERY = 30.0
"""Seconds between two looks of each process for files of the dead."""


Status = dict[str, Any]

_FILE = re.compile(r"[0-9]+-[0-9a-f]{8}\.status(\.new)?")
_NEW_FOR = 60.0
"""Seconds after which a file that has not got its name yet never will."""


class _Page:
    """The file of one guard, made when there is something to write, and again when it was deleted.

    :param said: somebody else says it where the folder cannot be used.
    """

    def __init__(
        self, folder: Path | None, describe: Callable[[], Status], *, said: bool = False
    ) -> None:
        self.path = folder
        self._describe = describe
        self._said = said
        self._folder: RuntimeDir | None = None
        self._failed = False
        self._over = False
        self._lock = threading.Lock()
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}.status"
        self._fd = -1
        self._described: Status = {}
        self._pause = PUBLISHED_EVERY
        self.due = 0.0
        """When it is to be written again, by the monotonic clock."""

    def write(self) -> None:
        """Write what the guard says now. What fails is logged, once, and tried again next time."""
        pause = PUBLISHED_EVERY
        try:
            before, self._described = self._described, self._describe()
            if self._described == before:
                pause = min(PUBLISHED_AT_REST, 2 * self._pause)
            at = time.time()
            stamp = {"at": round(at, 3), "due": round(at + pause, 3)}
            said = json.dumps({**self._described, **stamp}).encode()
            content = b"%08x %s\n" % (crc32(said), said)
            with self._lock:
                if self._over:
                    return
                if self._fd < 0 or os.fstat(self._fd).st_nlink == 0:
                    self.disown()
                    self._open()
                os.pwrite(self._fd, content, 0)
                os.ftruncate(self._fd, len(content))
        except BlockingIOError:
            pause = PUBLISHED_EVERY  # somebody looks at this moment whether the file is locked
        except Exception as error:  # noqa: BLE001 - a disk may be full; requests are served
            pause = PUBLISHED_EVERY
            if not self._failed:
                why = error if isinstance(error, RuntimeDirError) else repr(error)
                logger.warning("poolguard: a status is not published: %s", why)
            self._failed = True
        self._pause = pause
        self.due = time.monotonic() + pause

    def _open(self) -> None:
        try:
            folder = RuntimeDir(self.path)
        except RuntimeDirError:
            self._failed = self._failed or self._said
            raise
        unnamed = f"{self._name}.new"
        try:
            # Under another name until the lock is held: a file that is free to lock is swept.
            self._fd = folder.file(unnamed)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.rename(unnamed, self._name)
        except BaseException:
            self.disown()
            folder.remove(unnamed)
            folder.close()
            raise
        self._folder = folder

    def close(self) -> None:
        with self._lock:
            self._over = True
            if self._folder is not None:
                self._folder.remove(self._name)
            self.disown()

    def disown(self) -> None:
        """Let go of the file; in a forked child it is the parent's, and no lock is taken, since
        the thread that holds it may not exist there."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._folder is not None:
            self._folder.close()
            self._folder = None


class _Publisher:
    """The thread of this process that writes, while there is something to write."""

    def __init__(self) -> None:
        # Reentrant: a signal's handler may close a guard while the thread it interrupts opens one.
        self._lock = threading.RLock()
        self._pages: dict[object, _Page] = {}
        self._news = threading.Event()
        """Of the present thread: there is something new to write, or it is another one's turn."""
        self._thread: threading.Thread | None = None

    def add(self, key: object, page: _Page) -> None:
        with self._lock:
            before = self._pages.pop(key, None)
            self._pages[key] = page
            thread = None
            self._news.set()
            if self._thread is None:
                self._news = threading.Event()
                thread = self._thread = threading.Thread(
                    target=self._run, args=(self._news,), name="poolguard-status", daemon=True
                )
        if before is not None:
            before.close()
        if thread is not None:
            thread.start()

    def remove(self, key: object) -> None:
        with self._lock:
            page = self._pages.pop(key, None)
            thread = None
            if page is not None and not self._pages:
                thread, self._thread = self._thread, None
                self._news.set()
        if page is not None:
            page.close()
        if thread is not None and thread is not threading.current_thread():
            with suppress(RuntimeError):  # it was not started yet
                thread.join(1.0)

    def _run(self, news: threading.Event) -> None:
        swept_at = 0.0
        while True:
            with self._lock:
                if self._thread is not threading.current_thread():
                    return
                pages = list(self._pages.values())
            now = time.monotonic()
            for page in pages:
                if page.due <= now:
                    page.write()
            if now - swept_at >= SWEPT_EVERY:
                swept_at = now
                for path in {page.path for page in pages}:
                    with suppress(RuntimeDirError, OSError):
                        _sweep(path)
            next_due = min((page.due for page in pages), default=now + PUBLISHED_EVERY)
            if news.wait(max(0.0, next_due - time.monotonic())):
                news.clear()

    def forget(self) -> None:
        """In a forked child: the files are the parent's."""
        for page in self._pages.values():
            page.disown()


_publisher: _Publisher | None = None


def publish(
    key: object, folder: Path | None, describe: Callable[[], Status], *, said: bool = False
) -> None:
    """Have what *describe* returns published from now on, until *key* is withdrawn.

    Where the runtime folder cannot be used it is tried again and again, and a warning says so,
    unless it is *said* elsewhere.
    """
    global _publisher  # noqa: PLW0603
    page = _Page(folder, describe, said=said)
    if _publisher is None:
        _publisher = _Publisher()
    try:
        _publisher.add(key, page)
    except RuntimeError as error:  # the process may have no more threads
        logger.warning("poolguard: the status is not published: %s", error)
        withdraw(key)


def withdraw(key: object) -> None:
    """Publish nothing of *key* any more. What was never published is none."""
    if _publisher is not None:
        _publisher.remove(key)


def published(folder: Path | None = None) -> list[Status]:
    """What the living processes of this user have published last, by pid; sweeps up the dead ones'.

    Each has an ``at`` and a ``due`` more than ``guard.status()``: when it was written, and by when
    it will be written again, in seconds since the epoch. A folder that is not there holds nothing,
    and is not made. Raises :exc:`~poolguard.errors.RuntimeDirError` where the folder cannot be
    trusted.
    """
    opened = RuntimeDir.found(folder)
    if opened is None:
        return []
    try:
        read = [_read(fd) for fd in _living(opened)]
    finally:
        opened.close()
    found = [status for status in read if status is not None]
    return sorted(found, key=lambda status: (status.get("pid", 0), str(status.get("name"))))


def _sweep(path: Path | None) -> None:
    folder = RuntimeDir.found(path)
    if folder is not None:
        try:
            for _ in _living(folder):
                pass
        finally:
            folder.close()


def _living(folder: RuntimeDir) -> Iterator[int]:
    """The files of the living, open to be read; those of the dead are removed."""
    for name in folder.names():
        if not _FILE.fullmatch(name):
            continue
        try:
            fd = folder.reading(name)
        except RuntimeDirError:  # it was removed meanwhile, or was never one of ours
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            yield fd
        else:
            if not name.endswith(".new") or time.time() - os.fstat(fd).st_mtime > _NEW_FOR:
                folder.remove(name)
        finally:
            os.close(fd)


def _read(fd: int) -> Status | None:
    """The status in a file that may be written this very moment."""
    for _ in range(TRIES):
        size = os.fstat(fd).st_size
        checksum, _, said = os.pread(fd, size, 0).strip().partition(b" ")
        if checksum == b"%08x" % crc32(said):
            status = json.loads(said)
            return status if _has_pid(status) else None
        time.sleep(0.005)
    return None


def _has_pid(said: object) -> bool:
    """Whether it can be told from others; what else it holds is its readers' matter."""
    return isinstance(said, dict) and isinstance(said.get("pid", 0), int)


def _after_fork_in_child() -> None:
    global _publisher  # noqa: PLW0603
    if _publisher is not None:
        _publisher.forget()
    _publisher = None


os.register_at_fork(after_in_child=_after_fork_in_child)
