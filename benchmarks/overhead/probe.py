"""The process that is measured: it plays a turn of whoever a line on stdin names."""

from __future__ import annotations

import gc
import json
import sys
from time import process_time
from typing import Any

from . import doors
from .states import STATES
from .tracing import prepare


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
    play: Any = {"wsgi": doors.wsgi, "asgi": doors.asgi}[door]
    with play(state, tracing) as acts:
        for act in acts.values():
            act(1)
        # What is measured is the state that the table names.
        imported = {"opentelemetry.trace", "opentelemetry.sdk"} & sys.modules.keys()
        assert len(imported) == ("nothing", "api", "sdk").index(state.has), imported
        gc.collect()
        gc.freeze()  # what a server has imported is not looked through again and again
        for line in sys.stdin:
            who, requests = line.split()
            print(json.dumps(_turn(acts[who], int(requests), collector)), flush=True)


def _turn(act: doors.Act, requests: int, collector: Collector) -> tuple[float, float]:
    act(requests // 5)  # what other turns have left in the processor's caches is gone then
    collector.seconds = 0.0
    began = process_time()  # nothing here waits: all else that passes is others' work
    act(requests)
    took = process_time() - began
    return took / requests * 1e6, collector.seconds / requests * 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
