"""The samples run as written, and the packaged one can be made anew."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.mark.long
@pytest.mark.parametrize("path", sorted(SAMPLES.glob("[0-9]*.py")), ids=lambda p: p.stem)
def test_a_sample_runs_as_written(path: Path, tmp_path: Path) -> None:
    if "keras" in path.stem and any(find_spec(m) is None for m in ("tensorflow", "tf2onnx")):
        pytest.skip("Keras on TensorFlow is not installed (pip install 'repairkit[keras]')")
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def run_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command, and what it printed; it must end well."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the demo was run, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_in(folder, sys.executable, "-m", "repairkit", "demo", "-o", "my demo").stdout


def next_commands(printed: str) -> list[list[str]]:
    """What the demo says to try next."""
    lines = printed.partition("Then try:")[2].splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("  ")]


def test_the_demo_repairs_the_worst_group_and_proves_it(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    assert "dark-on-light" in printed
    assert "verification of the written file passed" in printed
    assert (folder / "my demo" / "model.patched.onnx").is_file()


def test_the_demo_ends_with_what_to_open_and_what_to_try(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    page = printed.partition("Open the page in a browser: ")[2].splitlines()[0]
    assert "<title>" in (folder / page).read_text(encoding="utf-8")
    *_, (program, *words) = tried = next_commands(printed)
    assert [command[3] for command in tried] == ["score", "patch", "revert"]
    run_in(folder, program, *words)
    given_back = (folder / "my demo" / "original.onnx").read_bytes()
    assert given_back == (SAMPLES / "digits" / "model.onnx").read_bytes()


@pytest.mark.slow
def test_what_the_demo_says_to_try_works_as_it_stands(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    for words in next_commands(printed)[:-1]:  # the last one is run above
        run_in(folder, *words)
    assert (folder / "my demo" / "best.report.html").is_file()


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
