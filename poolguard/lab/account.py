"""The user that a private PostgreSQL runs as, since PostgreSQL refuses to run as root.

An ordinary user simply runs it. Root, and a user without a name, become nobody: in a user
namespace, where files keep their owners, or else by changing the user, with a copy of PostgreSQL's
files where nobody may not read them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LabError
from .binaries import Binaries

__all__ = ["Account", "choose", "parent_folder"]


@dataclass(frozen=True, slots=True)
class Account:
    """How PostgreSQL's programs are run: as which user, and from which folder."""

    bindir: Path
    prefix: tuple[str, ...] = ()
    """What stands before a command to run it in a user namespace; empty where it runs in none."""
    uid: int | None = None
    """The user to change to; None for our own, and in a user namespace."""
    gid: int | None = None

    def command(self, program: str, *arguments: str | Path) -> list[str | Path]:
        return [*self.prefix, self.bindir / program, *arguments]

    def popen_options(self) -> dict[str, Any]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # Another user may not enter the current folder.
        options: dict[str, Any] = {"env": {**environ, "LC_ALL": "C"}, "cwd": "/"}
        if self.uid is not None:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def own(self, *paths: Path) -> None:
        """Give these files to the user that reads and writes them."""
        if self.uid is not None:
            for path in paths:
                shutil.chown(path, self.uid, self.gid)


def parent_folder() -> Path:
    """Where folders are made: the temporary directory, or one that the other user can enter.

    Raises :class:`LabError` where there is none.
    """
    chosen = Path(tempfile.gettempdir())
    if os.geteuid() != 0 or _namespace_prefix():
        return chosen
    places = (chosen, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
    for place in places:
        path = place.resolve()
        if all(step.is_dir() and step.stat().st_mode & 0o001 for step in (path, *path.parents)):
            return path
    raise LabError(
        f"PostgreSQL refuses to run as root, and another user cannot enter {chosen}: set TMPDIR to "
        f"a folder that everybody can enter, or run this as an ordinary user"
    )


def choose(binaries: Binaries, folder: Path) -> Account:
    """The account to run *binaries* with; a copy of them, if it needs one, goes into *folder*.

    Raises :class:`LabError` where they cannot be run.
    """
    prefix = _namespace_prefix() if _must_change_user() else ()
    if prefix or os.geteuid() != 0:
        return Account(binaries.bindir, prefix)
    nobody = pwd.getpwnam("nobody")
    account = Account(binaries.bindir, (), nobody.pw_uid, nobody.pw_gid)
    if not _runs(account):
        account.own(folder)
        account = Account(_copy(binaries, folder), (), nobody.pw_uid, nobody.pw_gid)
        if not _runs(account):
            raise LabError(
                f"{binaries.postgres} refuses to run as root, and 'nobody' cannot run it: "
                f"run this as an ordinary user"
            )
    return account


def _must_change_user() -> bool:
    if os.geteuid() == 0:
        return True
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        # initdb insists on the user's name; containers run under numbers that have none.
        return True
    return False


def _namespace_prefix() -> tuple[str, ...]:
    """What makes the command behind it run as nobody in a user namespace; empty where blocked.

    Our own files stay our own there, so binaries and folders may be private. The IPC namespace
    takes the System V memory of a killed server with it.
    """
    try:
        nobody = pwd.getpwnam("nobody")
        ids = [f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]
        prefix = ("unshare", "--user", "--ipc", *ids)
        tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    except (KeyError, OSError):
        return ()
    return prefix if tried.returncode == 0 else ()


def _runs(account: Account) -> bool:
    # Both are asked, since they are linked against different libraries.
    commands = [(account.bindir / name, "--version") for name in ("postgres", "initdb")]
    options = account.popen_options()
    try:
        ran = [subprocess.run(c, capture_output=True, check=False, **options) for c in commands]
    except PermissionError:
        return False
    return all(one.returncode == 0 for one in ran)


def _copy(binaries: Binaries, folder: Path) -> Path:
    """Copy an installation to where others may read it; PostgreSQL finds its files relatively."""
    install = binaries.bindir.parent
    site = folder / "copy"
    copy = site / install.parent.name / install.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(install / part, copy / part, symlinks=True)
    # The wheel keeps the libraries that its programs need in a folder beside the package.
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, site / libraries.name, symlinks=True)
    return copy / "bin"
