"""A child process that obeys commands as lines of JSON, and ends when its owner does.

Owner and child share one socket, which the kernel closes however the owner ends: the child then
reads end-of-file. Here is the owner's half; the child's is in the module that the child runs.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from typing import Any

from ..errors import LabError

__all__ = ["Helper"]

_ANSWER_WITHIN = 10.0


class Helper:
    """A child process ``python -m MODULE`` that obeys commands and ends when its owner does.

    It runs in a session of its own, so Ctrl-C in the owner's terminal does not reach it. A forked
    child of the owner drops its copy of the socket: the owner alone keeps the helper alive.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.settimeout(_ANSWER_WITHIN)
        self._socket: socket.socket | None = ours
        self._answers = ours.makefile("rb")
        _helpers.add(self)

    def __repr__(self) -> str:
        return f"Helper({self._module!r}, pid={self.pid})"

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        """Send one command and return its answer, once the helper has carried it out.

        Raises :class:`LabError` when the helper refuses, is gone, or is silent for 10 s.
        """
        with self._lock:
            if self._socket is None:
                raise LabError(f"{self!r} is closed, or is the parent process's own: start another")
            number = next(self._numbers)
            command = {"number": number, "do": do, **arguments}
            try:
                self._socket.sendall(json.dumps(command).encode() + b"\n")
                answer = self._answer_to(number)
            except OSError as error:
                raise LabError(
                    f"{self!r} did not answer {do!r} ({error!r}): start another"
                ) from None
        if "error" in answer:
            raise LabError(f"{self!r} could not {do!r}: {answer['error']}")
        return answer

    def _answer_to(self, number: int) -> dict[str, Any]:
        for line in self._answers:
            answer: dict[str, Any] = json.loads(line)
            # Ctrl-C may have left the answer to an earlier command unread.
            if answer.pop("number") == number:
                return answer
        raise ConnectionResetError("it has ended")

    def close(self, timeout: float = 20.0) -> None:
        """Let the helper finish, and wait for that; after ``timeout`` seconds it is killed."""
        if self._socket is None:
            return
        self._drop_socket()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._answers.close()
            self._socket.close()
            self._socket = None


_helpers: weakref.WeakSet[Helper] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for helper in list(_helpers):
        helper._drop_socket()


os.register_at_fork(after_in_child=_after_fork_in_child)
