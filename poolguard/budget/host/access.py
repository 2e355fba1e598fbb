"""One process' access to the ledger's file: opened once, closed once, never used in a forked child.

It has the lock that all threads of the process hold while they read or decide anything.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

from ...errors import ForkError, RuntimeDirError
from ...util.rundir import RuntimeDir
from ..callbacks import Callbacks
from ..terms import Scope
from .file import HostFile
from .locktable import LockTable
from .members import Members
from .partitions import Partitions, Undivided
from .supply import Supply

__all__ = ["Access"]


class Access:
    """What one part of the ledger opens, and closes in the end: *folder* as well.

    :param supply: where the slots come from, if they are not this host's own.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where the file is no ledger.
    """

    def __init__(
        self, folder: RuntimeDir, name: str, scope: Scope, supply: Supply | None = None
    ) -> None:
        self.folder = folder
        self.name = name
        self.scope = scope
        """The database and the role whose limits bind this process' connections."""
        self.lock = threading.Lock()
        self.callbacks = Callbacks()
        """To be called without the lock."""
        self.closed = True  # until all of it is open
        self._forked = False
        self.supply = supply
        make_slots = LockTable if supply is None else supply.slots
        self.file = HostFile(folder, f"{name}.ledger", make_slots)
        try:
            self.members = Members(self.file, folder, name, scope)
            # To a fleet, processes of one host that do not share a file are as many hosts.
            self.partitions = (
                Partitions(folder.path, name, self.file.inode) if supply is None else Undivided()
            )
        except BaseException:
            self.file.close()
            raise
        self.closed = False
        _open.add(self)

    def insist_open(self) -> None:
        """Raise :exc:`~poolguard.errors.PoolguardError` where it cannot be used any more."""
        if self._forked:
            raise ForkError(
                "this ledger was opened before the process was forked: open the guard in the child"
            )
        if self.closed:
            raise RuntimeDirError(f"the ledger {self.name} is closed: open the guard again")

    def close(self) -> None:
        """Take no part any more. A slot that is still held stays taken, as a dead process' does."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            self.members.look(within=0)
            self.members.leave()
            self.partitions.close()
            self.members.ring()  # what was guaranteed to it is divided anew
            self.file.close()
            self.folder.close()

    def __del__(self) -> None:
        """The event loop of a pool may have ended before the pool was closed."""
        if not getattr(self, "closed", True):
            self.close()

    def disown(self) -> None:
        """In a forked child: the locks are the parent's, for as long as it lives.

        The threads' lock is not taken, since one that was held at the fork is held for ever.
        """
        if not self.closed:
            self.closed = self._forked = True
            self.members.close()
            self.file.close()
            self.folder.close()


_open: WeakSet[Access] = WeakSet()


def _after_fork_in_child() -> None:
    for access in list(_open):
        access.disown()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
