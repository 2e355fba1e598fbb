"""A plugin: a forked child of a test ends where its test does.

One whose own code has raised would go on as pytest itself otherwise: it would report the test, run
the next ones, and the run would end with an error that names neither.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Generator

import pytest

__all__ = ["pytest_runtest_call"]

STATUS = 70
"""What such a child ends with."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run the test, and end whichever process it has brought about."""
    owner = os.getpid()
    try:
        return (yield)
    except BaseException:
        if os.getpid() != owner:
            os.write(2, f"A forked child of {item.nodeid}: {traceback.format_exc()}".encode())
        raise
    finally:
        if os.getpid() != owner:
            os._exit(STATUS)
