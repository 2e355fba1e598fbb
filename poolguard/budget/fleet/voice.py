"""What a keeper says of its fleet: once when it begins, and once when it is over."""

from __future__ import annotations

from ...util.logs import logger
from ...util.rarely import WhileItLasts
from .board import Board

__all__ = ["Voice"]

SAID_AFTER = 0.5
"""Seconds for which the ledger may be out of reach before that is said: a keeper's session that was
ended is followed by the next one at once."""


class Voice:
    """The messages of one keeper."""

    def __init__(self) -> None:
        self._silence = WhileItLasts()
        self._budgets = WhileItLasts()
        self._told = False

    def unreachable(self, ledger: str, why: str, seconds: float) -> None:
        """There has been no control session for so many *seconds*."""
        if seconds < SAID_AFTER or not self._silence.is_news(why):
            return
        self._told = True
        logger.warning(
            "poolguard: the fleet's ledger %s cannot be used (%s). This host goes on with the "
            "connections that it has, and opens no others until it can",
            ledger,
            why,
        )

    def reached(self, ledger: str) -> None:
        """There is a control session."""
        if self._told:
            logger.info("poolguard: the fleet's ledger %s can be used again", ledger)
        self._told = False
        self._silence.is_news(None)

    def budgets(self, ledger: str, ours: int, board: Board, me: int) -> None:
        """Members may disagree on the budget."""
        others = {line.budget: line.host for pid, line in board.lines.items() if pid != me}
        others.pop(0, None)
        least = min(others, default=ours)
        if not ours or least >= ours:
            self._budgets.is_news(None)
        elif self._budgets.is_news(least):
            logger.warning(
                "poolguard: the host %s of the fleet %s goes by a budget of %s, and this one by "
                "%s: the smaller rules until that host ends, or is given the same",
                others[least] or "without a name",
                ledger,
                least,
                ours,
            )
