"""A TCP proxy that makes connecting slow and breaks connections on command, as its own process.

As a process, it takes no share of its owner's GIL, and it ends when its owner does. It can do what
happens to byte streams: delays, silence, FIN, RST. It acknowledges what it reads, so it cannot
show what unacknowledged packets do (``tcp_user_timeout``, keepalives).
"""

from __future__ import annotations

from .helper import Helper

__all__ = ["SlowProxy"]


class SlowProxy:
    """A proxy on 127.0.0.1 in front of one server; a context manager. Times are in seconds.

    A new connection is accepted at once and held for ``connect_delay`` before the proxy connects
    on to the server. Half-closes and resets are passed on as such; where the server refuses the
    connection, the client's is reset. Every method returns when the proxy has done what it was
    told, and raises :class:`LabError` when it cannot.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        connect_delay: float = 0.1,
        latency: float = 0.0,
        port: int = 0,
    ) -> None:
        """``port`` is the one to listen on; 0 stands for a free one."""
        self.host = "127.0.0.1"
        self._target = target
        self._helper = Helper("poolguard.lab.relay")
        try:
            self._helper.ask("set", connect_delay=connect_delay, latency=latency)
            opened = self._helper.ask("open", host=self.host, port=port, target=target)
        except BaseException:
            self._helper.close()
            raise
        self.port = int(opened["port"])

    def __repr__(self) -> str:
        return f"SlowProxy({self.host}:{self.port} -> {self._target[0]}:{self._target[1]})"

    def __enter__(self) -> SlowProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._helper.pid

    def set(self, *, connect_delay: float | None = None, latency: float | None = None) -> None:
        """Change how long new connections are held, or by how much each chunk is delayed."""
        self._helper.ask("set", connect_delay=connect_delay, latency=latency)

    def blackhole(self) -> None:
        """Let neither data nor FIN nor RST through, and tell neither side.

        As on a network that loses every packet, nothing is lost for good: what was sent meanwhile
        arrives after :meth:`resume`. New connections are accepted and hang.
        """
        self._helper.ask("blackhole")

    def refuse(self) -> None:
        """Stop listening: new connections are refused, and those that exist go on."""
        self._helper.ask("refuse")

    def resume(self) -> None:
        """End :meth:`blackhole` and :meth:`refuse`; the port stays the same."""
        self._helper.ask("resume")

    def reset_all(self) -> None:
        """Reset every connection, towards the client and towards the server."""
        self._helper.ask("reset_all")

    def silence_all(self) -> None:
        """Let nothing more through on any connection that exists now; new ones are unharmed.

        A firewall that has forgotten its connections acts like this: neither side is told, and it
        stays so for good.
        """
        self._helper.ask("silence_all")

    def forget_all(self) -> None:
        """Reset every connection that exists now towards the client, and tell the server nothing.

        A router that has lost its table answers like this to whoever speaks first.
        """
        self._helper.ask("forget_all")

    def stats(self) -> dict[str, int]:
        """``open``: how many clients are connected now; ``accepted``: how many since the start."""
        return self._helper.ask("stats")

    def close(self) -> None:
        """End the proxy and all its connections. Idempotent."""
        self._helper.close()
