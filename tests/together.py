"""A plugin: with ``--dist loadgroup``, the tests of some files stay together, each file's in one
process: they share what takes long to be made.

pytest-xdist's own mark for it changes the tests' names, which pytest 9.2 does not let it do.
"""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["pytest_xdist_make_scheduler"]

FILES = {
    "tests/cli/test_demo_story.py",
    "tests/test_distribution.py",
    "tests/typed/test_checkers.py",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What deals out the tests; None for what pytest-xdist has."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Together(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file, _, _ = nodeid.partition("::")
            return file if file in FILES else nodeid

    return Together(config, log)
