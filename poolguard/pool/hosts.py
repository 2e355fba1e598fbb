"""Names of hosts, looked up in threads of our own.

psycopg has an event loop look them up, which does so in its default executor. Its few threads are
the application's, for ``asyncio.to_thread``: where names resolve slowly, a pool that opens many
connections at once would take them all.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple

from psycopg import OperationalError

from ..budget.dialing import effective
from ..util.clock import now as clock

__all__ = ["addresses"]

_OF_PLACE = ("host", "hostaddr", "port", "service")


class Place(NamedTuple):
    """One host to try, as libpq's lists of hosts, addresses and ports name it."""

    host: str
    address: str
    port: str

    @property
    def is_name(self) -> bool:
        """It is to be looked up: no address, nor the folder of a Unix socket."""
        return not (self.address or self.host[:1] in ("", "/") or self.host[1:2] == ":")


async def addresses(conninfo: str, kwargs: Mapping[str, Any]) -> dict[str, str]:
    """The hosts that a connect with these is to try, with their addresses; nothing where no name is
    to be looked up.

    Raises :exc:`psycopg.OperationalError`, as psycopg does, where none is found.
    """
    given = tuple((k, str(kwargs[k])) for k in _OF_PLACE if kwargs.get(k) is not None)
    places = _places(conninfo, given, int(clock()))
    if not any(place.is_name for place in places):
        return {}
    looks = [_look_up(place) for place in places]
    found = await asyncio.gather(*looks, return_exceptions=True)
    tried: list[Place] = []
    failed: OSError | None = None
    for place, answer in zip(places, found, strict=True):
        if isinstance(answer, OSError):
            failed, name = answer, place.host
        elif isinstance(answer, BaseException):
            raise answer
        else:
            tried += answer
    if not tried:
        raise OperationalError(f"failed to resolve host {name!r}: {failed}")
    return {
        "host": ",".join(place.host for place in tried),
        "hostaddr": ",".join(place.address for place in tried),
        "port": ",".join(place.port for place in tried),
    }


@lru_cache(maxsize=1)
def _places(
    conninfo: str,
    kwargs: tuple[tuple[str, str], ...],
    second: int,  # noqa: ARG001 - for so long all connects of a burst share the answer
) -> list[Place]:
    """Empty where the lists do not fit, which psycopg says better."""
    given = effective(conninfo, **dict(kwargs))
    hosts, listed, ports = (
        given[key].split(",") if given.get(key) else [] for key in ("host", "hostaddr", "port")
    )
    n = max(len(hosts), len(listed))
    hosts, listed = hosts or [""] * n, listed or [""] * n
    ports = ports * n if len(ports) == 1 else ports or [""] * n
    if not len(hosts) == len(listed) == len(ports):
        return []
    return [
        Place(host, address or _if_address(host), port)
        for host, address, port in zip(hosts, listed, ports, strict=True)
    ]


def _if_address(host: str) -> str:
    with suppress(ValueError):
        return str(ip_address(host)) and host
    return ""


async def _look_up(place: Place) -> list[Place]:
    """The same place for each address of its host, in the resolver's order."""
    if not place.is_name:
        return [place]
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[list[Place]] = loop.create_future()

    def settle(say: Callable[[Any], None], what: Any) -> None:
        if not answered.done():
            say(what)

    def look_up() -> None:
        kind = {"proto": socket.IPPROTO_TCP, "type": socket.SOCK_STREAM}
        try:
            found = socket.getaddrinfo(place.host, place.port, **kind)
            told: tuple[Any, Any] = (
                answered.set_result,
                [place._replace(address=str(a[0])) for *_, a in found],
            )
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            told = (answered.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed, and nothing waits any more
            loop.call_soon_threadsafe(settle, *told)

    # Not joined at exit: a resolver may take its time.
    threading.Thread(target=look_up, name="poolguard-lookup", daemon=True).start()
    return await answered
