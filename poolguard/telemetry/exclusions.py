"""Which requests are to have no server span: instrumentations leave out URLs, as of health checks.

To us such a request looks like one that no instrumentation stands around. The URLs are known to
each instrumentation alone, from the environment or an argument. Those of OpenTelemetry's contrib
ask one class about each URL, whose answers are heard here. Others mark the scope of the request.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from .api import Api
    from .http import Attributes

__all__ = ["LEFT_OUT", "is_excluded", "is_marked", "is_silenced", "leads_to", "listen"]

LEFT_OUT: ContextVar[str | None] = ContextVar("poolguard_left_out", default=None)
"""The URL that an instrumentation has left out last in this context."""

_listens = False


def listen(tell: Callable[[str], None]) -> None:
    """Have *tell* called with each URL that is left out, as soon as an instrumentation is there."""
    global _listens  # noqa: PLW0603
    asked_of = getattr(sys.modules.get("opentelemetry.util.http"), "ExcludeList", None)
    if _listens or asked_of is None:
        return
    _listens = True
    ask = asked_of.url_disabled

    @wraps(ask)
    def url_disabled(self: Any, url: str) -> bool:
        disabled: bool = ask(self, url)
        if disabled:
            LEFT_OUT.set(url)
            tell(url)
        return disabled

    asked_of.url_disabled = url_disabled


def leads_to(url: str, path: str) -> bool:
    """Whether *url* is of the request for *path*, and not one that the request asks others for.

    It may have in front what a server has taken from the path.
    """
    _, _, rest = url.partition("://")
    _, _, rest = rest.partition("/")
    found = unquote(f"/{rest.partition('?')[0]}")
    return found == path or (path != "/" and found.endswith(path))


def is_marked(record: Any) -> bool:
    """Whether an instrumentation stands around which is not to begin a span for this request.

    :param record: the request's scope, or its environ, which nobody marks. FastAPI and Starlette
        mark it for as long as their own telemetry lasts.
    """
    if not isinstance(record, dict):
        return False
    return "starlette.opentelemetry" in record or record.get("fastapi.telemetry", record) is None


def is_silenced(otel: Api) -> bool:
    """Whether OpenTelemetry's ``suppress_instrumentation`` holds in this context."""
    names = ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY")
    keys = [getattr(otel.context, name, None) for name in names]
    return any(otel.context.get_value(key) for key in ("suppress_instrumentation", *keys) if key)


def is_excluded(attributes: Attributes) -> bool:
    """Whether ``OTEL_PYTHON_EXCLUDED_URLS`` leaves out the request that *attributes* describe.

    Where no instrumentation stands around, ours is the one that it is for.
    """
    patterns = [each.strip() for each in os.environ.get("OTEL_PYTHON_EXCLUDED_URLS", "").split(",")]
    patterns = [each for each in patterns if each]
    if not patterns:
        return False
    port, query = attributes.get("server.port"), attributes.get("url.query")
    parts = (
        str(attributes.get("url.scheme", "http")),
        "://",
        str(attributes.get("server.address", "")),
        f":{port!s}" if port else "",
        str(attributes["url.path"]),
        f"?{query!s}" if query else "",
    )
    return re.search("|".join(patterns), "".join(parts)) is not None
