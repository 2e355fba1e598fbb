"""Hooks of gunicorn.conf.py and ours under one name: both run, and ours act once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import FrameType
from typing import Any, TypeVar, cast

__all__ = ["chained", "is_read_by_gunicorn", "once"]

Hook = TypeVar("Hook", bound=Callable[..., None])


def is_read_by_gunicorn() -> bool:
    """Whether what calls this is being imported by gunicorn, or by its file, as it reads its
    configuration."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != "gunicorn.app.base":
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name.startswith("get_config_from")


def once(hook: Hook) -> Hook:
    """*hook*, which acts once for each server or worker, however often it is called for that one.

    A gunicorn.conf.py may build on another that names the hooks as well, or call that one's.
    """
    latest: object = None

    @wraps(hook)
    def acting_once(*subjects: Any) -> None:
        nonlocal latest
        if latest is not subjects[-1]:
            latest = subjects[-1]
            hook(*subjects)

    return cast("Hook", acting_once)


def chained(ours: Callable[..., Any], theirs: Any, arity: int, *, ours_first: bool) -> Any:
    """The hook to use where the file has *theirs*, or None, under the name of *ours*.

    :param arity: how many arguments gunicorn passes. What takes another number is no hook: gunicorn
        refuses it, and says why.
    """
    theirs = _found(theirs)
    if theirs is None or theirs is ours:
        return ours
    if not callable(theirs) or _arity(theirs) != arity:
        return theirs
    return _chain(ours, theirs, arity) if ours_first else _chain(theirs, ours, arity)


def _found(hook: Any) -> Any:
    """gunicorn takes a hook by its name too: ``"package.module.function"``."""
    if not isinstance(hook, str):
        return hook
    home, _, name = hook.rpartition(".")
    try:
        return getattr(import_module(home), name)
    except (ImportError, AttributeError, ValueError):
        return hook


def _arity(hook: Callable[..., Any]) -> int:
    """As gunicorn counts, which refuses a hook that takes more or fewer than it passes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds for each in inspect.signature(hook).parameters.values())


def _chain(first: Callable[..., Any], then: Callable[..., Any], arity: int) -> Callable[..., Any]:
    """Both hooks as one that takes as many arguments."""
    if arity == 1:

        def one(subject: Any) -> None:
            first(subject)
            then(subject)

        return one

    def two(server: Any, worker: Any) -> None:
        first(server, worker)
        then(server, worker)

    return two
