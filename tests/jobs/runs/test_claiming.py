"""One process at a time writes into a run folder; the lock of a dead one is free."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import RunFolderError
from repairkit.jobs.runs import claiming
from repairkit.jobs.runs.claiming import LOCK, locked
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
HOLD = """
import sys
from pathlib import Path
from repairkit.jobs.runs.claiming import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_writes_and_reading_goes_on(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    words = ("score", project.model, "--method", "leave-one-out", "--quiet", "-o")
    for name in ("run", "other"):
        assert repairkit(*words, name).code == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with held(tmp_path / "run") as process:
        answer = repairkit(*words, "run")
        assert (answer.code, answer.err.count("\n")) == (1, 1)
        for part in ("run: process", str(process.pid), platform.node(), "since"):
            assert part in answer.err
        assert repairkit("compare", "run", "other").code == 0
        assert repairkit("report", "run", "--no-pictures", "-o", "page.html").code == 0
        now = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.name != LOCK}
        assert now == before
        process.kill()
        process.wait()
        answer = repairkit(*words, "run")
        assert answer.code == 0, answer.err
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_lock_of_a_killed_process_is_taken_over_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with held(tmp_path) as process:
        with pytest.raises(RunFolderError, match=str(process.pid)), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        with caplog.at_level(logging.WARNING), locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert "took over the lock" in caplog.text
    assert str(process.pid) in caplog.text


def test_a_lock_that_was_given_back_is_said_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with locked(tmp_path / "run"):
            (tmp_path / "run" / "kept").touch()
    assert caplog.text == ""
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]


def test_a_folder_that_came_to_nothing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for place in ("run", "kept/runs/one"):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / place):
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


@pytest.mark.parametrize("command", ["merge", "share", "score"])
def test_what_a_killed_process_left_is_in_nobodys_way(
    repairkit: Command,
    project: Project,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    command: str,
) -> None:
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out") as process:
        process.kill()
        process.wait()
    (tmp_path / "out" / ".run.json.0123456789abcdef.tmp").write_text('{"half')
    score = ("score", project.model, "--method", "leave-one-out", "--quiet", "-o")
    if command == "merge":
        stored = dict(np.load(project.data))
        np.savez(tmp_path / "more.npz", **{**stored, "x": stored["x"][::-1]})
        shared = (*score[:-1], "--absent", "zero", "-o")
        assert repairkit(*shared, "one").code == 0
        assert repairkit(*shared, "two", "--data", "more.npz", "--accept-preprocessing").code == 0
        answer = repairkit("merge", "one", "two", "-o", "out")
    elif command == "share":
        answer = repairkit(*score, "one", "--share", "out")
    else:
        answer = repairkit(*score, "out")
    assert answer.code == 0, answer.err
    assert "took over the lock" in caplog.text
    assert (tmp_path / "out" / "run.json").is_file()


def test_a_file_or_a_link_of_that_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("the user's")
    with pytest.raises(RunFolderError, match="no lock of repairkit's"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "the user's"
    (tmp_path / LOCK).rename(tmp_path / "target")
    (tmp_path / LOCK).symlink_to("target")
    with pytest.raises(RunFolderError), locked(tmp_path):
        pass
    assert (tmp_path / "target").read_text() == "the user's"


@pytest.mark.skipif(claiming.fcntl is None, reason="POSIX alone")
def test_without_locks_of_the_system_the_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(claiming.fcntl, "flock", unknown)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process, host, free in (
        (os.getppid(), platform.node(), False),
        (dead.pid, platform.node(), True),
        (dead.pid, "elsewhere", False),
    ):
        holder = {"process": process, "host": host, "since": "2026-01-01"}
        (tmp_path / LOCK).write_text(json.dumps(holder))
        if free:
            with locked(tmp_path):
                pass
            assert "took over" in caplog.text
        else:
            with pytest.raises(RunFolderError, match=f"{process} on {host}"), locked(tmp_path):
                pass
