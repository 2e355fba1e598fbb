"""The keeper: the one process of a host that has its control session, and how it is chosen.

Every process of the host has a keeper's part. The one that holds the lock of the present reign
(:mod:`.file`) is the keeper, and a thread of its own does the work (:mod:`.reigning`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from ..host.access import Access
from ..ledger import Orphans
from .control import CONNECT_TIMEOUT
from .doorbell import BELL, SOCKET
from .file import FleetFile, Reign
from .grants import GrantedSlots
from .joining import Estate, FleetSettings
from .own import OwnHost
from .reigning import Reigning
from .statements import CONTROL_TIMEOUT
from .steps import Figures
from .succession import SessionCopy

__all__ = ["DEPOSED_AFTER", "FleetSettings", "Keeper"]

DEPOSED_AFTER = 3.0
"""Seconds after which a keeper is replaced that was asked for something and has not stirred."""
DEPOSED_AS_IT_JOINS = CONNECT_TIMEOUT + CONTROL_TIMEOUT + 1.0
"""The same for one that has no control session yet: nothing stirs as it connects."""
DEPOSED_AT_REST = 75.0
"""The same for one that was asked for nothing: it stirs each time it looks at the board."""
HEIRS_FIRST = 0.5
"""Seconds for which a process without a copy of the session waits for one that has a copy."""
STOP_TIMEOUT = 2.0
"""Seconds that the end of the thread is waited for."""


class Keeper:
    """One process' part in keeping the host's control session.

    :param orphans: those that the keeper is to ask the server about; None: that is left to others.
    :param figures: what the host's processes have and need.
    :param catch_up: has this process see anew what it has a right to, and its pools look at that.
    """

    def __init__(
        self,
        access: Access,
        file: FleetFile,
        slots: GrantedSlots,
        settings: FleetSettings,
        *,
        orphans: Orphans | None,
        figures: Callable[[], Figures | None],
        catch_up: Callable[[], None],
    ) -> None:
        self._host = OwnHost(
            access, file, slots, orphans=orphans, figures=figures, catch_up=catch_up
        )
        self._file = file
        self._folder = access.folder
        self._settings = settings
        self._bell = BELL.format(access.name)
        self._copy = SessionCopy(
            access.folder, SOCKET.format(access.name), self.ring, bell=access.members.bell
        )
        self._mutex = threading.Lock()
        """Held while it is decided whether this process is to reign."""
        self._reigning: Reigning | None = None
        """This process' own reign; None while another one reigns."""
        self._thread: threading.Thread | None = None
        self._vacant_since: float | None = None
        """Since when no process has reigned, as far as this one has seen."""
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Keeper {self._host.name} {self._reigning or 'another reigns'}>"

    @property
    def reigns(self) -> bool:
        """This process is the keeper."""
        return self._reigning is not None

    @property
    def is_heard(self) -> bool:
        """This process is the keeper, or hears when the keeper's process ends."""
        return self.reigns or self._copy.hears

    def fileno(self) -> int:
        """Readable when the process' bell rings, or when there is something to :meth:`hear`."""
        return self._copy.fileno()

    def hear(self) -> None:
        """See what the keeper's process has sent, or whether it has ended: then another one is to
        reign."""
        self._copy.hear()
        self.consider()

    def is_granting(self) -> bool:
        """Whether the control session lives that granted this host its slots."""
        number = self._file.number()
        return number != 0 and self._copy.is_alive(number)

    def ask(self) -> None:
        """Something is needed that the keeper can do. Another one is chosen where it does not."""
        now = monotonic()
        asked, seen = self._file.asked_at, self._file.reign().seen_at
        if not 0 < asked <= now or asked < seen:
            self._file.write_asked(now)
        self.ring()
        self.consider()

    def ring(self) -> None:
        """Wake the keeper."""
        if (reigning := self._reigning) is not None:
            reigning.wake()
        else:
            self._folder.ring(self._bell)

    def consider(self) -> None:
        """Begin to reign where no process does, or one that does not stir."""
        if self.reigns or self._stopped or not self._mutex.acquire(blocking=False):
            return
        try:
            reign = self._file.reign()
            knows = self._copy.knows(reign.number)
            if reign.number and self._file.is_kept(reign.number) and not self._is_idle(reign):
                self._vacant_since = None
            elif self._host.may_keep() and self._is_heir(reign, knows=knows):
                self._begin(reign)
        finally:
            self._mutex.release()

    def drain(self) -> None:
        """This process will end: another one is to reign, where one goes on."""
        reigning = self._reigning
        if reigning is not None and not self._host.may_keep():
            reigning.ends = True
        self.ring()

    def stop(self) -> None:
        """Reign no longer, and never again. The session goes on where others can keep it."""
        self._stopped = True
        reigning, thread = self._reigning, self._thread
        if reigning is not None:
            reigning.ends = True
            reigning.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_TIMEOUT)

    def close(self) -> None:
        """Close what this process has of it, once it has stopped."""
        self._copy.close()

    def disown(self) -> None:
        """In a forked child: the session and all locks are the parent's."""
        self._stopped = True
        reigning, self._reigning = self._reigning, None
        if reigning is not None:
            reigning.disown()
        self._copy.close()

    def _is_idle(self, reign: Reign) -> bool:
        """Whether the keeper has been asked, and does not stir: it is stopped, or hangs."""
        now = monotonic()
        asked = self._file.asked_at
        patience = DEPOSED_AFTER if reign.pid else DEPOSED_AS_IT_JOINS
        if asked > reign.seen_at and now - asked > patience:
            return True
        return now - reign.seen_at > DEPOSED_AT_REST

    def _is_heir(self, reign: Reign, *, knows: bool) -> bool:
        """Whether it falls to this process to succeed: one that has no copy of the session leaves
        it to those that have one, for a while."""
        if knows or not reign.number:
            return True
        now = monotonic()
        if self._vacant_since is None:
            self._vacant_since = now
            self._host.ring_siblings()
        return now - self._vacant_since > HEIRS_FIRST

    def _begin(self, reign: Reign) -> None:
        """Succeed the *reign*, unless another process is faster."""
        session = self._copy.take(reign.number)
        estate = Estate(self._host.granted_free(), reign.pid, reign.slot, session)
        number = reign.number + 1
        if not self._file.begin(number):
            estate.close()
            return
        self._vacant_since = None
        self._reigning = Reigning(self._settings, self._host, self._copy, number, estate=estate)
        self._thread = threading.Thread(
            target=self._run, args=(self._reigning,), name="poolguard-fleet", daemon=True
        )
        self._thread.start()

    def _run(self, reigning: Reigning) -> None:
        try:
            reigning.run()
        finally:
            self._reigning = None
