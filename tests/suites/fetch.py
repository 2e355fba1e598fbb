"""Fetches a framework's source distribution, which has its tests."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

__all__ = ["fetch"]


def fetch(requirement: str, folder: Path, python: str = sys.executable) -> Path:
    """The unpacked source of *requirement*, such as ``django==5.2.19``, in *folder*.

    *python* is one that it supports, which pip insists on.
    """
    folder = folder / requirement.replace("==", "-")
    if not any(folder.glob("*.tar.gz")):
        folder.mkdir(parents=True, exist_ok=True)
        download = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:"]
        subprocess.run([*download, "--dest", folder, requirement], check=True)
    if not any(each.is_dir() for each in folder.iterdir()):
        [archive] = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    [source] = (each for each in folder.iterdir() if each.is_dir())
    return source
