"""What the page about CI shows is run as it stands there, on a sound and on a changed model."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.conftest import Answer, write_project

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guide" / "ci.md"
Document = dict[str, Any]
Command = Callable[..., Answer]
Shell = Callable[..., subprocess.CompletedProcess[str]]


def blocks() -> dict[str, Any]:
    """The YAML of the page by its first line."""
    text = PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n# (.*?)\n(.*?)```", text, re.DOTALL)
    return {title: yaml.safe_load(content) for title, content in shown}


def steps_of(steps: list[Document]) -> dict[str, str]:
    return {step["name"]: step["run"] for step in steps if "run" in step}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a script as a runner does, with `repairkit` on the path."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in (("repairkit", "-m repairkit"), ("python3", "")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        tool.chmod(0o755)

    def run(script: str, **values: str) -> subprocess.CompletedProcess[str]:
        places = os.pathsep.join([str(tools), os.environ["PATH"]])
        source = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
        surroundings = {**os.environ, "PATH": places, "PYTHONPATH": source, **values}
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=surroundings,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def patched(repairkit: Command, tmp_path: Path) -> Path:
    """A patched model under the names of the page; the images are not where they were."""
    folder = tmp_path / "models"
    folder.mkdir()
    project = write_project(folder)
    out = folder / "repaired.onnx"
    answer = repairkit("patch", project.model, "--remove", "conv:1", "--quiet", "-o", out)
    assert answer.code == 0, answer.err
    project.data.unlink()
    return out


def change(model: Path) -> None:
    """Change one weight that the patch did not touch."""
    proto = onnx.load(model)
    weight = next(t for t in proto.graph.initializer if t.name == "fc_w")
    array = numpy_helper.to_array(weight).copy()
    array.flat[-1] += np.float32(0.5)
    weight.CopyFrom(numpy_helper.from_array(array, "fc_w"))
    onnx.save(proto, model)


@pytest.mark.long
def test_the_steps_of_the_workflow_pass_and_fail_as_they_say(patched: Path, shell: Shell) -> None:
    workflow = blocks()[".github/workflows/models.yml"]
    steps = steps_of(workflow["jobs"]["verify"]["steps"])
    assert shell(steps["Verify"]).returncode == 0
    document = json.loads((patched.parents[1] / "verified.json").read_text())
    assert document["verified"] is True
    assert [frozen["filter"] for frozen in document["frozen"]] == ["conv:1"]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    entries = set(re.findall(r"`(\w+)`", " ".join(rows)))
    of_options = {"runtimes", "quantised"}
    assert {"verified", "frozen", "unproven"} <= entries - of_options <= set(document)
    change(patched)
    assert shell(steps["Verify"]).returncode == 3
    document = json.loads((patched.parents[1] / "verified.json").read_text())
    assert set(document) == {"error", "exit_code"}
    assert document["exit_code"] == 3
    assert "models/repaired.onnx: was changed after it was patched" in document["error"]
    assert shell(steps["Show the failure"]).stdout == f"::error::{document['error']}\n"


@pytest.mark.long
def test_the_action_takes_the_inputs_that_the_page_gives(patched: Path, shell: Shell) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    given = blocks()["a step of a job"][0]["with"]
    assert set(given) <= set(action["inputs"])
    verify = next(step for step in action["runs"]["steps"] if step["name"] == "Verify")
    defaults = {name: each.get("default", "") for name, each in action["inputs"].items()}
    values = {
        name: {**defaults, **given}[re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", text)[1]]
        for name, text in verify["env"].items()
    }
    assert shell(verify["run"], **values).returncode == 0
    assert shell(verify["run"], **{**values, "PATCH": ""}).returncode == 0
    change(patched)
    done = shell(verify["run"], **values)
    assert done.returncode == 3
    assert done.stdout.startswith("::error::models/repaired.onnx: was changed")


def test_the_hook_refuses_a_changed_model(patched: Path, shell: Shell) -> None:
    (known,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    ((used,),) = (repo["hooks"] for repo in blocks()[".pre-commit-config.yaml"]["repos"])
    assert used["id"] == known["id"]
    for name in ("models/model.onnx", "models/repaired.onnx", "models/repaired.patch.json"):
        assert re.search(known["files"], name)
        assert re.search(used["files"], name)
    assert known["pass_filenames"] is False
    command = f"{known['entry']} {shlex.join(used['args'])}"
    assert shell(command).returncode == 0
    change(patched)
    done = shell(command)
    assert done.returncode == 3
    assert "was changed after it was patched" in done.stderr


def test_verify_takes_images_or_noise(repairkit: Command, patched: Path) -> None:
    original, words = patched.with_name("model.onnx"), ("--data", "other.npz", "--noise")
    assert repairkit("verify", original, patched).code == 1  # the images are gone
    answer = repairkit("verify", original, patched, *words)
    assert answer.code == 1
    assert "give one of the two" in answer.err
    assert repairkit("verify", original, patched, "--noise").code == 0


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what CFF 1.2 requires
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["version"]) == (project["name"], project["version"])
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert [each["family-names"] for each in paper["authors"]] == ["Ghorbani", "Zou"]
