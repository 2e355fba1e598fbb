"""Makes the data folder of a private PostgreSQL, with its configuration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL, SIGTERM

from ..errors import LabError
from .account import Account
from .janitor import Janitor
from .last_words import last_words

__all__ = ["DEFAULTS", "make_data_folder"]

# Shared memory of a server killed with SIGKILL then goes with its folder, not with the machine.
_SHARED_MEMORY = "mmap"
DEFAULTS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "max_connections": "100",
    "dynamic_shared_memory_type": _SHARED_MEMORY,
}
"""The lab's own lines of postgresql.conf."""
_WITHIN = 60.0


def make_data_folder(
    data: Path,
    *,
    major: int,
    password: str,
    settings: Mapping[str, str],
    account: Account,
    janitor: Janitor,
) -> None:
    """Make *data* with ``initdb``, for a superuser ``postgres`` with *password*.

    :param major: PostgreSQL's major version.
    :param settings: go to postgresql.conf.

    Raises :class:`LabError` where initdb fails, or does not end within a minute.
    """
    password_file = data.with_name("password")
    password_file.write_text(password)
    account.own(data.parent, password_file)
    _initdb(data, password_file, major, account, janitor)
    password_file.unlink()
    with (data / "postgresql.conf").open("a") as conf:
        for name, value in settings.items():
            conf.write(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n")


def _initdb(
    data: Path, password_file: Path, major: int, account: Account, janitor: Janitor
) -> None:
    options = ["--no-sync", "--no-instructions", "--locale=C", "--encoding=UTF8"]
    options += ["--auth=scram-sha-256", "--username=postgres", f"--pwfile={password_file}"]
    if major >= 16:
        # The servers that initdb itself runs would leave shared memory behind, too, when they are
        # killed. Before PostgreSQL 16, initdb had no option for what they use.
        options += ["--set", f"dynamic_shared_memory_type={_SHARED_MEMORY}"]
    process = janitor.spawn(
        account.command("initdb", *options, data),
        signal=SIGTERM,
        as_group=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **account.popen_options(),
    )
    with process:
        try:
            output, _ = process.communicate(timeout=_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, SIGKILL)
            raise LabError(
                f"initdb did not end within {_WITHIN:g} s: is the disk full or slow?"
            ) from None
        except BaseException:
            os.killpg(process.pid, SIGKILL)
            raise
    janitor.forget(process.pid)
    if process.returncode != 0:
        raise LabError(
            f"{account.bindir / 'initdb'} failed with {process.returncode} "
            f"({last_words(output.decode(errors='replace'))}): mend that, or choose another "
            f"PostgreSQL with POOLGUARD_PG_BIN"
        )
