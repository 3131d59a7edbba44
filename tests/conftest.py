"""Fixtures that several packages of tests use."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from repairkit.cli import stage_display
from tests import models
from tests.running import run

LONG = (
    "adapters",
    "benchmarks",
    "cli/test_again.py",
    "cli/test_ask.py",
    "cli/test_choosing.py",
    "cli/test_companions.py",
    "cli/test_cross_confirming.py",
    "cli/test_defending.py",
    "cli/test_endings.py",
    "cli/test_few_evaluations.py",
    "cli/test_trust.py",
    "cli/test_without_test.py",
    "cli/test_wrong_preprocessing.py",
    "fuzz",
    "jobs/ask",
    "jobs/attack",
    "jobs/backdoor/test_reversing.py",
    "jobs/curve",
    "jobs/dissect",
    "jobs/dream/test_gradient_dreams.py",
    "jobs/export",
    "jobs/owners",
    "jobs/proof/test_outside.py",
    "jobs/proof/test_provenance_guide.py",
    "jobs/proof/test_quantising_on_zoo.py",
    "jobs/proof/test_runtimes_on_zoo.py",
    "jobs/repair/aims/test_ways_to_mark.py",
    "jobs/repair/cures",
    "jobs/repair/test_found_groups.py",
    "jobs/repair/test_remove_top.py",
    "jobs/score/test_small_first.py",
    "metrics/test_group_metrics.py",
    "notebook",
    "report/test_atlas_in_chromium.py",
    "report/test_in_chromium.py",
    "site",
    "test_ci_page.py",
    "test_contributing.py",
    "worked_jobs",
)
"""Tests with frameworks, browsers or kernels, and of whole jobs: `long`, whatever they say."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folders = [Path(__file__).parent / name for name in LONG]
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in folders):
            item.add_marker(pytest.mark.long)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="renew the golden files")


@pytest.fixture(autouse=True)
def _modules_of_one_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget modules that a test imported from its own folder.

    Another test may write a module of the same name, and would be given this one.
    """
    folder, modules = tmp_path_factory.getbasetemp().resolve(), set(sys.modules)
    yield
    for finder in list(sys.meta_path):
        if Path(getattr(finder, "folder", "/")).is_relative_to(folder):
            sys.meta_path.remove(finder)
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _no_lines_of_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine prints lines about stages after some seconds: tests of messages are spared."""
    monkeypatch.setattr(stage_display, "FIRST_SECONDS", math.inf)
    monkeypatch.setattr(stage_display, "SILENT_SECONDS", math.inf)


@dataclass(frozen=True)
class Project:
    """A folder with a tiny model and images of it, in two groups."""

    folder: Path
    model: Path
    data: Path


def write_project(folder: Path, *, n: int = 120, layer: str = "own_bias") -> Project:
    """Images that the model classifies mostly as labelled; group `b` is labelled worse."""
    model = models.LAYERS[layer]()
    onnx.save(model, folder / "model.onnx")
    x = models.images(n, seed=3)
    logits = np.concatenate([run(model, {"image": x[i : i + 1]})[0] for i in range(n)])
    rng = np.random.default_rng(4)
    group = np.where(np.arange(n) % 3 == 0, "b", "a")
    wrong = rng.random(n) < np.where(group == "b", 0.5, 0.1)
    y = np.where(wrong, rng.integers(0, 3, n), logits.argmax(1))
    np.savez(folder / "data.npz", x=x, y=y, group=group)
    (folder / "repairkit.toml").write_text(
        'model = "model.onnx"\ndata = "data.npz"\ngroups = ["group"]\n', encoding="utf-8"
    )
    return Project(folder, folder / "model.onnx", folder / "data.npz")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project in a folder of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    return write_project(folder)


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def repairkit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Answer]:
    """Runs a command in a folder of its own and returns how it ended."""
    from repairkit.cli import run as run_command

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Answer:
        code = run_command([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call
