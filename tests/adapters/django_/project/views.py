"""What the project's requests do with the database."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, nullcontext, suppress
from typing import Any

from django.db import OperationalError, connection, connections, transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse

import poolguard
import poolguard.django
from tests.support import until

from .models import Book


@transaction.non_atomic_requests  # type: ignore[untyped-decorator]
def status(request: HttpRequest) -> JsonResponse:
    """No acquire."""
    return JsonResponse({each.name: each.status() for each in guards()})


def guards() -> list[poolguard.Guard]:
    from poolguard.runtime.lookup import guards as known

    return known()


def books(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        count = Book.objects.count()
    return JsonResponse({"books": count, **seen()})


async def books_async(request: HttpRequest) -> JsonResponse:
    from asgiref.sync import sync_to_async

    count = await Book.objects.acount()
    return JsonResponse({"books": count, **(await sync_to_async(seen)())})


def books_streamed(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(f"{each}\n" for each in Book.objects.iterator(chunk_size=2))


def seen(alias: str = "default") -> dict[str, Any]:
    """What the request's session is."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT current_user, pg_backend_pid(), current_setting('TimeZone')")
        user, pid, zone = cursor.fetchone()
    pool = connections[alias].pool
    return {
        "backend": pid,
        "user": user,
        "zone": zone,
        "worker": os.getpid(),
        "pool": None if pool is None else pool.name,
    }


def every(request: HttpRequest) -> JsonResponse:
    """A session of each database."""
    return JsonResponse({alias: seen(alias) for alias in connections})


def starve(request: HttpRequest) -> JsonResponse:
    """Nobody returns a connection: this request finds none."""
    guard: Any = poolguard.django.guard()
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for _ in range(guard.status()["max_size"]):
                stack.enter_context(guard.connection())
            held.set()
            until(over.is_set, within=30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        with suppress(OperationalError) if "fail" in request.GET else nullcontext():
            return books(request)
    finally:
        over.set()
        thread.join()
    raise ValueError("after it was refused a connection")


def close(request: HttpRequest) -> JsonResponse:
    """The application closes its guard."""
    poolguard.django.guard().close()
    return JsonResponse({})


def fail(request: HttpRequest) -> JsonResponse:
    """Fails by itself, with the pool as it is."""
    raise ValueError("of the application's own")


def many(request: HttpRequest) -> JsonResponse:
    """As many sessions at once, in threads, as there can be."""
    number = int(request.GET["of"])
    alias = request.GET.get("alias", "default")
    together = threading.Barrier(number)
    found: list[dict[str, Any]] = []

    def use() -> None:
        with suppress(OperationalError, threading.BrokenBarrierError):
            found.append(seen(alias))
            together.wait(2)
        connections[alias].close()

    threads = [threading.Thread(target=use) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return JsonResponse({"backends": sorted(each["backend"] for each in found)})


def leave(request: HttpRequest) -> JsonResponse:
    """The session is left as no other request wants it."""
    connection.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    connection.commit()
    Book.objects.create(title="of a transaction that nobody ends")
    return JsonResponse({"backend": pid})
