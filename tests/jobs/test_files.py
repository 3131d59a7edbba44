"""The files that repairkit writes fit the schemas that it ships."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

from repairkit.core.errors import RunFolderError, VerificationError
from repairkit.formats.patch_file import claim_digest, read_patch_file
from repairkit.graph.baking import revert
from repairkit.graph.metadata import write_claims
from repairkit.graph.stored.model_files import same_model
from tests.conftest import Answer, Project


def schema(name: str) -> dict:
    return json.loads((files("repairkit.formats") / f"{name}.schema.json").read_text())


def test_files_fit_their_schemas(
    repairkit: Callable[..., Answer], project: Project, tmp_path: Path
) -> None:
    for method in ("exact", "tmab", "weight-norm"):
        answer = repairkit(
            "score",
            project.model,
            "--method",
            method,
            "-o",
            method,
            "--max-evaluations",
            "200",
            "--quiet",
        )
        assert answer.code == 0, answer.err
        run = json.loads((tmp_path / method / "run.json").read_text())
        jsonschema.validate(run, schema("run"))
    assert repairkit("patch", project.model, "--remove", "conv:2", "--quiet").code == 0
    document = json.loads((tmp_path / "model.patched.patch.json").read_text())
    jsonschema.validate(document, schema("patch"))
    report = json.loads((tmp_path / "model.patched.report.json").read_text())
    assert report["evaluations"]["before"]["n_images"] == report["parts"]["test"]
    assert report["result"]["digest"] == document["result"]["digest"]


def test_a_patch_file_alone_undoes_the_patch_to_the_byte(
    repairkit: Callable[..., Answer], project: Project, tmp_path: Path
) -> None:
    assert repairkit("patch", project.model, "--remove", "conv:2,conv:0", "--quiet").code == 0
    file = read_patch_file(tmp_path / "model.patched.patch.json")
    undone = revert(onnx.load(tmp_path / "model.patched.onnx"), file.edits)
    write_claims(undone, [])
    assert same_model(undone, onnx.load(project.model))


def test_a_patch_can_be_made_to_a_patched_model(
    repairkit: Callable[..., Answer], project: Project, tmp_path: Path
) -> None:
    assert repairkit("patch", project.model, "--remove", "conv:2", "--quiet").code == 0
    data = ("--data", project.data)
    first = tmp_path / "model.patched.onnx"
    answer = repairkit("patch", first, *data, "--remove", "conv:0", "-o", "twice.onnx", "--quiet")
    assert answer.code == 0, answer.err
    assert repairkit("verify", first, "twice.onnx").code == 0
    assert repairkit("verify", project.model, "twice.onnx").code == 0
    assert repairkit("verify", "twice.onnx", first).code == 3


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ("", RunFolderError, "cannot be read"),
        ("[" * 100_000, RunFolderError, "cannot be read"),
        ("{}", RunFolderError, "is not a patch file"),
        ('{"kind": "repairkit patch", "schema": 9}', RunFolderError, "this version reads 1"),
        ('{"kind": "repairkit patch", "schema": 1}', RunFolderError, "broken patch file"),
    ],
)
def test_a_broken_patch_file_is_refused_in_one_line(
    tmp_path: Path, text: str, error: type[Exception], word: str
) -> None:
    path = tmp_path / "p.patch.json"
    path.write_text(text)
    with pytest.raises(error, match=word):
        read_patch_file(path)


def test_old_bytes_that_were_altered_are_found_out(
    repairkit: Callable[..., Answer], project: Project, tmp_path: Path
) -> None:
    assert repairkit("patch", project.model, "--remove", "conv:2", "--quiet").code == 0
    path = tmp_path / "model.patched.patch.json"
    document = json.loads(path.read_text())
    kept = base64.b64decode(document["edits"][0]["old"])
    document["edits"][0]["old"] = base64.b64encode(kept[::-1]).decode()
    path.write_text(json.dumps(document))
    with pytest.raises(VerificationError, match="was altered"):
        read_patch_file(path)
    del document["seal"]
    path.write_text(json.dumps({**document, "seal": claim_digest(document)}))  # sealed anew
    answer = repairkit("verify", project.model, "model.patched.onnx", "--patch", path)
    assert answer.code == 3
    assert "old bytes" in answer.err
    assert revert(onnx.load(tmp_path / "model.patched.onnx"), read_patch_file(path).edits)


def test_figures_are_taken_from_the_written_model_on_the_test_part(
    repairkit: Callable[..., Answer], project: Project, tmp_path: Path
) -> None:
    from tests.running import run

    answer = repairkit("patch", project.model, "--remove", "conv:2", "--test", "all", "--quiet")
    assert answer.code == 0, answer.err
    stored = np.load(project.data)
    report = json.loads((tmp_path / "model.patched.report.json").read_text())
    for name, path in (("before", project.model), ("after", tmp_path / "model.patched.onnx")):
        found = run(onnx.load(path), {"image": stored["x"]})[0].argmax(1)
        expected = float((found == stored["y"]).mean())
        assert report["evaluations"][name]["metrics"]["accuracy"]["value"] == pytest.approx(
            expected
        )
    assert ["calibration", "test"] in report["parts"]["overlaps"]
