"""What OpenTelemetry's conventions want an HTTP server span to say of its request.

Read from the protocol's own record (ASGI's scope, WSGI's environ), and only for a span that
poolguard begins itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

__all__ = ["Attributes", "method_of", "of_asgi", "of_wsgi", "span_name", "text_of"]

Attributes = dict[str, "AttributeValue"]

METHODS = "CONNECT,DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT,QUERY,TRACE"
OTHER = "_OTHER"
SECRET = {
    "AWSAccessKeyId",
    "Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Goog-Signature",
    "sig",
}
"""Parameters whose values the conventions say not to show."""


def method_of(method: str) -> Attributes:
    """The method; one that is not known could be anything, and is told apart."""
    known = os.environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS") or METHODS
    if method in [each.strip() for each in known.split(",")]:
        return {"http.request.method": method}
    return {"http.request.method": OTHER, "http.request.method_original": method}


def span_name(attributes: Attributes) -> str:
    """What to call the span of a request whose route is not known."""
    method = str(attributes["http.request.method"])
    return "HTTP" if method == OTHER else method


def of_asgi(scope: Mapping[str, Any], headers: Mapping[str, str]) -> Attributes:
    """What else a scope of the types ``http`` and ``websocket`` says."""
    default = "ws" if scope["type"] == "websocket" else "http"
    server, client = scope.get("server"), scope.get("client")
    return _known(
        {
            "url.scheme": scope.get("scheme") or default,
            "url.query": _redacted(scope.get("query_string", b"").decode("latin-1")),
            **_address(headers.get("host", ""), *(server or ("", None))),
            "client.address": client[0] if client else "",
            "network.protocol.version": scope.get("http_version"),
            "user_agent.original": headers.get("user-agent"),
        }
    )


def of_wsgi(environ: Mapping[str, Any]) -> Attributes:
    """What else an environ says."""
    _, _, version = str(environ.get("SERVER_PROTOCOL", "")).partition("/")
    return _known(
        {
            "url.scheme": environ.get("wsgi.url_scheme"),
            "url.path": _path(environ),
            "url.query": _redacted(environ.get("QUERY_STRING", "")),
            **_address(
                environ.get("HTTP_HOST", ""),
                environ.get("SERVER_NAME", ""),
                environ.get("SERVER_PORT"),
            ),
            "client.address": environ.get("REMOTE_ADDR"),
            "network.protocol.version": version,
            "user_agent.original": environ.get("HTTP_USER_AGENT"),
        }
    )


def _known(attributes: Mapping[str, Any]) -> Attributes:
    """Those that have a value."""
    return {name: value for name, value in attributes.items() if value not in (None, "")}


def _path(environ: Mapping[str, Any]) -> str:
    """The whole path, also of an application that is mounted below one."""
    return text_of(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))


def text_of(wsgi: str) -> str:
    """A text of WSGI's environ as it was meant: it has bytes as if they were Latin-1."""
    return wsgi.encode("latin-1", "replace").decode("utf-8", "replace")


def _address(host: str, server: str, port: int | str | None) -> Attributes:
    """The server as the client called it, else as the server calls itself."""
    if host:
        server, port = _host_and_port(host)
    elif isinstance(port, str):  # WSGI's, and as a server wants it: over a file's socket, say, ""
        port = int(port) if re.fullmatch("[0-9]{1,5}", port) else None
    said: Attributes = {"server.address": server}
    return said | {"server.port": port} if port and port < 1 << 16 else said


def _host_and_port(header: str) -> tuple[str, int | None]:
    """What a ``Host`` header says, as far as it makes sense: anybody can send anything."""
    try:
        parts = urlsplit(f"//{header}")
        host = parts.hostname or ""
    except ValueError:
        return "", None
    try:
        return host, parts.port
    except ValueError:
        return host, None


def _redacted(query: str) -> str:
    """The query without the values of the parameters that are secret by convention."""
    if not any(name in query for name in SECRET):
        return query
    return "&".join(
        f"{name}=REDACTED" if value and name in SECRET else f"{name}{equals}{value}"
        for name, equals, value in (each.partition("=") for each in query.split("&"))
    )
