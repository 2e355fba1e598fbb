"""How many connections a guard's pool has: from the settings to the plan, and what rules over that.

The plan follows the settings, or the server's capacity where those say so. The ledger holds all
processes of the host to it: where their plans disagree the smaller one rules, and where others hold
sessions at the server there may be less room than was planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Literal, Protocol

from ..budget.capacity import Capacity
from ..budget.ledger import Ledger
from ..budget.plan import Plan, known_budget, make_plan, shares, took_the_reserve
from ..budget.queries import Row
from ..budget.static import StaticLedger
from ..budget.terms import Granted, Terms
from ..errors import PlanError
from ..pool.arguments import PoolArguments
from ..settings import Settings
from ..util.escape import escaped
from ..util.logs import logger
from ..util.rarely import Once, WhileItLasts
from ..worker import context
from .ledgers import open_ledger
from .room import ASK_AGAIN_WHEN_SHORT, SIBLINGS_LEARN, Room

__all__ = ["Bounds", "Sized", "Sizing"]

Bounds = tuple[int, int]
"""A pool's min_size and max_size."""

MOST_NAMED = 6
"""Other services that are named where they leave too little room."""


class Sized(Protocol):
    """The pool, as far as its size goes."""

    @property
    def leaving(self) -> bool: ...

    def inquired(self, *, has_room: bool, again: float | None) -> None: ...

    def inquire_after(self, seconds: float, /) -> None: ...


class Sizing:
    """The plan and the ledger of one guard while it is open.

    :param alive: whether the guard is still open in this process.
    :param resize_soon: gives the pool other bounds, beside whatever calls it.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        given: PoolArguments,
        alive: Callable[[], bool],
        resize_soon: Callable[[Bounds], None],
    ) -> None:
        self.name = name
        self.settings = settings
        self._given = given
        self._alive = alive
        self._resize_soon = resize_soon
        self.pool: Sized | None = None
        self.plan: Plan | None = None
        self.ledger: Ledger = StaticLedger(0)
        self.ledger_named: dict[str, str] | None = None
        """Of which kind the ledger is, and the name that all guards of the same database have in
        common; None until it is made."""
        self.behind_pooler = settings.pooler in ("session", "transaction")
        self.room = Room()
        self._granted: Granted | None = None
        self._shares: tuple[int | None, int | None, int | None] = (None, None, None)
        self._asked = False
        """The server has been asked for its capacity."""
        self._silence = Once()
        self._ruling = _Ruling(self)

    def __repr__(self) -> str:
        return f"<Sizing {self.name!r} {self.ledger!r} {self.room!r}>"

    @property
    def share(self) -> int | None:
        """The connections that this host may hold to this database; None until there is a plan.

        Where other databases of the server are used here, too, it is what the processes of this one
        have a right to while those want the rest.
        """
        if self.plan is None:
            return None
        part = self.ledger.usage.database_share if self.settings.ledger != "static" else None
        return self.plan.instance if part is None else min(self.plan.instance, part)

    # -- at the start --------------------------------------------------------------------------

    def begin(self) -> Bounds:
        """Take part in the ledger, and say how large the pool is to begin with.

        Where the budget follows the server's capacity, and no sibling has published that, it has
        one connection, which asks. Raises :exc:`~poolguard.errors.PlanError` where the budget is
        too small.
        """
        by_settings = self.behind_pooler or known_budget(self.settings) is not None
        plan = self._planned(None) if by_settings else None  # a budget too small makes no ledger
        self.ledger, self.ledger_named = open_ledger(self.name, self.settings, self._given.kwargs)
        if plan is None:
            plan = self._by_siblings()
        bounds = (1, 1) if plan is None else self.agree(plan)
        self.ledger.on_change(self._learn)
        return bounds

    # -- plans ---------------------------------------------------------------------------------

    def _by_siblings(self) -> Plan | None:
        """The plan by what a sibling has learned from the server, if one has."""
        published = self.ledger.published
        if published is None or published.server is None or self.behind_pooler:
            return None
        try:
            return self._planned(Capacity(published.server, published.role, published.database))
        except PlanError:
            return None  # our own question to the server will tell it, and is asked again

    def _planned(self, capacity: Capacity | None, *, pooled: bool = False) -> Plan:
        pooler: Literal["session", "transaction"] | None = None
        if pooled or self.behind_pooler:
            pooler = "session" if self.settings.pooler == "session" else "transaction"
        workplace = context.current().workplace
        runs = self.plan is not None or _service_runs(self.ledger, self.settings)
        plan = make_plan(capacity, self.settings, workplace, pooler=pooler, runs=runs)
        self._shares = shares(plan, capacity, self.settings)
        self._granted = capacity and Granted(capacity.server, capacity.role, capacity.database)
        return plan

    def agree(self, plan: Plan) -> Bounds:
        """Go by this plan from now on."""
        self.plan = plan  # before the ledger calls back, which must not begin this anew
        room = self.room.limit  # once: another thread may find another one meanwhile
        own = plan.instance if room is None else min(plan.instance, room)
        # What binds less than the plan does is not what others have left too little of.
        each: Iterable[int | None]
        if plan.ledger == "fleet":  # what others leave to this host is no concern of the others
            each = (plan.budget, None if own == plan.instance else own)
        else:
            each = (n if n is None or n > plan.instance else own for n in self._shares)
        terms = Terms(self.as_left(room), own, plan.workers, plan.floor, *each)
        self._ruling.note(self.ledger.agree(terms).instance)
        return plan.floor, plan.max_size

    def as_left(self, room: int | None) -> Granted | None:
        """What the server grants, as far as others leave it; None where nobody has asked."""
        return self._granted if room is None else (self._granted or Granted(None)).within(room)

    @property
    def has_own_part(self) -> bool:
        """Its limit is less than the share, and no other process' plan is the reason."""
        return self.settings.ledger == "static" or self.ledger.partitioned

    def _learn(self) -> None:
        """The ledger's callback: a sibling may have come, gone, or learned the server's capacity
        before us."""
        if not self._alive():
            return
        if self.plan is None:
            plan = self._by_siblings()
            if plan is not None:
                self._resize_soon(self.agree(plan))
        elif (share := self.ledger.limit) is not None:
            self._ruling.hear(share)

    # -- what the server says ------------------------------------------------------------------

    def must_ask(self, *, recovering: bool) -> bool:
        """Whether a new connection is to ask for the capacity: the first one, and the first
        after an outage, in which the server may have been given another configuration, or after the
        server had no room."""
        if self.behind_pooler:
            return False
        first = known_budget(self.settings) is None and not self._asked
        return first or (recovering and (self.room.refused or known_budget(self.settings) is None))

    def goes_on_unasked(self, error: Exception) -> bool:
        """Whether a connection is of use that could not ask: siblings have told the capacity. The
        next one asks again."""
        if self.plan is None:
            return False
        if self._silence.is_first("it does not tell"):
            logger.warning(
                "poolguard %r: the server does not tell what it grants (%s); the plan follows what "
                "it has told other processes",
                self.name,
                type(error).__name__,
            )
        return True

    def adopt(self, row: Mapping[str, Any]) -> Bounds:
        """Make the plan from what the server grants."""
        capacity = Capacity.from_row(row)
        plan = self.plan
        if plan is None or known_budget(self.settings) is None:
            plan = self._planned(capacity)
        known = self.plan and (self.plan.capacity, self.plan.short)
        changed = known != (plan.capacity, plan.short)
        told = self.ledger.published
        published = None if told is None else told.least
        if self.room.refused or (
            changed and (self._asked or published not in (None, plan.capacity))
        ):
            self._ruling.let_siblings_learn()
        if changed and published != plan.capacity:
            for warning in plan.warnings:  # the first process to know says them
                logger.warning("poolguard %r: %s", self.name, warning)
        self._asked = True
        self._note_room(plan, self.ledger.usage.established + (capacity.free_now or 0))
        return self.agree(plan)

    def adopt_pooler(self) -> None:
        """There is a pooler before the server, whose capacity says nothing then.

        Raises :exc:`~poolguard.errors.PlanError`, each time, where the budget was to follow it.
        """
        if not self.behind_pooler:
            self.agree(self._planned(None, pooled=True))
            self.behind_pooler = True

    def try_for_room(self) -> Bounds:
        """What a pooler has room for is found out by trying."""
        self.room.forget_if_old(monotonic())
        return (1, 1) if self.plan is None else self.agree(self.plan)

    def was_asked(self, pool: Sized, *, told: bool) -> None:
        """The server was asked, and has *told* what it grants or not: when to ask it again."""
        can_change = not self.behind_pooler and known_budget(self.settings) is None
        again = self.room.ask_again_after(self.plan, can_change=can_change)
        pool.inquired(has_room=told and self.room.limit is None, again=again)

    # -- what others leave ---------------------------------------------------------------------

    def _note_room(self, plan: Plan, room: int) -> None:
        limit = self.ledger.limit
        felt = self.room.refused or (limit is not None and limit < plan.instance)
        self.room.note(room, plan.instance, monotonic(), felt=felt and not self.has_own_part)

    def when_refused(self) -> None:
        """The pool's callback: the server had no room for a connection that the plan allows."""
        self.room.refused = True
        plan = self.plan
        if plan is None or self.has_own_part or not self._alive():
            return
        before = self.room.of(plan.instance)
        # A guess, until the server has been asked. What siblings have given up for this connect may
        # not be free at the server yet, so the guess leaves one to each.
        self._note_room(plan, max(self.ledger.usage.established, self.ledger.usage.processes))
        if self.room.of(plan.instance) != before:
            self.agree(plan)

    def when_voiceless(self) -> None:
        """The pool's callback: there is no connection to ask with, so that it has to be tried."""
        if self.pool is not None and self._alive() and self.room.limit is not None:
            self.room.limit = None
            self.pool.inquired(has_room=True, again=ASK_AGAIN_WHEN_SHORT)
            if self.plan is not None:
                self.agree(self.plan)

    def note_others(self, told: Sequence[Row]) -> None:
        """Other services hold so many connections, and leave less than our share."""
        known, self.room.others = self.room.others, [dict(each) for each in told]
        if known or self.plan is None:
            return
        named = ", ".join(
            f"{each['connections']} of {each['role']}"
            + (f" ({each['application']})" if each["application"] else "")
            for each in self.room.others[:MOST_NAMED]
        )
        logger.warning(
            "poolguard %r: the server has room for %s connections of this host, whose share is %s. "
            "All sessions there: %s. Have others hold fewer, or raise what the server grants",
            self.name,
            self.room.limit,
            self.plan.instance,
            escaped(named),
        )


def _service_runs(ledger: Ledger, settings: Settings) -> bool:
    """The service runs, and is not stopped by a server that grants less than it did."""
    if not context.current().first_generation:
        return True
    published, share = ledger.published, ledger.limit
    known = None if published is None else published.least
    if known is None or share is None or known_budget(settings) is not None:
        return False
    return took_the_reserve(known, share, settings)


class _Ruling:
    """Whose plan rules: siblings' smaller ones are heard, and warned of once."""

    def __init__(self, sizing: Sizing) -> None:
        self._sizing = sizing
        self._heard: tuple[Granted | None, int] | None = None
        """The capacity and share of siblings that the server was asked about last."""
        self._smaller = WhileItLasts()
        """The smaller share of another process, which is warned of."""

    def let_siblings_learn(self) -> None:
        """The server grants something else now, which siblings have yet to hear."""
        self._sizing.room.learning_until = monotonic() + SIBLINGS_LEARN

    def hear(self, share: int) -> None:
        """The ledger has news, and its limit is *share* now."""
        sizing = self._sizing
        heard = (sizing.ledger.published, share)
        if heard != self._heard and self._is_news(heard[0]) and sizing.pool is not None:
            sizing.pool.inquire_after(0.0)
        self._heard = heard
        if sizing.plan is not None and (
            share >= sizing.room.of(sizing.plan.instance) or not sizing.has_own_part
        ):
            self.note(share)

    def note(self, share: int) -> None:
        """Warn once while another process' smaller *share* rules."""
        sizing = self._sizing
        plan = sizing.plan
        leaves = sizing.pool is not None and sizing.pool.leaving
        if plan is None or leaves or share >= sizing.room.of(plan.instance):
            self._smaller.is_news(None)
        elif self._is_news(sizing.ledger.published) or monotonic() < sizing.room.learning_until:
            return  # it is not by its settings that the other has less
        elif share != sizing.ledger.limit:
            return  # it has just changed, and that is told of again
        elif self._smaller.is_news(share):
            logger.warning(
                "poolguard %r: another process on this host goes by a share of %s connections, and "
                "this one by %s: the smaller rules until that process ends",
                sizing.name,
                share,
                plan.instance,
            )

    def _is_news(self, published: Granted | None) -> bool:
        """Whether siblings have learned something of the server that is not known here."""
        sizing = self._sizing
        if sizing.plan is None or published is None:
            return False
        known = sizing.as_left(sizing.room.limit)
        if known is None:  # the budget is a number, and of interest only what grants less
            return published.least is not None and published.least < sizing.plan.instance
        return any(None not in (a, b) and a != b for a, b in zip(published, known, strict=True))
