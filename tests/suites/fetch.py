"""Fetches a framework's source distribution, which has its tests."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

__all__ = ["fetch"]


def fetch(requirement: str, folder: Path) -> Path:
    """The unpacked source of *requirement*, such as ``django==5.2.19``, in *folder*."""
    folder = folder / requirement.replace("==", "-")
    if not folder.exists():
        folder.mkdir(parents=True)
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:"]
        subprocess.run([*download, "--dest", folder, requirement], check=True)
        [archive] = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    [source] = (each for each in folder.iterdir() if each.is_dir())
    return source
