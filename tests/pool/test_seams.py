"""The contract with psycopg_pool's inner workings: what ``_seams.py`` lists exists as it must.

A failure here names what a new release has moved.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool, base, pool, pool_async

import poolguard
from poolguard.pool import _seams
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.shell import Shell
from poolguard.pool.sync import GuardedPool

CLASSES = [ConnectionPool, AsyncConnectionPool]
PUBLIC = {"psycopg_pool", "psycopg_pool.abc", "psycopg_pool.errors"}


def listed() -> set[str]:
    """The names in the table of the docstring."""
    _, table, _ = re.split(r"^=+  =+$", _seams.__doc__ or "", flags=re.MULTILINE)
    quoted = re.findall(r"^``(.+?)``", table, flags=re.MULTILINE)
    return {name for entry in quoted for name in re.findall(r"\w+(?:\.\w+)?", entry)}


def unopened(cls: type[Any]) -> Any:
    """A pool as its constructor leaves it."""
    return cls("", min_size=2, max_size=5, open=False)


def method(name: str, *parameters: str, also_async: bool) -> Callable[[type[Any]], None]:
    """It is a method with these parameters, and a coroutine in the async class or not."""

    def check(cls: type[Any]) -> None:
        function = getattr(cls, name)
        assert tuple(inspect.signature(function).parameters) == ("self", *parameters)
        is_async = also_async and cls is AsyncConnectionPool
        assert inspect.iscoroutinefunction(function) == is_async

    return check


def attribute(name: str, kind: type) -> Callable[[type[Any]], None]:
    def check(cls: type[Any]) -> None:
        assert isinstance(getattr(unopened(cls), name), kind)

    return check


def calls(caller: str, text: str) -> Callable[[type[Any]], None]:
    """psycopg_pool's own *caller* still goes through there."""

    def check(cls: type[Any]) -> None:
        source = re.sub(r"\bawait ", "", inspect.getsource(getattr(cls, caller)))
        assert text in source, f"{cls.__name__}.{caller} no longer has {text!r}"

    return check


def lock(cls: type[Any]) -> None:
    """Reentrant in the sync class, from the constructor on; the async one makes it in open()."""
    if cls is ConnectionPool:
        made = unopened(cls)._lock
        with made, made:
            pass
    else:
        assert "self._lock = ALock()" in inspect.getsource(cls._ensure_lock)


def add_connection(cls: type[Any]) -> None:
    module = pool if cls is ConnectionPool else pool_async
    assert issubclass(module.AddConnection, module.MaintenanceTask)
    for caller in ("drain", "check", "resize", "_return_connection"):
        calls(caller, "self.run_task(AddConnection(self))")(cls)


def return_connection(cls: type[Any]) -> None:
    module = pool if cls is ConnectionPool else pool_async
    assert issubclass(module.ReturnConnection, module.MaintenanceTask)
    calls("_putconn", "self.run_task(ReturnConnection(self, conn, from_getconn=from_getconn))")(cls)


def waiter_error(cls: type[Any]) -> None:
    module = pool if cls is ConnectionPool else pool_async
    assert module.WaitingClient().error is None
    source = re.sub(r"\bawait ", "", inspect.getsource(module.WaitingClient.wait))
    assert "self.error = PoolTimeout(" in source
    assert "self.error = ex" in source


def nconns(cls: type[Any]) -> None:
    """Both begin at min_size, which our pools set back to what is really there."""
    assert unopened(cls)._nconns == unopened(cls)._nconns_min == 2


CONTRACT: dict[str, list[Callable[[type[Any]], None]]] = {
    "_start_initial_tasks": [
        method("_start_initial_tasks", also_async=False),
        calls("_open", "self._start_initial_tasks()"),
    ],
    "run_task": [method("run_task", "task", also_async=False)],
    "AddConnection": [add_connection],
    "ReturnConnection": [return_connection],
    "_maybe_grow_pool": [
        method("_maybe_grow_pool", also_async=False),
        calls("_getconn_unchecked", "self._maybe_grow_pool()"),
    ],
    "_get_ready_connection": [
        method("_get_ready_connection", "timeout", also_async=True),
        calls("_getconn_unchecked", "self._get_ready_connection(timeout)"),
    ],
    "_add_to_pool": [
        method("_add_to_pool", "conn", also_async=True),
        calls("_return_connection", "self._add_to_pool(conn)"),
    ],
    "_close_connection": [
        method("_close_connection", "conn", also_async=True),
        calls("close", "self._close_connection(conn)"),
    ],
    "_signal_stop_worker": [
        method("_signal_stop_worker", also_async=True),
        calls("close", "self._signal_stop_worker()"),
    ],
    "_connect": [
        method("_connect", "timeout", also_async=True),
        calls("_connect", "self._configure(conn)"),
    ],
    "_resolve_conninfo": [
        method("_resolve_conninfo", also_async=True),
        calls("_connect", "conninfo = self._resolve_conninfo()"),
    ],
    "_resolve_kwargs": [
        method("_resolve_kwargs", also_async=True),
        calls("_connect", "self._resolve_kwargs()"),
    ],
    "_check_open": [
        method("_check_open", also_async=False),
        calls("_open", "self._check_open()"),
    ],
    "_check_open_getconn": [
        method("_check_open_getconn", also_async=False),
        calls("getconn", "self._check_open_getconn()"),
        calls("wait", "self._check_open_getconn()"),
    ],
    "_getconn_with_check_loop": [
        method("_getconn_with_check_loop", "deadline", also_async=True),
        calls("getconn", "self._getconn_with_check_loop(deadline)"),
    ],
    "_getconn_unchecked": [method("_getconn_unchecked", "timeout", also_async=True)],
    "_check": [calls("_check_connection", "if not self._check:")],
    "_check_connection": [
        method("_check_connection", "conn", also_async=True),
        calls("_getconn_with_check_loop", "self._check_connection(conn)"),
    ],
    "_putconn": [method("_putconn", "conn", "from_getconn", also_async=True)],
    "_open_implicit": [attribute("_open_implicit", bool)],
    "_maybe_close_connection": [
        method("_maybe_close_connection", "conn", also_async=True),
        calls("putconn", "self._maybe_close_connection(conn)"),
    ],
    "_set_connection_expiry_date": [
        method("_set_connection_expiry_date", "conn", also_async=False),
        calls("_connect", "self._set_connection_expiry_date(conn)"),
    ],
    "conn._expire_at": [
        calls("_set_connection_expiry_date", "conn._expire_at = "),
        calls("_return_connection", "conn._expire_at <= monotonic()"),
    ],
    "_lock": [lock],
    "_nconns": [nconns, attribute("_nconns", int)],
    "_pool": [attribute("_pool", deque)],
    "_waiting": [attribute("_waiting", deque)],
    "waiter.error": [waiter_error],
    "_nconns_min": [nconns, attribute("_nconns_min", int)],
    "_min_size": [attribute("_min_size", int), calls("resize", "self._min_size = min_size")],
    "_max_size": [attribute("_max_size", int), calls("resize", "self._max_size = max_size")],
    "_stats": [attribute("_stats", Counter)],
    "_CONNECTIONS_LOST": [attribute("_CONNECTIONS_LOST", str)],
    "_CONNECTIONS_ERRORS": [attribute("_CONNECTIONS_ERRORS", str)],
    "_REQUESTS_NUM": [
        attribute("_REQUESTS_NUM", str),
        calls("getconn", "self._stats[self._REQUESTS_NUM] += 1"),
    ],
    "_USAGE_MS": [
        attribute("_USAGE_MS", str),
        calls("connection", "self._stats[self._USAGE_MS] += int(1000.0 * (t1 - t0))"),
    ],
    "_drained_at": [
        attribute("_drained_at", float),
        calls("drain", "self._drained_at = monotonic()"),
    ],
    "conn._created_at": [
        calls("_set_connection_expiry_date", "conn._created_at = "),
        calls("_return_connection", "conn._created_at <= self._drained_at"),
    ],
    "_closed": [attribute("_closed", bool), calls("close", "self._closed = True")],
    "conn._pool": [
        calls("_getconn_unchecked", "conn._pool = self")
    ],  # and test_a_pooled_connection_is_collected_without_a_warning
}


def test_each_name_in_the_docstring_has_its_contract_here() -> None:
    assert listed() == set(CONTRACT)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", CONTRACT)
def test_psycopg_pool_still_has(name: str, cls: type[Any]) -> None:
    for check in CONTRACT[name]:
        try:
            check(cls)
        except Exception as error:  # noqa: BLE001 - whatever is missing may raise
            pytest.fail(
                f"psycopg_pool {psycopg_pool.__version__} has moved {name!r} of {cls.__name__}, "
                f"which poolguard/pool/_seams.py relies on: {error}"
            )


def test_a_pooled_connection_is_collected_without_a_warning(dsn: str) -> None:
    conn = psycopg.connect(dsn)
    _seams.silence(conn)
    del conn  # pytest would fail on a ResourceWarning
    conn = psycopg.connect(dsn)
    with pytest.warns(ResourceWarning):
        del conn


def test_the_version_that_is_installed_is_one_that_is_allowed() -> None:
    major, minor = psycopg_pool.__version__.split(".")[:2]
    assert (major, minor) == ("3", "3"), "raise the bound in pyproject.toml, too"


# -- nobody else touches them

SOURCES = [
    path for path in Path(poolguard.__file__).parent.rglob("*.py") if path.name != "_seams.py"
]


def private_names() -> set[str]:
    """Attributes of psycopg_pool's pools, made by the classes or by their constructors."""
    names = {name for cls in CLASSES for name in (*dir(cls), *vars(unopened(cls)))}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            # A module or an inner name taken out of the package.
            if node.module == "psycopg_pool":
                public = psycopg_pool.__all__
                yield from (f"psycopg_pool.{a.name}" for a in node.names if a.name not in public)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nobody_else_reaches_into_a_pool(path: Path) -> None:
    tree = ast.parse(path.read_text())
    inner = {name for name in imported(tree) if name.startswith("psycopg_pool")} - PUBLIC
    assert not inner, f"{path} imports {inner}: that belongs into _seams.py"
    private = private_names() | {"AddConnection"}
    touched = {
        f"{ast.unparse(node)} (line {node.lineno})"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in private
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    assert not touched, f"{path} touches {touched}: that belongs into _seams.py"


@pytest.mark.parametrize("cls", [Shell, GuardedPool, AsyncGuardedPool])
def test_our_pools_neither_use_nor_hide_an_inner_name(cls: type[Any]) -> None:
    """Neither through ``self``, nor by giving a method or attribute of theirs the same name."""
    seams = {name for part in (_seams.Reader, _seams.SyncSeams) for name in vars(part)}
    lines, _ = inspect.getsourcelines(cls)
    tree = ast.parse("".join(lines))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    overridden = {name for name in vars(_seams.Reader) if name in private_names()}
    clash = ((used - seams) | defined) & (private_names() - overridden)
    assert not clash, f"{cls.__name__} touches {clash}: that belongs into _seams.py"


def test_the_base_class_is_where_both_pools_keep_their_counts() -> None:
    assert all(issubclass(cls, base.BasePool) for cls in CLASSES)


@pytest.mark.parametrize("pool_class", [GuardedPool, AsyncGuardedPool])
def test_a_pool_that_is_not_opened_yet_has_nothing(pool_class: Any) -> None:
    """A worker that imports its application publishes the status of such a one."""
    pool = pool_class("", min_size=4, open=False)
    assert [pool.status()[name] for name in ("idle", "used", "opening")] == [0, 0, 0]
