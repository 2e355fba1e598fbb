"""A command under way over a lent connection, as this side sees it: psycopg, libpq, the kernel.

Nothing of it is asked of the server, and nothing is read that another thread must not read.
"""

from __future__ import annotations

import fcntl
import socket
import struct

from psycopg.pq import TransactionStatus

from .entry import Entry
from .evidence import Command, Mark

__all__ = ["command_of", "sent_over"]

_TCP_INFO = struct.Struct("=8B24I4Q")
"""As far as tcpi_bytes_received: Linux 4.1, ``include/uapi/linux/tcp.h``."""
_RETRANSMITS, _UNACKED, _LAST_ACK, _ACKED, _RECEIVED = 2, 12, 20, 34, 35
ACTIVE = int(TransactionStatus.ACTIVE)


def sent_over(entry: Entry) -> int:
    """Bytes sent over a connection so far that were acknowledged; 0 where that is not known."""
    told = _told_of(entry.socket)
    return 0 if told is None else told[_ACKED]


def command_of(entry: Entry) -> Command | None:
    """The command under way; None where there is none, or where one cannot tell.

    An application may be what is late: it reads row by row what has arrived long ago, and does
    something else in between, or has a pipeline that it will fill. So it has to wait within
    psycopg, with nothing left to read.
    """
    since, sock, conn = entry.waits_since, entry.socket, entry.conn
    if not since or conn is None or sock is None or entry.ended or entry.severed:
        return None
    pgconn = conn.pgconn
    if pgconn.transaction_status != ACTIVE or pgconn.pipeline_status:
        return None
    told = _told_of(sock)
    if told is None or _has_unread(sock) or entry.waits_since != since:
        return None
    return Command(
        Mark(since, told[_RECEIVED], told[_ACKED]),
        told[_UNACKED],
        told[_RETRANSMITS],
        told[_LAST_ACK] / 1000,
    )


def _told_of(sock: socket.socket | None) -> tuple[int, ...] | None:
    """What the kernel tells; None where the watch has just closed the duplicate, or it is old."""
    if sock is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    return _TCP_INFO.unpack(info) if len(info) == _TCP_INFO.size else None


def _has_unread(sock: socket.socket) -> bool:
    import termios  # for a command that gets no answer; each boot would wait for the linker

    try:
        return any(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    except (OSError, ValueError):
        return True
