"""`verify` repeats what it has proven, and nothing else that a claim or a patch file says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repairkit.formats.patch_file import claim_digest
from repairkit.graph.metadata import PATCHES_KEY, read_claims, write_claims
from repairkit.jobs.proof.verifying import sign_claim
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def patched(repairkit: Command, project: Project, tmp_path: Path) -> Path:
    assert repairkit("patch", project.model, "--remove", "conv:2,conv:0", "--quiet").code == 0
    return tmp_path / "model.patched.onnx"


def reclaim(path: Path, change: Change) -> None:
    """Alter the claim in a model and sign it anew, as anybody can."""
    model = onnx.load(path)
    (claim,) = read_claims(model)
    del claim["digest"]
    change(claim)
    write_claims(model, [sign_claim(claim)])
    onnx.save(model, path)


def other_constant(claim: dict[str, Any]) -> float:
    return float(claim["frozen"][0][1]) + 0.25


CHANGES: dict[str, Change] = {
    "a figure": lambda c: c.update(worst_group_after=0.99),
    "a note": lambda c: c.update(notes=["checked by the maker"]),
    "a false constant first": lambda c: c["frozen"].insert(
        0, [c["frozen"][0][0], other_constant(c)]
    ),
    "a false constant last": lambda c: c["frozen"].append([c["frozen"][0][0], other_constant(c)]),
    "the same twice": lambda c: c["frozen"].append(c["frozen"][0]),
    "another filter": lambda c: c["frozen"].append(["conv:1", 0.0]),
    "a rounded constant": lambda c: c["frozen"][0].__setitem__(
        1, float(np.nextafter(c["frozen"][0][1], np.inf))
    ),
    "a constant in a list": lambda c: c["frozen"][0].__setitem__(1, [c["frozen"][0][1]]),
    "a third column": lambda c: c["frozen"][0].append("proven"),
    "kinds as one text": lambda c: c.update(include="dense"),
    "a name that is a number": lambda c: c.update(output=3),
    "nothing frozen": lambda c: c.update(frozen=[]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_claim_that_says_more_than_can_be_proven_is_refused(
    repairkit: Command, project: Project, patched: Path, change: str
) -> None:
    assert repairkit("verify", project.model, patched).code == 0
    reclaim(patched, CHANGES[change])
    answer = repairkit("verify", project.model, patched, "--json")
    assert answer.code == 3, answer.out
    assert "0.99" not in answer.out
    assert answer.err.count("\n") == 1


def test_a_claim_is_written_in_one_way_alone(
    repairkit: Command, project: Project, patched: Path
) -> None:
    model = onnx.load(patched)
    (entry,) = (p for p in model.metadata_props if p.key == PATCHES_KEY)
    entry.value = entry.value.replace('{"', '{"accuracy":1,"accuracy":2,"', 1)
    onnx.save(model, patched)
    assert repairkit("verify", project.model, patched).code == 3


def reseal(path: Path, change: Change) -> None:
    document = json.loads(path.read_text())
    del document["seal"]
    change(document)
    path.write_text(json.dumps({**document, "seal": claim_digest(document)}))


def test_figures_of_a_patch_file_are_called_unproven(
    repairkit: Command, project: Project, patched: Path
) -> None:
    file = patched.with_name("model.patched.patch.json")

    def boast(document: dict[str, Any]) -> None:
        document["notes"] = ["verified by nobody"]
        document["evaluations"]["after"]["metrics"]["accuracy"]["value"] = 0.98765
        document["boast"] = 0.98765
        document["result"]["boast"] = 0.98765
        document["frozen"][0]["boast"] = 0.98765

    reseal(file, boast)
    words = ("verify", project.model, patched, "--patch", file)
    answer = repairkit(*words, "--json")
    assert answer.code == 3
    assert "98765" not in answer.out
    assert "is not the file that model.patched.intoto.json names" in answer.err
    patched.with_name("model.patched.intoto.json").unlink()  # which a forger can do too
    answer = repairkit(*words, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    named = {"evaluations", "notes", "boast", "result.boast", "frozen.boast"}
    assert named <= set(told["unproven"])
    answer = repairkit(*words)
    assert "unproven: what the patch file says of" in answer.out
    for text in (answer.out, json.dumps(told)):
        assert "98765" not in text
        assert "verified by nobody" not in text
    assert json.loads(repairkit("verify", project.model, patched, "--json").out)["unproven"] == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d["frozen"].append(d["frozen"][0]), "twice"),
        (lambda d: d["source"].update(layout=[{"name": "", "pieces": ["AAAA"]}]), "layout"),
    ],
)
def test_a_patch_file_that_could_not_undo_its_patch_is_refused(
    repairkit: Command, project: Project, patched: Path, change: Change, word: str
) -> None:
    file = patched.with_name("model.patched.patch.json")
    reseal(file, change)
    answer = repairkit("verify", project.model, patched, "--patch", file)
    assert answer.code in (1, 3)
    assert word in answer.err
