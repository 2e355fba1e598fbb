"""How long connects took, acquires waited and connections were lent: to OpenTelemetry's histograms.

Those are made once the process has a MeterProvider, whenever somebody sets it: until then the first
durations are kept, those of the warm-up above all. Without a provider nothing is imported.

A wait and a use are recorded in the context of their request's span, so that the SDK's exemplars
lead from the histogram to the trace. A connect belongs to no request.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from ..pool.acquirer import CURRENT
from ..pool.events import (
    AcquireEnded,
    Connected,
    Listener,
    Returned,
)
from ..util.logs import logger, name_of
from .api import api
from .figures import forget
from .names import CREATE_TIME, USE_TIME, WAIT_TIME
from .request import DEFERRED_AT_MOST, Request
from .serving import lasting, local_span

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span

    from .metrics import Made

__all__ = ["MetricListener", "UseListener", "look"]


KEPT = 500
"""Durations kept while there is no provider."""
OVERDUE = 30.0
"""Seconds after which a duration waits no longer for its request to have a span."""
AWAITING_AT_MOST = DEFERRED_AT_MOST // 2
"""Durations that wait for the span of one request. The spans of its acquires wait for it, too."""


class Duration(NamedTuple):
    """What a histogram is to record."""

    histogram: str
    """Its name."""
    seconds: float
    pool: str


class _Recorder:
    """Where durations go: to the histograms, or to a shelf until there are any."""

    def __init__(self) -> None:
        self._made: Made | None = None
        self._refused: MeterProvider | None = None
        """One for which they could not be made."""
        self._failed = False
        self._kept: deque[tuple[Duration, Span | None]] = deque()
        self._awaiting: dict[Awaiting, float] = {}
        """Those whose request has no span yet, the oldest first, with the moment they came."""
        # Reentrant: a signal's handler may close a guard, which looks, while the thread that it
        # interrupts looks as well.
        self._lock = threading.RLock()
        self._making: threading.Thread | None = None

    def record(self, duration: Duration, span: Span | None = None) -> None:
        """Record it as part of the trace of *span*, whatever is current here."""
        made = self._made
        if made is not None:
            made.record(*duration, span)
            return
        if len(self._kept) < KEPT:
            self._kept.append((duration, None if span is None else lasting(span)))
        self.look()

    def record_in(self, request: Request, duration: Duration) -> None:
        """Record it as part of the trace of a *request* that may have its span only at its end."""
        awaiting = Awaiting(duration, self)
        self._awaiting[awaiting] = monotonic()
        if not request.defer(awaiting, AWAITING_AT_MOST):
            awaiting(request.span)

    def settle(self, awaiting: Awaiting, span: Span | None) -> None:
        """Record what has waited, the first time that this is called for it."""
        if self._awaiting.pop(awaiting, None) is not None:
            self.record(awaiting.duration, span)

    def settle_overdue(self) -> None:
        """A request may last for hours, as a websocket does: its waits are told meanwhile."""
        due = monotonic() - OVERDUE
        for awaiting, since in [*self._awaiting.items()]:
            if since > due:
                return
            with suppress(Exception):  # as in _unpack
                self.settle(awaiting, None)

    def look(self, wait: float = 0.0) -> None:
        if "opentelemetry.metrics" not in sys.modules:
            return
        with self._lock:
            if self._making is None and (provider := self._new_provider()) is not None:
                thread = threading.Thread(
                    target=Context().run,  # what is recorded now is no part of the trace at hand
                    args=(self._make, provider),
                    name="poolguard-metrics",
                    daemon=True,
                )
                self._making = thread
                try:
                    thread.start()
                except RuntimeError:  # the process may have no more threads: later, then
                    self._making = None
            making = self._making
        if making is None:
            self._unpack()  # what was kept while they were being made
        elif wait > 0:
            making.join(wait)

    def _new_provider(self) -> MeterProvider | None:
        """The process' provider, if its instruments are yet to be made."""
        from opentelemetry.metrics import get_meter_provider  # may wait for an import

        try:
            provider = get_meter_provider()
        except Exception as error:  # noqa: BLE001 - the environment may name one that fails to load
            if not self._failed:
                named = name_of(error)
                logger.warning("poolguard's metrics are not recorded: %s: %s", named, error)
            self._failed = True
            return None
        if type(provider).__name__ == "_ProxyMeterProvider":  # until another one is set
            return None
        known = (self._made and self._made.provider, self._refused)
        return None if any(provider is each for each in known) else provider

    def _make(self, provider: MeterProvider) -> None:
        try:
            from .metrics import Made

            self._made = Made(provider)
            self._unpack()
        except Exception:
            self._refused = provider
            logger.exception("poolguard's metrics could not be set up: they are not recorded")
        finally:
            self._making = None

    def _unpack(self) -> None:
        while self._made is not None and self._kept:
            try:
                duration, span = self._kept.popleft()
            except IndexError:
                return  # another thread does the rest
            with suppress(Exception):  # what fails now fails at each event as well, and is logged
                self._made.record(*duration, span)

    def forget(self) -> None:
        """In a forked child: the durations are the parent's, and its provider may be another."""
        self._made, self._making = None, None
        self._kept.clear()
        self._awaiting.clear()
        self._lock = threading.RLock()


class Awaiting:
    """A duration that waits for the span of its request: to be called with that, or with None."""

    __slots__ = ("_recorder", "duration")

    def __init__(self, duration: Duration, recorder: _Recorder) -> None:
        self.duration = duration
        self._recorder = recorder

    def __call__(self, span: Span | None) -> None:
        self._recorder.settle(self, span)


_recorder = _Recorder()


def _record(duration: Duration) -> None:
    """Record what this context has waited for or used, as part of its trace."""
    if api() is None:  # nobody has a trace
        _recorder.record(duration)
        return
    span, request = local_span(), CURRENT.get()
    if span is None and isinstance(request, Request):
        span = request.span
        if span is None:
            _recorder.record_in(request, duration)
            return
    _recorder.record(duration, span)


def look(wait: float = 0.0) -> None:
    """Have the instruments made if the process has a provider by now.

    That is done in a thread of its own, for which this waits at most *wait* seconds: it must wait
    for a collection that is under way, and one that was so at a fork does not end in the child.
    """
    _recorder.settle_overdue()
    _recorder.look(wait)


class MetricListener(Listener):
    """Records how long connects took, and acquires that had to wait."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    hears_immediate = False  # they have waited for nothing

    def acquire_ended(self, event: AcquireEnded, /) -> None:
        if event.outcome in ("waited", "created"):
            _record(Duration(WAIT_TIME, event.ended - event.began, event.pool))

    def connected(self, event: Connected, /) -> None:
        _recorder.record(Duration(CREATE_TIME, event.ended - event.began, event.pool))


class UseListener(MetricListener):
    """Records how long connections are lent as well: one record more for each acquire."""

    def returned(self, event: Returned, /) -> None:
        _record(Duration(USE_TIME, event.ended - event.began, event.pool))


def _after_fork_in_child() -> None:
    forget()
    _recorder.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
