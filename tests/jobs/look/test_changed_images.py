"""Which answers a repair changed: counts add up, and the images shown are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from repairkit.engine.runner import OpenModel
from repairkit.jobs.look.changed_images import KINDS, SHOWN, kinds_of
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
SCHEMA = json.loads((files("repairkit.report") / "report.schema.json").read_text())
ANSWERS = st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(-1, 2)), min_size=1)


@given(ANSWERS)
def test_every_changed_answer_is_of_one_kind(rows: list[tuple[int, int, int]]) -> None:
    labels, before, after = np.array(rows).T
    kinds = kinds_of(labels, before, after)
    assert ((kinds != "") == (before != after)).all()
    right = (before == labels).astype(int), (after == labels).astype(int)
    assert (kinds == "better").sum() - (kinds == "worse").sum() == (right[1] - right[0]).sum()
    assert (right[0] + right[1])[kinds == "other"].sum() == 0


def test_a_report_tells_which_answers_changed(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    answer = repairkit("patch", project.model, "--remove", "conv:2,conv:0", "-o", "out.onnx")
    assert answer.code == 0, answer.err
    document = json.loads((tmp_path / "out.report.json").read_text())
    jsonschema.validate(document, SCHEMA)
    changed = document["changed"]
    assert changed["n_changed"] == sum(changed["all"][kind]["n"] for kind in KINDS) > 0
    for kind in KINDS:
        assert changed["all"][kind]["n"] == sum(row[kind]["n"] for row in changed["sets"])
        shown = [image for image in changed["images"] if image["kind"] == kind]
        assert len(shown) == min(SHOWN, changed["all"][kind]["n"])
    assert {row["name"] for row in changed["sets"]} == {"a", "b"}
    _check_against_the_models(project, tmp_path / "out.onnx", changed)
    page = (tmp_path / "out.report.html").read_text()
    assert "What changed" in page
    # The same seed draws the same images.
    again = repairkit("patch", project.model, "--remove", "conv:2,conv:0", "-o", "again.onnx")
    assert again.code == 0
    assert json.loads((tmp_path / "again.report.json").read_text())["changed"] == changed


def _check_against_the_models(project: Project, patched: Path, changed: dict) -> None:
    """Run both models on the test part, and tap the frozen filters of the first."""
    subject = read_subject(project.model)
    bench = prepare(subject, Settings(data=project.data, groups=("group",)))
    suite = bench.parts.test
    images, labels = suite.batch(np.arange(len(suite))), suite.annotations.labels
    answers = []
    for model in (subject, read_subject(patched)):
        opened: OpenModel = model.opened()
        answers.append(opened.runner().run(images)[model.output].argmax(axis=1))
    before, after = answers
    place = {row: number for number, row in enumerate(suite.indices.tolist())}
    for image in changed["images"]:
        number = place[image["row"]]
        assert image["before"] == str(before[number]) != image["after"] == str(after[number])
        assert image["label"] == str(labels[number])
    assert changed["n_changed"] == int((before != after).sum())
    site = bench.roster.sites[0]
    tapped = bench.working.opened.tap((site.tensor,)).run(images)[site.tensor]
    for image in changed["images"]:
        responses = tapped[place[image["row"]]].mean(axis=(1, 2))
        for entry in image["frozen"]:
            channel = int(entry["filter"].partition(":")[2])
            assert abs(entry["response"] - responses[channel]) < 1e-5
            level = float(bench.working.levels[site.name][channel])
            if entry["from_level"] is not None:
                assert np.sign(entry["from_level"]) == np.sign(responses[channel] - level)
