"""What the page about watching shows is run as it stands there: script, CI job and example."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Answer, write_project
from tests.jobs.monitor.test_monitoring import later

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "guide" / "monitoring.md").read_text(encoding="utf-8")


def block(language: str, title: str = "") -> str:
    """The first block of that language that begins with this line."""
    shown = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return next(each for each in shown if each.startswith(title))


def test_the_script_watches_every_night_and_the_job_runs_it(
    repairkit: Callable[..., Answer], tmp_path: Path
) -> None:
    tools = tmp_path / "bin"
    for folder in ("bin", "models", "incoming"):
        (tmp_path / folder).mkdir()
    for name, words in (("repairkit", "-m repairkit"), ("python3", "")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        tool.chmod(0o755)
    project = write_project(tmp_path / "models")
    out = tmp_path / "models" / "repaired.onnx"
    answer = repairkit("patch", project.model, "--remove", "conv:1", "--quiet", "-o", out)
    assert answer.code == 0, answer.err
    (tmp_path / "watch.sh").write_text(block("bash", "# watch.sh"))
    job = yaml.safe_load(block("yaml", "# .github/workflows/watch.yml"))["jobs"]["watch"]
    (step,) = (each["run"] for each in job["steps"] if each.get("name") == "Watch")
    kept = next(each["with"]["path"] for each in job["steps"] if "cache" in each.get("uses", ""))
    assert kept == "watch"
    source = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    places = {"PATH": os.pathsep.join([str(tools), os.environ["PATH"]]), "PYTHONPATH": source}

    def night(right: float, seed: int) -> subprocess.CompletedProcess[str]:
        later(out, tmp_path / "incoming" / "today.npz", 90, right=right, seed=seed)
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step],
            cwd=tmp_path, env={**os.environ, **places}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    good = night(1.0, 0)
    assert (good.returncode, good.stdout) == (0, ""), good.stderr
    bad = night(0.1, 1)
    assert bad.returncode == 4
    assert bad.stdout.startswith("The promise surely does not hold for accuracy")
    document = json.loads((tmp_path / "watch" / "last.json").read_text())
    assert (document["looks"], document["images"]["counted"]) == (2, 180)
    shown = (tmp_path / "watch" / "repaired.prom").read_text()
    for name in re.findall(r"repairkit_monitor_\w+", TEXT):
        assert f"# TYPE {name} gauge" in shown


@pytest.mark.long
def test_the_example_ends_as_it_says(
    repairkit: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the sample with the repair that the demonstration makes."""
    assert repairkit("demo", "-o", "repairkit-demo", "--quiet").code == 0
    exec(compile(block("python"), "monitoring.md", "exec"), {"np": np})
    monkeypatch.setenv("COLUMNS", "120")
    calls = re.findall(r"^    repairkit (monitor .* --data week\d\.npz)$", TEXT, re.MULTILINE)
    first, second = (repairkit(*shlex.split(call)) for call in calls)
    assert (first.code, second.code) == (0, 4)
    told = block("text", "│ figure").splitlines()
    assert len(told) == 5
    printed = [re.sub(r"\s+", " ", line).replace("┃", "│") for line in second.out.splitlines()]
    for line in told:
        assert any(re.sub(r"\s+", " ", line).split(", ...")[0] in each for each in printed), line
