"""The runtime folder, as a command is told of it that only reads what is there."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

from ..errors import RuntimeDirError
from ..util import rundir

__all__ = ["add_folder", "insist_on_ours"]


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the folder is."""
    parser.add_argument(
        "--runtime-dir",
        metavar="DIR",
        type=_folder,
        help="the workers' runtime_dir; without it, POOLGUARD_RUNTIME_DIR, else the default",
    )


def insist_on_ours(folder: Path) -> None:
    """Raises RuntimeDirError where *folder* is another user's.

    Opening it would raise one too, which would advise to remove the folder, or to take it over.
    That suits a worker, but not root, looking at another user's service.
    """
    try:
        found = folder.lstat()
    except OSError:
        return
    if (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid != os.geteuid()
        and folder != rundir.default_path()
    ):
        raise RuntimeDirError(
            f"the runtime folder {folder} belongs to uid {found.st_uid}, and this command runs as "
            f"uid {os.geteuid()}: run it as that user"
        )


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("'' is no folder")
    return Path(text).absolute()
