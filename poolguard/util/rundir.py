"""The runtime folder: private, and where the processes of one user on one host find each other.

Temporary directories are shared, and another user may have put there what is found there. So the
folder must be a real directory of our own that no other user can enter, and every file in it is
opened relative to the folder's descriptor, without following links.
"""

from __future__ import annotations

import fcntl
import math
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import RuntimeDirError

__all__ = ["RuntimeDir", "default_path"]

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_REMEDY = (
    "set runtime_dir (POOLGUARD_RUNTIME_DIR) to a path where nothing is yet (the folder is made), "
    "or to a folder that is open to this user alone"
)


def default_path() -> Path:
    """Where the folder is unless a setting says otherwise. Its name depends on the user alone.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where there is no temporary directory.
    """
    return _temporary() / f"poolguard-{os.geteuid()}"


def _temporary() -> Path:
    """The directory for temporary files, whether or not it can be written to now.

    While the disk is full ``tempfile.gettempdir()`` silently chooses another one, and processes
    that start at that moment would begin a second ledger there.
    """
    if os.name != "posix":
        return Path(tempfile.gettempdir())
    for path in (*(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")), "/tmp"):
        if path and os.path.isdir(path):
            return Path(path).absolute()
    raise RuntimeDirError(
        "there is no directory for temporary files, and so no runtime folder: set runtime_dir "
        "(POOLGUARD_RUNTIME_DIR) to a folder of your own"
    )


class RuntimeDir:
    """The runtime folder, which is made where it is missing (0700), and held open.

    :param path: absolute; :func:`default_path` by default.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where it cannot be made, or cannot be trusted.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = default_path() if path is None else path
        self._fd = self._open()
        # systemd-tmpfiles deletes what has long been unused in a temporary directory, but not below
        # a directory that is locked (tmpfiles.d(5), "Age"). Workers that found no ledger any more
        # would begin a second one beside that of older workers.
        with suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    @classmethod
    def found(cls, path: Path | None = None) -> RuntimeDir | None:
        """The folder if it is there, for a reader; None where there is none.

        Raises :exc:`~poolguard.errors.RuntimeDirError` where it cannot be trusted.
        """
        try:
            (default_path() if path is None else path).lstat()
        except FileNotFoundError:
            return None
        except OSError:
            pass  # the error of making it says what is in the way
        return cls(path)

    def __repr__(self) -> str:
        return f"RuntimeDir({str(self.path)!r})"

    def trouble(self) -> str | None:
        """Why others would not find the folder as it was when it was opened; None if they would."""
        try:
            now, ours = os.stat(self.path, follow_symlinks=False), os.fstat(self._fd)
        except OSError as error:
            return f"the runtime folder {self.path} is not there any more ({error.strerror})"
        if (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino):
            return f"another thing is in the place of the runtime folder {self.path}"
        wrong = _distrusted(ours)
        return wrong and f"the runtime folder {self.path} cannot be trusted any more: {wrong}"

    def leads_to(self, name: str, fd: int) -> bool:
        """Whether the file *name* is the one that *fd* has open."""
        try:
            there, ours = os.stat(name, dir_fd=self._fd, follow_symlinks=False), os.fstat(fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _open(self) -> int:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path, _OPEN_FOLDER)
        except OSError as error:
            raise RuntimeDirError(
                f"the runtime folder {self.path} cannot be used ({error.strerror}): {_REMEDY}"
            ) from None
        trouble = _distrusted(os.fstat(fd))
        if trouble is not None:
            os.close(fd)
            raise RuntimeDirError(
                f"the runtime folder {self.path} cannot be trusted: {trouble}; {_REMEDY}"
            )
        return fd

    def file(self, name: str) -> int:
        """A descriptor of the file *name*, which is made where it is missing (0600).

        Programs that this process starts do not inherit it. Raises
        :exc:`~poolguard.errors.RuntimeDirError` where it is no plain file of ours.
        """
        try:
            fd = os.open(name, _OPEN_FILE | os.O_CREAT, 0o600, dir_fd=self._fd)
        except OSError as error:
            raise self.refused(name, error.strerror) from None
        self._insist(fd, name, stat.S_ISREG)
        return fd

    def reading(self, name: str) -> int:
        """A descriptor that reads the file *name*.

        Raises :exc:`~poolguard.errors.RuntimeDirError` as :meth:`file` does, and where there is
        none.
        """
        try:
            fd = os.open(name, _READ_FILE, dir_fd=self._fd)
        except OSError as error:
            raise self.refused(name, error.strerror) from None
        self._insist(fd, name, stat.S_ISREG)
        return fd

    def names(self) -> list[str]:
        """The names of all that is in the folder."""
        return os.listdir(self._fd)

    def written_at(self, name: str) -> float:
        """When the file *name* was written last, in seconds since 1970; infinite where there is
        none."""
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mtime
        except OSError:
            return math.inf

    def rename(self, name: str, to: str) -> None:
        """Give the file *name* the name *to*."""
        os.rename(name, to, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def make_fifo(self, name: str) -> int:
        """Make the FIFO *name* anew; returns a descriptor that reads it and never sees its end."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._fd)
            os.mkfifo(name, 0o600, dir_fd=self._fd)
            # It is opened for writing too: without a writer, a reader reads end-of-file again and
            # again.
            fd = os.open(name, _OPEN_FILE, dir_fd=self._fd)
        except OSError as error:
            raise self.refused(name, error.strerror) from None
        self._insist(fd, name, stat.S_ISFIFO)
        return fd

    def ring(self, name: str) -> bool:
        """Write a byte to the FIFO *name*; False where it has no reader."""
        try:
            fd = os.open(
                name,
                os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=self._fd,
            )
        except OSError:  # ENXIO, ENOENT: its reader is gone
            return False
        try:
            os.write(fd, b"!")
        except BlockingIOError:
            pass  # it is full of rings already
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def address(self, name: str) -> str:
        """The address of a socket *name* in the folder: its path may be longer than addresses are
        (108 bytes, ``unix(7)``), and may lead elsewhere by now."""
        return f"/proc/self/fd/{self._fd}/{name}"

    def remove(self, name: str) -> None:
        """Delete the file *name*, if it is there."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self._fd)

    def close(self) -> None:
        """Let go of the folder; what is in it stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _insist(self, fd: int, name: str, kind: object) -> None:
        found = os.fstat(fd)
        assert callable(kind)
        if not kind(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            os.close(fd)
            raise self.refused(name, "it is not a plain file of this user's own")

    def refused(self, name: str, why: str | None) -> RuntimeDirError:
        return RuntimeDirError(f"{self.path / name} cannot be used ({why}): {_REMEDY}")


def _distrusted(found: os.stat_result) -> str | None:
    """Why a folder is not trusted; None where it is."""
    if found.st_uid != os.geteuid():
        return f"it belongs to uid {found.st_uid}, and this process is {os.geteuid()}"
    if found.st_mode & 0o077:
        return f"others may enter it (its mode is {stat.S_IMODE(found.st_mode):04o})"
    return None
