"""The command that a page shows, run in a shell, makes the same model and the same patch."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Answer
from tests.unfair import SHORTCUT, write_unfair

Command = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home, in which everything lies."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_unfair(tmp_path, n=480)
    return tmp_path


def shown(page: Path, title: str) -> str:
    """A command as a reader copies it."""
    found = re.search(rf"<h3>{title}</h3><pre>(.*?)</pre>", page.read_text(), re.DOTALL)
    assert found, page
    return html.unescape(found[1])


def in_a_shell(command: str, folder: Path) -> None:
    """The command as it stands, with this Python's repairkit and no settings file."""
    script = f'repairkit() {{ "{sys.executable}" -m repairkit "$@"; }}\n{command} --quiet'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def check_again(folder: Path, name: str, home: Path) -> list[str]:
    """Choose again as the page says; the words of the command."""
    first = json.loads((folder / f"{name}.report.json").read_text())
    command = shown(folder / f"{name}.report.html", "Choose again")
    in_a_shell(command, folder)
    again = json.loads((folder / f"{name}.again.report.json").read_text())
    assert again["result"]["digest"] == first["result"]["digest"]
    assert again["patch_digest"] == first["patch_digest"]
    assert again["evaluations"] == first["evaluations"]
    for kind in ("report.html", "report.json", "model-card.md", "patch.json"):
        assert str(home) not in (folder / f"{name}.{kind}").read_text(), kind
    return command.split()


def repaired(answer: Answer) -> None:
    assert answer.code == 0, answer.err


@pytest.mark.long
def test_an_archive_with_crossed_groups(repairkit: Command, home: Path) -> None:
    repaired(
        repairkit(
            "patch", home / "model.onnx", "--data", home / "data.npz", "--group", "town,group",
            "--objective", "accuracy", "--max-group-drop", "0.9", "--max-drop", "0.02",
            "--confirm-share", "0.4", "--method", "exact", "--test", "0.25", "--absent", "zero",
            "--seed", "4", "-o", "out.onnx",
        )
    )  # fmt: skip
    words = check_again(home, "out", home)
    assert {"--max-group-drop", "--confirm-share", "--test", "--absent", "--method"} <= set(words)


def test_a_project_file_and_names_with_spaces_and_quotes(
    repairkit: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / 'it\'s a "project" $HOME'
    folder.mkdir()
    stored = dict(np.load(home / "data.npz"))
    stored["the group, asked"] = stored.pop("group")
    np.savez(folder / "images & co.npz", **stored)
    shutil.copy(home / "model.onnx", folder / "a model.onnx")
    (folder / "repairkit.toml").write_text(
        'model = "a model.onnx"\ndata = "images & co.npz"\ngroups = ["the group, asked"]\n'
        'seed = 3\nclasses = ["no, never", "yes"]\n[parts]\ntest = 0.35\nselection = 0.45\n'
    )
    monkeypatch.chdir(folder)
    repaired(
        repairkit("patch", "--objective", "accuracy", "--max-group-drop", "1", "-o", "my out.onnx")
    )
    (folder / "repairkit.toml").unlink()
    check_again(folder, "my out", home)
    for title in (
        "Prove that nothing else was changed",
        "Give the original back, byte for byte",
        "Apply the same patch again",
    ):
        in_a_shell(shown(folder / "my out.report.html", title), folder)
    original = (folder / "a model.onnx").read_bytes()
    assert (folder / "my out.original.onnx").read_bytes() == original
    assert (folder / "my out.again.onnx").read_bytes() == (folder / "my out.onnx").read_bytes()


@pytest.mark.long
def test_a_folder_of_classes_with_preprocessing(repairkit: Command, home: Path) -> None:
    stored = np.load(home / "data.npz")
    pixels = np.clip(np.rint(30 * (stored["x"][:, :, 0, 0] + 4)), 0, 255).astype(np.uint8)
    for row, (pixel, label) in enumerate(zip(pixels, stored["y"], strict=True)):
        place = home / "-pictures" / ("a no", "b yes")[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixel[None, None]).resize((2, 2)).save(place / f"{row}.png")
    repaired(
        repairkit(
            "patch", home / "model.onnx", "--data", home / "-pictures", "--resize", "1,1",
            "--scale", "1/30", "--mean", "4,4,4", "--std", "1,1,1", "--objective", "loss",
            "--level", "zero", "--method", "exact", "-o", home / "out.onnx",
        )
    )  # fmt: skip
    words = check_again(home, "out", home)
    assert {"--resize", "--scale", "--mean", "--level"} <= set(words)


@pytest.mark.long
def test_another_cure_without_a_test_part(repairkit: Command, home: Path) -> None:
    repaired(
        repairkit(
            "patch", home / "model.onnx", "--data", home / "data.npz", "--group", "group",
            "--fairness", "--repair", "last-layer", "--promise", "smooth", "--test", "none",
            "-o", "out.onnx",
        )
    )  # fmt: skip
    words = check_again(home, "out", home)
    assert {"--repair", "--promise", "--test"} <= set(words)


@pytest.mark.long
def test_filters_that_were_named_and_a_model_elsewhere(
    repairkit: Command, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    repaired(
        repairkit(
            "patch", home / "model.onnx", "--data", home / "data.npz", "--group", "group",
            "--remove", f"{SHORTCUT},conv:2", "--calibration", "all", "-o", "out.onnx",
        )
    )  # fmt: skip
    words = check_again(elsewhere, "out", home)
    assert "~/model.onnx" in words


@pytest.mark.long
def test_a_choice_from_the_values_of_a_run_and_the_run_itself(
    repairkit: Command, home: Path
) -> None:
    (home / "repairkit.toml").write_text(
        'data = "data.npz"\ngroups = ["group"]\n[parts]\ntest = 0.35\nselection = "0.450"\n'
    )
    scored = repairkit(
        "score", "model.onnx", "--metric", "loss", "--method", "repair", "--for-patch",
        "--max-evaluations", "400", "-o", "runs/of loss",
    )  # fmt: skip
    assert scored.code == 0, scored.err
    repaired(
        repairkit(
            "patch", "model.onnx", "--scores", "runs/of loss", "--objective", "accuracy",
            "--max-group-drop", "1", "-o", "out.onnx",
        )
    )  # fmt: skip
    (home / "repairkit.toml").unlink()
    check_again(home, "out", home)
    run = home / "runs" / "of loss"
    assert repairkit("report", run, "--no-pictures").code == 0
    for name in ("report.html", "report.json"):
        assert str(home) not in (run / name).read_text()
    in_a_shell(shown(run / "report.html", "Score again"), home)
    assert (home / "runs/of loss.again/scores.csv").read_text() == (run / "scores.csv").read_text()
