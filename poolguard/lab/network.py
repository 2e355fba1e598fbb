"""Hosts on one machine, each behind a link of its own, which can be cut and mended.

Where the system allows it (Linux, root), each host is a network namespace with a name of its own. A
link that is cut loses packets then, and keepalives and ``tcp_user_timeout`` do what they do in a
real network. Elsewhere a host is nothing but a proxy of its own, which acknowledges what it reads.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from signal import SIGKILL
from typing import Protocol

from ..errors import LabError
from .janitor import Janitor
from .proxy import SlowProxy

__all__ = ["LOOPBACK", "Link", "Network"]

LOOPBACK = "127.0.0.1"
_CLONE_NEWNET = 0x40000000
_BRIDGE = "poolguard"
_HERE = "10.213.0.1"
_MAC_HERE = "02:70:67:00:00:01"
_HELD = 'echo "$1" > /proc/sys/kernel/hostname && echo held && exec sleep infinity'


class Link(Protocol):
    """A host's link to the servers."""

    @property
    def prefix(self) -> Sequence[str]:
        """What stands before a command to have it run on the host."""

    @property
    def place(self) -> tuple[str, int]:
        """The address and the port at which the host reaches the server."""

    def cut(self) -> None:
        """Let nothing through any more, and tell neither side."""

    def mend(self) -> None:
        """Let all through again."""

    def close(self) -> None:
        """Take it away. Programs that run on the host are to be ended before."""


class Network:
    """The links of all hosts; a context manager.

    Inside of it, the thread that has entered it is in a network of its own, where it is possible to
    make one, and so is what this thread starts: servers, proxies, threads.

    :param real: have namespaces (raises LabError where there can be none), or proxies; None: as it
        is possible.
    """

    def __init__(self, janitor: Janitor, *, real: bool | None = None) -> None:
        self._janitor = janitor
        self._wanted = real
        self.real = False
        """Hosts are namespaces."""
        self._home = -1
        self._numbers = 0
        self._links: list[Link] = []

    def __repr__(self) -> str:
        return f"<Network of {len(self._links)} {'namespaces' if self.real else 'proxies'}>"

    def __enter__(self) -> Network:
        if self._wanted is False:
            return self
        self.real = self._separate()
        if self._wanted and not self.real:
            raise LabError("no network namespace can be made here: that takes Linux, root and ip")
        return self

    def __exit__(self, *exc_info: object) -> None:
        for link in self._links:
            with suppress(LabError):
                link.close()
        self._links.clear()
        if self._home >= 0:
            _call("setns", self._home, _CLONE_NEWNET)
            os.close(self._home)
            self._home = -1

    @property
    def addresses(self) -> Sequence[str]:
        """Where a server is to listen, beside loopback, so that hosts reach it."""
        return (_HERE,) if self.real else ()

    def link(self, name: str, port: int) -> Link:
        """A new host called *name*, and its link to the server at *port* of this network."""
        self._numbers += 1
        link: Link = (
            _Veth(self._janitor, name, self._numbers, port) if self.real else _Proxied(port)
        )
        self._links.append(link)
        return link

    def _separate(self) -> bool:
        """Move to a network namespace of its own; False where that is impossible."""
        if sys.platform != "linux" or os.geteuid() != 0:
            return False
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("unshare", _CLONE_NEWNET)
            _ip("link set lo up")
            _ip(f"link add {_BRIDGE} address {_MAC_HERE} type bridge")
            _ip(f"addr add {_HERE}/16 dev {_BRIDGE}")
            _ip(f"link set {_BRIDGE} up")
        except (LabError, OSError):
            _call("setns", self._home, _CLONE_NEWNET)
            os.close(self._home)
            self._home = -1
            return False
        return True


class _Veth:
    """A namespace, which a process of its own holds, and a pair of virtual Ethernet devices. The
    kernel takes them away when the last process in it has ended."""

    def __init__(self, janitor: Janitor, name: str, number: int, port: int) -> None:
        self._janitor = janitor
        self._device = f"host{number}"
        self.place = (_HERE, port)
        self._holder = janitor.spawn(
            ["unshare", "--net", "--uts", "sh", "-c", _HELD, "sh", name],
            signal=SIGKILL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        with self._holder.stdout as told:
            if told.readline() != b"held\n":
                raise LabError(f"the namespace of {name} cannot be made: is unshare(1) there?")
        pid = self._holder.pid
        self.prefix = ("nsenter", f"--target={pid}", "--net", "--uts", "--")
        there = f"10.213.{1 + number // 250}.{1 + number % 250}"
        mac = f"02:70:67:01:{number >> 8:02x}:{number & 255:02x}"
        device = self._device
        _ip(f"link add {device} type veth peer name eth0 address {mac} netns {pid}")
        for line in (
            "link set lo up",
            f"addr add {there}/16 dev eth0",
            "link set eth0 up",
            # Routers answer for hosts that are away: without these, ARP tells that they are.
            f"neigh replace {_HERE} lladdr {_MAC_HERE} dev eth0 nud permanent",
        ):
            _ip(line, self.prefix)
        _ip(f"neigh replace {there} lladdr {mac} dev {_BRIDGE} nud permanent")
        _ip(f"link set {device} up")
        self.mend()

    def cut(self) -> None:
        _ip(f"link set {self._device} nomaster")

    def mend(self) -> None:
        _ip(f"link set {self._device} master {_BRIDGE}")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        self._janitor.forget(self._holder.pid)


class _Proxied:
    """A proxy in front of the server."""

    prefix: Sequence[str] = ()

    def __init__(self, port: int) -> None:
        self._proxy = SlowProxy((LOOPBACK, port), connect_delay=0.0)
        self.place = (self._proxy.host, self._proxy.port)

    def cut(self) -> None:
        self._proxy.blackhole()

    def mend(self) -> None:
        self._proxy.resume()

    def close(self) -> None:
        self._proxy.close()


def _ip(line: str, prefix: Sequence[str] = ()) -> None:
    """Have ip(8) do what *line* says. Raises LabError where it cannot."""
    try:
        done = subprocess.run(
            [*prefix, "ip", *line.split()], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise LabError(f"{error.filename} is not there") from None
    if done.returncode != 0:
        raise LabError(f"ip {line}: {done.stderr.strip()}")


def _call(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
