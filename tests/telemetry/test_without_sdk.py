"""Without OpenTelemetry's SDK, where the API alone is imported, and where nobody imports that."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from importlib.abc import MetaPathFinder

class NoSdk(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "opentelemetry.sdk":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoSdk())

if sys.argv[2] == "api":
    import opentelemetry.trace
from poolguard import Guard
from poolguard.pool.acquirer import CURRENT
from poolguard.telemetry.request import Request

with Guard(sys.argv[1], budget=2, floor=1, spans="all") as guard:
    for headers in ({}, {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}):
        request = Request("GET", "/", headers)
        CURRENT.set(request)
        with guard.connection(), guard.connection():
            pass
        try:
            with guard.connection(), guard.connection():
                guard.connection(timeout=0.01).__enter__()
        except Exception as error:
            request.end(503, error)
    print(request)
imported = [name for name in sys.modules if name.startswith("opentelemetry")]
assert bool(imported) == (sys.argv[2] == "api"), imported
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
"""


@pytest.mark.parametrize("imported", ["api", "nothing"])
def test_it_counts_and_tells_nobody(imported: str, dsn: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, dsn, imported],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = [line for line in ran.stderr.splitlines() if not line.startswith("  ")]
    assert all(line.startswith("poolguard: GET / acquires a connection") for line in said)
    assert ran.stdout.startswith("<Request GET / timeout acquires=5 ")


LATER = """
import opentelemetry.trace as trace
from opentelemetry.sdk.trace import TracerProvider
from poolguard.telemetry import api as module

module.LOOK_AGAIN = 1e9
module._looked_at = -1e9
assert module.api() is None
trace.set_tracer_provider(TracerProvider())
assert module.api() is None  # asked before: it is not asked at each request
module._looked_at -= module.LOOK_AGAIN
assert module.api() is not None
"""


def test_a_provider_that_is_set_later_is_found_soon() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LATER], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr


AT_ONCE = """
import threading
import opentelemetry.trace as trace
from opentelemetry.sdk.trace import TracerProvider
from poolguard.telemetry.api import api

trace.set_tracer_provider(TracerProvider())
together, found = threading.Barrier(8), []

def first() -> None:
    together.wait()
    found.append(api())

threads = [threading.Thread(target=first) for _ in range(8)]
for each in threads:
    each.start()
for each in threads:
    each.join()
assert None not in found, found
"""


def test_all_of_several_first_requests_find_the_provider() -> None:
    """Right after the boot they come at once, and looking takes a while."""
    ran = subprocess.run(
        [sys.executable, "-c", AT_ONCE], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
