"""The samples run as written, and the packaged one can be made anew."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("[0-9]*.py")), ids=lambda p: p.stem)
def test_a_sample_runs_as_written(path: Path, tmp_path: Path) -> None:
    if "keras" in path.stem and any(find_spec(m) is None for m in ("tensorflow", "tf2onnx")):
        pytest.skip("Keras on TensorFlow is not installed (pip install 'repairkit[keras]')")
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_demo_repairs_the_worst_group_and_proves_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from repairkit.cli import main; main()", "demo", "-o", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dark-on-light" in done.stdout
    assert "verification of the written file passed" in done.stdout
    assert (tmp_path / "demo" / "model.patched.onnx").is_file()


def test_the_packaged_sample_is_small() -> None:
    folder = SAMPLES / "digits"
    held = sum((folder / name).stat().st_size for name in ("model.onnx", "digits.npz"))
    assert held < 2_000_000


@pytest.mark.slow
def test_training_the_sample_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        subprocess.run(
            [sys.executable, str(SAMPLES / "digits" / "train.py"), str(folder)],
            check=True,
            capture_output=True,
        )
        made.append([(folder / f).read_bytes() for f in ("model.onnx", "digits.npz")])
    assert made[0] == made[1]
