"""Heads of a transformer are valued, frozen, proven and undone like any filter."""

from itertools import combinations
from math import factorial
from pathlib import Path

import numpy as np
import onnx
import pytest

import repairkit
from repairkit.cli import run as run_command
from tests.running import run
from tests.transformers import HEADS_SITE, Transformer, images

NETWORK = Transformer(heads=3, values=4, seed=3)
DATA = {"calibration": "train", "selection": "train", "test": "late"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The network, and images that it classifies mostly as labelled."""
    onnx.save(NETWORK.model("gathered"), tmp_path / "model.onnx")
    x, rng = images(90, seed=4), np.random.default_rng(0)
    y = np.where(rng.random(90) < 0.8, NETWORK.logits(x).argmax(axis=1), rng.integers(0, 3, 90))
    y[:3] = np.arange(3)
    split = np.where(np.arange(90) < 60, "train", "late")
    np.savez(tmp_path / "data.npz", x=x, y=y, split=split)
    return tmp_path


def test_exact_values_are_those_of_all_coalitions(project: Path) -> None:
    scored = repairkit.score(
        project / "model.onnx", project / "data.npz", method="exact", include=["heads"],
        sites=[HEADS_SITE], out=project / "run", accept_preprocessing=True, curve=False, **DATA,
    )  # fmt: skip
    with np.load(project / "data.npz") as stored:
        x, y = stored["x"][:60], stored["y"][:60]
    means = NETWORK.heads_of(x).mean(axis=(0, 2))

    def worth(present: set[int]) -> float:
        absent = {head: means[head] for head in range(3) if head not in present}
        return float((NETWORK.logits(x, absent).argmax(axis=1) == y).mean())

    for head in range(3):
        others = [h for h in range(3) if h != head]
        value = sum(
            factorial(size) * factorial(2 - size) / 6
            * (worth({*chosen, head}) - worth(set(chosen)))
            for size in range(3)
            for chosen in combinations(others, size)
        )  # fmt: skip
        assert scored.scores.values[head, 0] == pytest.approx(value, abs=1e-9)


def test_a_patch_of_heads_is_proven_undone_and_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, patched = project / "model.onnx", project / "patched.onnx"
    words = ["--data", str(project / "data.npz"), "--include", "heads,mlp"]
    parts = [f"--{name}={value}" for name, value in DATA.items()]
    frozen = f"{HEADS_SITE}:1,hidden:5"
    command = ["patch", str(model), "--remove", frozen, "-o", str(patched), *words, *parts]
    assert run_command([*command, "--accept-preprocessing"]) == 0
    assert run_command(["verify", str(model), str(patched)]) == 0
    shown = capsys.readouterr().out
    assert f"{HEADS_SITE}:1" in shown
    x = images(5, seed=9)
    changed = onnx.load(patched)
    changed.graph.output.append(onnx.helper.make_empty_tensor_value_info("heads"))
    heads = run(changed, {"image": x})[-1]
    assert np.ptp(heads[:, 1], axis=(0, 1)).max() < 1e-5
    assert np.ptp(heads[:, 0], axis=(0, 1)).min() > 1e-2
    assert run_command(["revert", str(patched), "-o", str(project / "back.onnx")]) == 0
    assert (project / "back.onnx").read_bytes() == model.read_bytes()
