"""A file whose bytes several processes read and write at the same time."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

__all__ = ["SUPPORTED", "SharedFile", "find_lock", "set_lock"]

SUPPORTED = hasattr(fcntl, "F_OFD_SETLK")
"""Whether this platform has the locks that all of this needs: Linux alone."""

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid


class SharedFile:
    """*size* bytes of the file that *fd* has open.

    They are read and written by calls, and not mapped into memory. A mapped page that has no place
    on the disk, since the disk is full or the file was truncated, ends the process with SIGBUS.

    What cannot be read reads as zeros, and a write that fails is ignored. The bytes are for finding
    things quickly, and the locks are the truth.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size

    def read(self, at: int, n: int) -> bytes:
        """The *n* bytes from *at* on."""
        try:
            found = os.pread(self.fd, n, at)
        except OSError:
            found = b""
        return found.ljust(n, b"\0")

    def write(self, at: int, data: bytes) -> None:
        """Put *data* at *at*."""
        try:  # noqa: SIM105 - suppress() would cost as much as the call
            os.pwrite(self.fd, data, at)
        except OSError:
            pass

    def allocate(self) -> None:
        """Have room on the disk for all of it. Raises :exc:`OSError` where there is none."""
        found = os.fstat(self.fd)
        if found.st_size >= self.size and found.st_blocks * 512 >= self.size:
            return
        try:
            os.posix_fallocate(self.fd, 0, self.size)
        except OSError as error:
            if found.st_size < self.size and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            os.truncate(self.fd, max(self.size, found.st_size))  # not every disk knows how to

    def close(self) -> None:
        """Close it, once: its number may be another file's by the second time."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def lock(self, kind: int, at: int, n: int = 1) -> bool:
        """Lock these bytes (``fcntl.F_WRLCK``, ``F_RDLCK``) or unlock them (``F_UNLCK``).

        Returns False where another process has locked them.
        """
        try:
            set_lock(self.fd, kind, at, n)
        except OSError:
            return False
        return True


def set_lock(fd: int, kind: int, at: int, n: int = 1) -> None:
    """Lock *n* bytes from *at* on, for the open file. Raises :exc:`OSError` where that fails.

    OFD locks (Linux 3.15, ``fcntl(2)``) belong to the open file: unlike POSIX record locks they are
    not lost when the process closes another descriptor of the same file, and they end when the
    last copy of their own descriptor is closed, at the latest with the process.
    """
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, 0, at, n, 0))


def find_lock(fd: int, at: int, n: int) -> int | None:
    """One of these *n* bytes that is locked through another open file; None where none is."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, 0, at, n, 0)
    kind, _, start, _, _ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else max(at, start)
