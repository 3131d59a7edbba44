"""Nothing runs that nobody asked for: planted modules, and code that a file names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repairkit import score
from repairkit.core.errors import SettingsError
from repairkit.jobs.look.reporting import report_run
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
ROOT = Path(__file__).parents[2]
QUICK = ("--method", "leave-one-out", "--quiet")
OWN = "def {name}(outputs, labels, attributes):\n    return (outputs.argmax(1) == labels) * 1.0\n"


def plant(folder: Path, name: str) -> None:
    """A module that leaves a trace when it is run."""
    trace = folder / f"{name}.ran"
    (folder / f"{name}.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n{OWN.format(name='judge')}"
    )


def traces(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ran"))


@pytest.mark.parametrize("start", [["-m", "repairkit"], ["-P", "-m", "repairkit"]])
def test_planted_modules_do_not_run(tmp_path: Path, start: list[str]) -> None:
    for name in ("pyarrow", "onnxruntime", "dill", "numpy", "typer", "planted_adapter", "random"):
        plant(tmp_path, name)
    info = tmp_path / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[repairkit.adapters]\nbad = planted_adapter:judge\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
    done = subprocess.run(
        [sys.executable, *start, "export", "model.h6"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no adapter takes it" in done.stderr
    assert "planted" not in done.stderr
    assert traces(tmp_path) == []


def test_a_metric_in_the_working_folder_can_be_named(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    plant(tmp_path, "named_metric")
    answer = repairkit("score", project.model, "--metric", "named_metric:judge", *QUICK)
    assert answer.code == 0, answer.err
    assert traces(tmp_path) == ["named_metric.ran"]


def test_a_settings_file_runs_its_metric_with_trust_alone(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    plant(tmp_path, "toml_metric")
    file = project.folder / "repairkit.toml"
    file.write_text(file.read_text() + 'metrics = ["accuracy", "toml_metric:judge"]\n')
    answer = repairkit("score", project.model, "-o", "run", *QUICK)
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    for part in (str(file), "toml_metric:judge", "--trust"):
        assert part in answer.err
    with pytest.raises(SettingsError, match="trust=True"):
        score(project.model, method="leave-one-out")
    assert traces(tmp_path) == []
    # Other jobs need no metric, and what the keyboard names runs.
    assert repairkit("patch", project.model, "--remove", "conv:1", "--quiet").code == 0
    assert repairkit("score", project.model, "--metric", "loss", "-o", "a", *QUICK).code == 0
    assert traces(tmp_path) == []
    assert repairkit("score", project.model, "-o", "run", "--trust", *QUICK).code == 0
    assert traces(tmp_path) == ["toml_metric.ran"]


def test_a_run_folder_runs_its_metric_with_trust_alone(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    assert repairkit("score", project.model, "-o", "run", *QUICK).code == 0
    assert repairkit("score", project.model, "-o", "other", *QUICK).code == 0
    plant(tmp_path, "run_metric")
    file = tmp_path / "run" / "run.json"
    document = json.loads(file.read_text())
    document["settings"]["metrics"] = ["run_metric:judge"]
    document["settings"]["method"] = "run_metric:judge"
    document["metrics"] = {"run_metric:judge": document["metrics"]["accuracy"]}
    file.write_text(json.dumps(document))
    for words in (("report", "run"), ("patch", project.model, "--scores", "run")):
        answer = repairkit(*words)
        assert (answer.code, answer.err.count("\n")) == (1, 1)
        for part in (str(Path("run") / "run.json"), "run_metric:judge", "--trust"):
            assert part in answer.err, answer.err
    with pytest.raises(SettingsError, match="trust=True"):
        report_run(tmp_path / "run")
    # These read the folder and run nothing of it.
    for words in (
        ("report", "run", "--no-pictures"),
        ("compare", "run", "other"),
        ("merge", "run", "other", "-o", "both"),
        ("score", project.model, "--exclude-top-of", "run", "-o", "third", *QUICK),
        ("score", project.model, "-o", "run", "--resume", *QUICK),
    ):
        repairkit(*words)
    assert traces(tmp_path) == []
    answer = repairkit("report", "run", "--trust")
    assert answer.code == 0, answer.err
    assert traces(tmp_path) == ["run_metric.ran"]


def test_what_file_and_keyboard_name_both_runs(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    plant(tmp_path, "both_name")
    name = "both_name:judge"
    assert repairkit("score", project.model, "--metric", name, "-o", "run", *QUICK).code == 0
    words = ("patch", project.model, "--scores", "run", "--quiet")
    assert "--trust" in repairkit(*words).err
    for named in (("--objective", name), ("--metric", name), ("--trust",)):
        assert "--trust" not in repairkit(*words, *named).err
