"""The process that is measured: it plays a turn of whoever a line on stdin names."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import process_time

from . import asgi, wsgi
from .frame import STATES, State
from .tracing import Tracing, prepare

Contenders = Callable[[State, Tracing], AbstractContextManager[dict[str, Callable[[int], None]]]]

DOORS: dict[str, Contenders] = {"wsgi": wsgi.contenders, "asgi": asgi.contenders}


class Collector:
    """How long the garbage collector has run."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = process_time()
        else:
            self.seconds += process_time() - self._began


def main(door: str, name: str) -> None:
    state = STATES[name]
    tracing = prepare(state)
    collector = Collector()
    with DOORS[door](state, tracing) as acts:
        for act in acts.values():
            act(1)
        _check(state)
        gc.collect()
        gc.freeze()  # what a server has imported is not looked through again and again
        for line in sys.stdin:
            who, requests = line.split()
            print(json.dumps(_turn(acts[who], int(requests), collector)), flush=True)


def _check(state: State) -> None:
    """What is measured is the state that the table names."""
    imported = [
        name for name in ("opentelemetry.trace", "opentelemetry.sdk") if name in sys.modules
    ]
    assert len(imported) == ("nothing", "api", "sdk").index(state.has), imported


def _turn(act: Callable[[int], None], requests: int, collector: Collector) -> tuple[float, float]:
    act(requests // 5)  # what other turns have left in the processor's caches is gone then
    _mark()
    collector.seconds = 0.0
    began = process_time()  # nothing here waits: all else that passes is others' work
    act(requests)
    took = process_time() - began
    _mark()
    return took / requests * 1e6, collector.seconds / requests * 1e6


def _mark() -> None:
    """A call that nobody else makes: a program that counts instructions is told to look for it."""
    os.getsid(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
