"""How a control session outlives its keeper: each process of the host has a copy of its socket.

So each process sees by itself that the session has ended, and with it all that was granted. And
where the keeper is killed, its session stays as it is until a successor has leased everything anew.
The copies are passed over a socket in the runtime folder (``SCM_RIGHTS``, ``unix(7)``).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from ...util.gevent_originals import WATCHES, Epoll, Poll, Socket
from ...util.rundir import RuntimeDir

__all__ = ["Bequest", "SessionCopy", "has_ended", "shut"]

_NUMBER = struct.Struct("=I")
MOST_WAITING = 512
"""Processes that may wait to be given a copy."""


class Bequest:
    """The keeper's side: it gives every process that asks a copy of its session's socket."""

    def __init__(self, folder: RuntimeDir, name: str) -> None:
        self._heirs: list[socket.socket] = []
        self._server = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        folder.remove(name)
        try:
            self._server.bind(folder.address(name))
            self._server.listen(MOST_WAITING)
        except OSError as error:
            self._server.close()
            raise folder.refused(name, error.strerror) from None
        self._server.setblocking(False)

    def fileno(self) -> int:
        """Readable while a process asks."""
        return self._server.fileno()

    def welcome(self, number: int, fd: int) -> bool:
        """Give a copy of *fd*, the session of the reign *number*, to those that ask; -1: there is
        none yet. Returns whether any has asked."""
        new: list[socket.socket] = []
        with suppress(OSError):
            while True:
                heir, _ = self._server.accept()
                heir.setblocking(False)
                new.append(heir)
        self._heirs += new
        if fd >= 0:
            self._give(new, number, fd)
        return bool(new)

    def give(self, number: int, fd: int) -> None:
        """Give all a copy of *fd*, which is the session of the reign *number* from now on."""
        self._give([*self._heirs], number, fd)

    def _give(self, heirs: list[socket.socket], number: int, fd: int) -> None:
        for heir in heirs:
            try:
                socket.send_fds(heir, [_NUMBER.pack(number)], [fd])
            except OSError:  # it has ended
                self._heirs.remove(heir)
                heir.close()

    def close(self) -> None:
        """Give no more. The copies that were given stay."""
        for each in (*self._heirs, self._server):
            each.close()
        self._heirs.clear()


class SessionCopy:
    """Any process' side: its copy of the host's control session.

    :param on_wish: called when the keeper is asked for one, which may sleep.
    :param bell: a descriptor that is watched as well.
    """

    def __init__(
        self, folder: RuntimeDir, name: str, on_wish: Callable[[], None], *, bell: int
    ) -> None:
        self._bell = bell
        self._ears: select.epoll | None = None
        if WATCHES:
            self._ears = Epoll()
            self._ears.register(bell, select.EPOLLIN)
        self._folder = folder
        self._name = name
        self._on_wish = on_wish
        self._keeper: socket.socket | None = None
        self._fd = -1
        self._number = 0
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Readable when there is something to :meth:`hear`, or the bell is; -1 once closed."""
        return self._bell if self._ears is None else self._ears.fileno()

    @property
    def hears(self) -> bool:
        """The end of the keeper's process will be heard."""
        return self._ears is not None and self._keeper is not None

    def hear(self) -> None:
        """Take what the keeper has sent, and note whether its process has ended."""
        with self._lock:
            if self._keeper is not None:
                self._read(None)

    def is_alive(self, number: int) -> bool:
        """Whether the session of the reign *number* is known here, and has not ended."""
        with self._lock:
            return self._is_alive(number)

    def knows(self, number: int) -> bool:
        """Whether there is a copy of the session of the reign *number*, which may have ended.

        A copy of an earlier session is closed: it would keep that session alive.
        """
        with self._lock:
            if self._number != number:
                self._let_go()
                self._receive(number)
            return self._number == number

    def keep(self, number: int, fd: int) -> None:
        """Have a copy of *fd*, this process' own session of the reign *number*."""
        with self._lock:
            self._let_go()
            self._fd, self._number = os.dup(fd), number

    def take(self, number: int) -> int | None:
        """The descriptor of that session, for the caller to close; None where it is not known or
        has ended."""
        with self._lock:
            if not number or not self._is_alive(number):
                return None
            fd, self._fd, self._number = self._fd, -1, 0
            return fd

    def close(self) -> None:
        """Close this process' copy. Takes no lock, which may be held for ever in a forked child."""
        if self._ears is not None:
            self._ears.close()
            self._ears = None
        self._bell = -1
        self._hang_up()
        self._let_go()

    def _hang_up(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            if self._ears is not None:  # the socket's end alone would not do: a fork may have it
                self._ears.unregister(keeper)
            keeper.close()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._number = -1, 0

    def _is_alive(self, number: int) -> bool:
        if self._number != number and not self._receive(number):
            return False
        return not has_ended(self._fd)

    def _receive(self, number: int) -> bool:
        """Take what the keeper has sent, and ask it first where that was not done yet."""
        for _ in range(2):
            if self._keeper is None and not self._connect():
                return False
            if self._read(number):
                return True
            if self._keeper is not None:
                return False  # it has not answered yet
        return False

    def _connect(self) -> bool:
        keeper = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        keeper.setblocking(False)
        try:
            keeper.connect(self._folder.address(self._name))
        except OSError:  # there is no keeper, or it has too much to do
            keeper.close()
            return False
        if self._ears is not None:
            self._ears.register(keeper, select.EPOLLIN)
        self._keeper = keeper
        self._on_wish()
        return True

    def _read(self, number: int | None) -> bool:
        """Take what was sent, up to the session of the reign *number*; whether that was there."""
        assert self._keeper is not None
        while True:
            try:
                told, fds, _, _ = socket.recv_fds(
                    self._keeper, _NUMBER.size, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            except OSError:
                told, fds = b"", []
            if not told:  # that keeper has ended
                self._hang_up()
                return False
            for fd in fds:
                self._let_go()
                self._fd, self._number = fd, _NUMBER.unpack(told)[0]
            if self._number == number:
                return True


def shut(fd: int) -> None:
    """End the session whose socket *fd* is a copy of, for all that have one, and close it."""
    with socket.socket(fileno=fd) as sock, suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def has_ended(fd: int) -> bool:
    """Whether the session has ended whose socket *fd* is, or is a copy of."""
    poll = Poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))
