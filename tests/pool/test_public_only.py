"""Our pools derive from psycopg_pool's, and use nothing of it that it does not promise to keep."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic

import psycopg_pool
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import poolguard
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.sync import GuardedPool

OURS = [GuardedPool, AsyncGuardedPool]
PUBLIC = {"psycopg_pool", "psycopg_pool.abc", "psycopg_pool.errors"}
SELF = {"self", "cls"}
BY_NAME = {"getattr", "setattr", "hasattr", "delattr"}


def sources() -> Iterator[tuple[str, ast.AST]]:
    root = Path(poolguard.__file__).parent
    for path in sorted(root.rglob("*.py")):
        yield str(path.relative_to(root)), ast.parse(path.read_text())


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names() -> set[str]:
    """Attributes of psycopg_pool's pools, made by the classes or by their constructors."""
    pools = ConnectionPool("", open=False), AsyncConnectionPool("", open=False)
    return {name for pool in pools for name in {*dir(pool)} - {*dir(Generic)} if is_private(name)}


def defined_by(cls: type[Any], package: str) -> list[type[Any]]:
    """The classes of a package that *cls* is made of."""
    return [each for each in cls.__mro__ if each.__module__.partition(".")[0] == package]


def tree_of(cls: type[Any]) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(cls)))


def named(node: ast.AST) -> Iterator[str]:
    """What of psycopg_pool a node names, by its dotted name."""
    public = {*psycopg_pool.__all__, "abc", "errors", "__version__"}
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield str(node.module)
        if node.module == "psycopg_pool":
            yield from (f"psycopg_pool.{a.name}" for a in node.names if a.name not in public)
    elif isinstance(node, ast.Attribute) and node.attr not in public:
        if isinstance(node.value, ast.Name):
            yield ast.unparse(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value  # importlib would find a module by it


def test_no_inner_module_of_psycopg_pool_is_imported() -> None:
    found = [
        f"{path}:{getattr(node, 'lineno', 0)} {name}"
        for path, tree in sources()
        for node in ast.walk(tree)
        for name in named(node)
        if re.fullmatch(r"psycopg_pool(\.\w+)+", name) and name not in PUBLIC
    ]
    assert found == []


def taken(node: ast.AST) -> tuple[str, str]:
    """The attribute that a node takes, and of what: ``("_lock", "self.pool")``."""
    if isinstance(node, ast.Attribute):
        return node.attr, ast.unparse(node.value)
    if isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME:
        return ast.unparse(node.args[1]).strip("'"), ast.unparse(node.args[0])
    return "", ""


def test_nobody_reaches_into_a_pool() -> None:
    private = private_names()
    found = []
    for path, tree in sources():
        for node in ast.walk(tree):
            name, of = taken(node)
            # psycopg's own protocol: by it a connection that is closed finds its pool.
            of_conn = name == "_pool" and not of.endswith("pool")
            if name in private and of not in SELF and not of_conn:
                found.append(f"{path}:{getattr(node, 'lineno', 0)} {ast.unparse(node)}")
    assert found == []


@pytest.mark.parametrize("cls", OURS)
def test_no_attribute_of_ours_has_the_name_of_an_inner_one(cls: type[Any]) -> None:
    """It would take that one's place, and nobody could tell which of the two is meant."""
    used = {*vars(cls("", open=False))}
    for each in defined_by(cls, "poolguard"):
        used |= {*vars(each), *inspect.get_annotations(each)}
        used |= {name for name, of in map(taken, ast.walk(tree_of(each))) if of in SELF}
    assert sorted(used & private_names()) == []


@pytest.mark.parametrize("cls", OURS)
def test_nothing_of_theirs_runs(cls: type[Any]) -> None:
    """Each method and property is ours, except those that only their machinery calls. A static
    method knows no pool, and may be theirs."""
    inherited = {
        name
        for theirs in defined_by(cls, "psycopg_pool")
        for name, value in vars(theirs).items()
        if not is_private(name) and (inspect.isfunction(value) or isinstance(value, property))
        if owner(cls.__mro__, name) in defined_by(cls, "psycopg_pool")
    }
    assert sorted(inherited - {"run_task", "schedule_task"}) == []


@pytest.mark.parametrize("cls", OURS)
def test_super_never_ends_at_theirs(cls: type[Any]) -> None:
    found = [
        f"{each.__name__}: {ast.unparse(node)}"
        for nth, each in enumerate(cls.__mro__)
        if each in defined_by(cls, "poolguard")
        for node in ast.walk(tree_of(each))
        if isinstance(node, ast.Attribute)
        and re.match(r"super\(|(Async)?ConnectionPool$", ast.unparse(node.value))
        and owner(cls.__mro__[nth + 1 :], node.attr) in defined_by(cls, "psycopg_pool")
    ]
    assert found == []


def owner(classes: tuple[type[Any], ...], name: str) -> type[Any] | None:
    """The first class that has the name."""
    return next((each for each in classes if name in vars(each)), None)
