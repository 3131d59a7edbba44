"""Files that belong together appear together, and replace only their like."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import models
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
BESIDE = (
    "own.patch.json",
    "own.report.json",
    "own.report.html",
    "own.model-card.md",
    "own.change.html",
    "own.cdx.json",
    "own.intoto.json",
)
ROOT = Path(__file__).parents[2]


def patching(project: Project) -> tuple[str | Path, ...]:
    return ("patch", project.model, "--remove", "conv:1", "-o", "own.onnx", "--quiet")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def state(place: Path) -> tuple[object, ...]:
    """All but when a file was read, and what lies beside it."""
    found = os.lstat(place)
    beside = sorted(p.name for p in place.parent.iterdir())
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, beside


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe", "read-only"])
def test_what_the_user_has_beside_the_model_stays(
    repairkit: Command, project: Project, tmp_path: Path, name: str, kind: str
) -> None:
    place = tmp_path / name
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.write_text('{"mine": true}')
        place.chmod(0o444 if kind == "read-only" else 0o644)
    before = state(place)
    answer = repairkit(*patching(project))
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert name in answer.err
    assert state(place) == before


def test_what_repairkit_wrote_is_replaced_and_an_edited_card_is_not(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    for _ in range(2):
        answer = repairkit(*patching(project))
        assert answer.code == 0, answer.err
    assert {"own.onnx", *BESIDE} <= set(contents(tmp_path))
    card = tmp_path / "own.model-card.md"
    card.write_text(card.read_text() + "\nMy own words.\n")
    before = contents(tmp_path)
    answer = repairkit(*patching(project))
    assert answer.code == 1
    assert "own.model-card.md: exists" in answer.err
    assert contents(tmp_path) == before


def test_the_patch_file_of_the_model_that_is_repaired_stays(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    assert repairkit(*patching(project)).code == 0
    before = contents(tmp_path)
    words = ("patch", "own.onnx", "--data", project.data, "--remove", "conv:2", "-o", "own.bin")
    answer = repairkit(*words)
    assert answer.code == 1
    assert "own.patch.json" in answer.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("failing", range(1, 9))
def test_a_full_disk_leaves_what_was_there(
    repairkit: Command,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
) -> None:
    if failing % 2:
        assert repairkit(*patching(project)).code == 0
    before = contents(tmp_path)
    left, sync = [failing], os.fsync

    def full(file: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    answer = repairkit(*patching(project))
    assert answer.code == 1
    assert "No space left" in answer.err
    assert contents(tmp_path) == before


DYING = """
import os
from pathlib import Path
def dying(self, target):
    os.kill(os.getpid(), 9)
Path.replace = dying
from repairkit.cli import main
main()
"""


def test_a_killed_patch_leaves_no_patch_file_without_its_model(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", DYING, *map(str, patching(project))]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
    assert subprocess.run(words, cwd=tmp_path, env=environment, check=False).returncode == -9
    left = contents(tmp_path)
    assert left
    assert all(name.startswith(".own.") and name.endswith(".tmp") for name in left)
    assert repairkit(*patching(project)).code == 0
    assert repairkit("verify", project.model, "own.onnx", "--patch", "own.patch.json").code == 0


def test_models_and_attacks_replace_only_their_like(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    onnx.save(models.LAYERS["own_bias"](), tmp_path / "mine.onnx")
    np.savez(tmp_path / "mine.npz", x=np.zeros(3), attack=np.array("{}"))
    instrument = ("instrument", project.model, "--absent", "zero", "-o")
    attack = ("attack", project.model, "--queries", "2", "--images", "4", "--range", "-9,9")
    for words, mine, ours in (
        (instrument, "mine.onnx", "ours.onnx"),
        ((*attack, "-o"), "mine.npz", "ours.npz"),
    ):
        kept = (tmp_path / mine).read_bytes()
        answer = repairkit(*words, mine)
        assert (answer.code, answer.err.count("\n")) == (1, 1)
        assert f"{mine}: exists" in answer.err
        assert (tmp_path / mine).read_bytes() == kept
        for _ in range(2):
            answer = repairkit(*words, ours)
            assert answer.code == 0, answer.err
    answer = repairkit("patch", project.model, "--remove", "conv:1", "-o", "ours.onnx")
    assert "ours.onnx: exists" in answer.err


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/null", "/proc/self/fd/1"])
def test_devices_are_told_from_files(repairkit: Command, project: Project, place: str) -> None:
    for words in (
        ("patch", project.model, "--remove", "conv:1"),
        ("instrument", project.model, "--absent", "zero"),
        ("means", project.model),
    ):
        answer = repairkit(*words, "-o", place)
        assert (answer.code, answer.err.count("\n")) == (1, 1)
        assert place in answer.err
