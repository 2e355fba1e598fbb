"""What a keeper waits for: a ring of its host's processes, and news of its control session.

It is open while the keeper reigns. The processes that ask for a copy of the session are served as
it waits.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress

from .control import Control
from .own import OwnHost
from .succession import Bequest

__all__ = ["BELL", "SOCKET", "Doorbell"]

BELL = "{}.keeper.bell"
"""The name of the FIFO by which a host's processes wake their keeper."""
SOCKET = "{}.keeper"
"""The name of the socket over which they get copies of its session."""


class Doorbell:
    """Opens what a keeper is asked by.

    :param wake: an eventfd by which this process wakes its own thread.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where the folder cannot be used.
    """

    def __init__(self, host: OwnHost, wake: int) -> None:
        self._host = host
        self._wake = wake
        self._bequest = Bequest(host.folder, SOCKET.format(host.name))
        try:
            self._bell = host.folder.make_fifo(BELL.format(host.name))
        except BaseException:
            self._bequest.close()
            raise
        self._number = 0
        self._control: Control | None = None

    def give(self, number: int, control: Control | None) -> None:
        """*control* is the session of the reign *number* from now on; None: there is none."""
        self._number, self._control = number, control
        if control is not None:
            self._bequest.give(number, control.fileno())

    def wait(self, timeout: float) -> None:
        """Wait so many seconds at most. Raises :exc:`.Lost` where the session has ended."""
        poll = select.poll()  # by its module: gevent's, where that has replaced it
        control = self._control
        descriptors = [self._wake, self._bell, self._bequest.fileno()]
        if control is not None:
            descriptors.append(control.fileno())
        for fd in descriptors:
            poll.register(fd, select.POLLIN)
        found = {fd for fd, _ in poll.poll(timeout * 1000.0)}
        with suppress(BlockingIOError):
            if self._wake in found:
                os.eventfd_read(self._wake)
        with suppress(BlockingIOError):
            if self._bell in found:
                os.read(self._bell, 4096)
        if control is not None and control.fileno() in found:
            control.listen()
        asked = self._bequest.welcome(self._number, -1 if control is None else control.fileno())
        if asked and control is not None:
            self._host.ring_all()

    def close(self) -> None:
        """Close all of it. The copies that were given stay."""
        self._bequest.close()
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
