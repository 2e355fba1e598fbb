"""What a process does for the ledger now and then: repairs, warnings, and a look for the dead."""

from __future__ import annotations

import logging
from contextlib import suppress

from ..ledger import Say
from .access import Access
from .agreement import Agreement
from .held import HeldSlots
from .orphans import HostOrphans
from .view import View

__all__ = ["Maintenance"]


class Maintenance:
    """Implements :meth:`.Ledger.maintain`."""

    def __init__(
        self,
        access: Access,
        view: View,
        held: HeldSlots,
        agreement: Agreement,
        orphans: HostOrphans,
    ) -> None:
        self._access = access
        self._view = view
        self._held = held
        self._agreement = agreement
        self._orphans = orphans
        self._warned: str | None = None

    def maintain(self, say: Say) -> bool:
        """Repair what others have done to the file, and see what a lost ring would have told."""
        access = self._access
        with access.lock:
            if access.closed:
                return False
            with suppress(OSError):  # no room on the disk, which others need more
                access.file.repair()
            self._held.restore()
            access.members.restore()
            self._agreement.divide()
            self._view.look(within=0)
            self._warn(say)
            return self._orphans.sweep()

    def _warn(self, say: Say) -> None:
        """Say once what is wrong with the folder or the file."""
        access = self._access
        path = access.folder.path / access.name
        wrong = access.folder.trouble()
        if wrong is None and not access.file.is_found(access.folder):
            wrong = f"the ledger {path} was deleted or replaced"
        elif wrong is None and access.partitions.count > 1:
            wrong = f"not all processes share the ledger {path}"
        if wrong is not None and self._warned is None:
            say(
                logging.WARNING,
                f"poolguard: {wrong}. Processes that have it open go on sharing it. Those that "
                f"start now do not find it, and the budget is divided equally between them. A "
                f"reload ends that, once the folder is as it should be",
            )
        self._warned = wrong
