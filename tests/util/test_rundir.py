"""The runtime folder: made for us alone, and refused where somebody else may have had a hand in."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from pathlib import Path

import pytest

from poolguard.errors import RuntimeDirError
from poolguard.util.rundir import RuntimeDir, default_path


def test_it_is_made_for_us_alone(tmp_path: Path) -> None:
    folder = RuntimeDir(tmp_path / "a" / "b")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    os.close(folder.file("ledger"))
    assert stat.S_IMODE((folder.path / "ledger").stat().st_mode) == 0o600
    folder.close()


def test_who_only_reads_does_not_make_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert RuntimeDir.found(path) is None
    assert not path.parent.exists()
    path.mkdir(0o700, parents=True)
    folder = RuntimeDir.found(path)
    assert folder is not None
    assert folder.path == path
    folder.close()
    path.chmod(0o755)
    with pytest.raises(RuntimeDirError, match="others may enter"):
        RuntimeDir.found(path)


def test_its_name_depends_on_the_user_alone() -> None:
    assert default_path() == Path(tempfile.gettempdir()) / f"poolguard-{os.geteuid()}"


def test_it_is_nowhere_else_while_nobody_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts while the disk is full would count in another ledger."""
    monkeypatch.setattr(tempfile, "tempdir", "/somewhere/else")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tmp_path.chmod(0o500)
    assert default_path().parent == tmp_path
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TMP", str(tmp_path))
    assert default_path().parent == tmp_path


def test_without_a_temporary_directory_the_error_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    with pytest.raises(RuntimeDirError, match="POOLGUARD_RUNTIME_DIR"):
        default_path()


def test_what_becomes_of_it_is_found(tmp_path: Path) -> None:
    folder = RuntimeDir(tmp_path / "run")
    fd = folder.file("ledger")
    assert folder.trouble() is None
    assert folder.leads_to("ledger", fd)
    (tmp_path / "run" / "ledger").rename(tmp_path / "run" / "other")
    assert not folder.leads_to("ledger", fd)
    os.close(folder.file("ledger"))
    assert not folder.leads_to("ledger", fd)
    os.close(fd)
    folder.path.chmod(0o750)
    assert "its mode is 0750" in str(folder.trouble())
    folder.path.chmod(0o700)
    folder.path.rename(tmp_path / "away")
    assert "is not there any more" in str(folder.trouble())
    folder.path.mkdir(0o700)
    assert "another thing" in str(folder.trouble())
    folder.close()


def test_it_is_locked_against_those_who_tidy_up(tmp_path: Path) -> None:
    """systemd-tmpfiles tries for an exclusive lock, and passes by where it gets none."""
    folder = RuntimeDir(tmp_path / "run")
    other = os.open(folder.path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder.close()
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def refused(path: Path) -> str:
    with pytest.raises(RuntimeDirError) as caught:
        RuntimeDir(path)
    text = str(caught.value)
    assert str(path) in text
    assert "POOLGUARD_RUNTIME_DIR" in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(mode)
    assert f"its mode is {mode:04o}" in refused(path)


@pytest.mark.parametrize("path", ["/", "/usr", tempfile.gettempdir()])
def test_nobody_is_told_to_remove_or_to_close_off_what_is_others(path: str) -> None:
    """Root owns all of these, and is told no more than anybody else."""
    text = refused(Path(path))
    assert "to a path where nothing is yet" in text
    assert [word for word in ("emove", "chmod", "0700", "make it") if word in text] == []


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    refused(tmp_path / "run")


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    refused(tmp_path / "run")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", 12345, 12345)
    assert "it belongs to uid 12345" in refused(tmp_path / "run")


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _hard_link(path: Path) -> None:
    path.with_name("other").write_text("")
    os.link(path.with_name("other"), path)


@pytest.mark.parametrize("put", [_link, _hard_link, Path.mkdir, os.mkfifo])
def test_only_a_plain_file_of_ours_is_opened(tmp_path: Path, put: object) -> None:
    assert callable(put)
    folder = RuntimeDir(tmp_path / "run")
    put(tmp_path / "run" / "ledger")
    with pytest.raises(RuntimeDirError, match="run/ledger cannot be used"):
        folder.file("ledger")
    folder.close()


def test_a_bell_is_heard_until_its_reader_is_gone(tmp_path: Path) -> None:
    folder = RuntimeDir(tmp_path / "run")
    bell = folder.make_fifo("bell")
    assert folder.ring("bell")
    assert os.read(bell, 10) == b"!"
    with pytest.raises(BlockingIOError):
        os.read(bell, 10)
    os.close(bell)
    assert not folder.ring("bell")
    assert not folder.ring("never made")
    folder.close()


def test_a_bell_that_nobody_answers_fills_and_blocks_nobody(tmp_path: Path) -> None:
    folder = RuntimeDir(tmp_path / "run")
    bell = folder.make_fifo("bell")
    for _ in range(70_000):  # more than a pipe holds
        assert folder.ring("bell")
    os.close(bell)
    folder.close()
