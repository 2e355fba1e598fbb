"""A terminal on which lines are drawn again and again in one place, and which is then restored."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

from ..util.escape import escaped
from .text import encodable

__all__ = ["Screen"]

ENTER = "\x1b[?1049h\x1b[?25l"
"""Switch to the alternate screen and hide the cursor: xterm's private modes, known everywhere."""
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME = "\x1b[H"
CLEAR_LINE = "\x1b[2K"

_HANDLED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)


class Screen:
    """Standard output as a screen, for as long as the ``with`` block runs. Main thread only.

    Signals do nothing but wake :meth:`wait`, so the terminal is restored whatever ends the command.
    """

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "ascii"
        self._keys: int | None = None
        self._listens = False
        self._before: dict[int, Any] = {}
        self._modes: list[Any] = []
        self._news = self._wakeup = self._wakeup_before = -1

    def __enter__(self) -> Screen:
        with suppress(OSError, ValueError):  # it may be closed
            if os.isatty(sys.stdin.fileno()):
                self._keys = sys.stdin.fileno()
                self._modes = termios.tcgetattr(self._keys)
                self._listens = True
        self._news, self._wakeup = os.pipe()
        os.set_blocking(self._news, False)
        os.set_blocking(self._wakeup, False)
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number in _HANDLED:
            self._before[number] = signal.signal(number, _only_wake)
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._news)
        os.close(self._wakeup)

    def _begin(self) -> None:
        if self._keys is not None:
            with suppress(termios.error):
                tty.setcbreak(self._keys, termios.TCSADRAIN)
        self._write(ENTER)

    def _end(self) -> None:
        self._write(LEAVE)
        if self._keys is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._modes)

    def _write(self, text: str) -> None:
        # sys.stdout would keep what a vanished terminal does not take, and fail again at the exit.
        data = encodable(text, self._encoding).encode(self._encoding)
        with suppress(OSError):
            while data:
                data = data[os.write(self._out, data) :]

    def size(self) -> tuple[int, int]:
        """The columns and lines that the terminal has now."""
        with suppress(OSError):
            found = os.get_terminal_size(self._out)
            if found.columns > 0 and found.lines > 0:
                return found.columns, found.lines
        return 80, 24

    def draw(self, lines: Iterable[str]) -> None:
        """Draw *lines*, which fit, from the top; the rest of the screen is cleared."""
        shown = [escaped(line) for line in lines]
        shown += [""] * (self.size()[1] - len(shown))
        # Cleared before it is written: after a full line, the cursor still stands on its last cell.
        self._write(HOME + "\r\n".join(f"{CLEAR_LINE}{line}" for line in shown))

    def wait(self, seconds: float) -> int | None:
        """Wait until it is time to draw again.

        Returns an exit status where it is time to end instead, else None.
        """
        keys = self._keys if self._listens else None
        watched = [self._news] if keys is None else [self._news, keys]
        readable, _, _ = select.select(watched, [], [], seconds)
        if keys is not None and keys in readable:
            typed = b""
            with suppress(OSError):
                typed = os.read(keys, 1024)
            if b"q" in typed.lower():
                return 0
            self._listens = bool(typed)  # at its end it would be readable again and again
        return self._judge(os.read(self._news, 1024)) if self._news in readable else None

    def _judge(self, numbers: bytes) -> int | None:
        """The exit status that these signals ask for, if any; a stop is carried out here.

        Ctrl-C is the ordinary end. The status of other signals is as a shell reports it.
        """
        if signal.SIGINT in numbers:
            return 0
        for number in (signal.SIGTERM, signal.SIGHUP):
            if number in numbers:
                return 128 + number
        if signal.SIGTSTP in numbers:  # Ctrl-Z
            self._end()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, _only_wake)
        if signal.SIGTSTP in numbers or signal.SIGCONT in numbers:
            self._begin()
        return None


def _only_wake(number: int, frame: object) -> None:
    """Do nothing: the number of the signal is in the wakeup descriptor by now."""
