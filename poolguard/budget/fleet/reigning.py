"""The thread of a host's keeper: it has the control session, loses it, and has the next one."""

from __future__ import annotations

import os
import random
import threading
from contextlib import suppress
from time import monotonic

from ...errors import RuntimeDirError
from ...util.logs import logger
from ..sharing import NOTHING_OWED
from .control import Lost
from .doorbell import Doorbell
from .file import Reign
from .joining import Estate, FleetSettings, Joining
from .notes import Note
from .own import OwnHost
from .policy import Policy
from .session import Session
from .succession import SessionCopy
from .voice import Voice

__all__ = ["Reigning"]

RETRY = (0.05, 2.0)
"""Seconds between two attempts to have a control session: at first, and at most."""


class Reigning:
    """The time in which this process is the keeper, from the reign *number* on.

    :param estate: what the reign before has left.
    :param copy: this process' own copy of the session.
    """

    def __init__(
        self,
        settings: FleetSettings,
        host: OwnHost,
        copy: SessionCopy,
        number: int,
        *,
        estate: Estate,
    ) -> None:
        self.number = number
        self.policy = Policy(settings.host)
        self.ends = False
        """It is to end soon."""
        self._host = host
        self._copy = copy
        self._estate = estate
        self._voice = Voice()
        self._joining = Joining(settings, host, self.policy, self._voice)
        self._session: Session | None = None
        self._doorbell: Doorbell | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_lock = threading.Lock()
        """Held while that is written to, or closed: its number may then be another file's."""
        self._unreachable_since = 0.0

    def __repr__(self) -> str:
        return f"<Reigning {self.number} {self.policy!r}>"

    def wake(self) -> None:
        """Have the thread look at what there is to do."""
        with self._wake_lock, suppress(BlockingIOError):
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Reign until it is to end, or another process has begun to."""
        try:
            self._doorbell = Doorbell(self._host, self._wake)
            self._reign(self._doorbell)
        except RuntimeDirError as error:
            logger.warning("poolguard: %s. Another process is to keep the fleet's session", error)
        except Exception:
            logger.exception("poolguard: the keeper of the fleet's session has failed")
        finally:
            self._step_down()

    def disown(self) -> None:
        """In a forked child: the session is the parent's."""
        if self._session is not None:
            self._session.control.leave_open()
        if self._doorbell is not None:
            self._doorbell.close()
        if self._wake >= 0:
            os.close(self._wake)

    @property
    def _is_over(self) -> bool:
        return self.ends or self._host.file.number() != self.number

    def _reign(self, doorbell: Doorbell) -> None:
        pause = RETRY[0]
        while not self._is_over:
            try:
                if self._session is None:
                    self._session = self._have_session(doorbell)
                    pause = RETRY[0]
                self._work(self._session, doorbell)
            except Lost as lost:
                doorbell.give(self.number, None)
                self._lose(lost)
                if not self._is_over:
                    doorbell.wait(random.uniform(0.5, 1.0) * max(pause, lost.again))
                    pause = min(RETRY[1], 2 * pause)

    def _work(self, session: Session, doorbell: Doorbell) -> None:
        """Do all that is due, and wait for what comes next. Raises :exc:`.Lost`."""
        self._stir(self.policy.me)
        while session.work():
            if self._is_over:
                return
        doorbell.wait(session.rest())

    def _stir(self, pid: int = 0) -> None:
        """Give a sign of life.

        :param pid: of the control session; 0 while there is none.
        """
        self._host.file.write_reign(Reign(self.number, pid, self.policy.slot, monotonic()))

    def _have_session(self, doorbell: Doorbell) -> Session:
        """Join, and grant what may be granted. Raises :exc:`.Lost`."""
        self._stir()
        session, sole = self._joining.join(self._estate)
        if self._is_over:
            session.control.close()
            raise Lost("another process keeps it now")
        session.control.waits = lambda: self._stir(self.policy.me)
        self._estate.close()
        self._estate = Estate()
        self._unreachable_since = 0.0
        self._host.file.write_trouble(self.number, "")
        self._voice.reached(self._host.name)
        self._stir(self.policy.me)
        self._copy.keep(self.number, session.control.fileno())
        doorbell.give(self.number, session.control)
        session.note_standing()
        self._host.grant(sole)
        self._host.ring_all()
        return session

    def _lose(self, lost: Lost) -> None:
        """There is no session any more, or still none: what was granted is withheld, by another
        reign. Where another process keeps it now, that is no news of this host's."""
        session, self._session = self._session, None
        if session is not None:
            free = self._host.granted_free()
            session.control.close()
            if self._host.file.begin(self.number + 1):
                before, self.number = self.number, self.number + 1
                self._host.file.end(before)
                self._estate = Estate(free, self.policy.me, self.policy.slot)
                self._host.order(NOTHING_OWED)
        if self._is_over:
            return
        now = monotonic()
        self._unreachable_since = self._unreachable_since or now
        self._host.file.write_trouble(self.number, str(lost))
        self._voice.unreachable(self._host.name, str(lost), now - self._unreachable_since)

    def _step_down(self) -> None:
        """Reign no longer, and leave the session to whoever has a copy, if there is anyone."""
        session, self._session = self._session, None
        if session is not None and self._host.file.number() == self.number:
            if self._host.others_live():
                session.control.leave_open()
            else:
                with suppress(Lost):
                    session.say(Note("bye", self.policy.me))
        if session is not None:
            session.control.close()
        if self._doorbell is not None:
            self._doorbell.close()
        self._estate.close()
        self._host.file.end(self.number)
        self._host.ring_all()
        with self._wake_lock:
            os.close(self._wake)
            self._wake = -1
