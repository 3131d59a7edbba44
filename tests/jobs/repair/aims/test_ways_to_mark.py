"""Images to fix are named in several ways, which lead to the same repair."""

from __future__ import annotations

from pathlib import Path

import repairkit
from tests.jobs.repair.aims.conftest import SPOILT


def test_a_column_its_value_and_a_list_mark_the_same_images(spoilt: tuple[Path, Path]) -> None:
    model, data = spoilt
    documents = [
        repairkit.patch(model, data, out=model.with_name(f"{n}.onnx"), fix=fix, workers=n).document
        for n, fix in ((1, "wrong"), (2, "wrong=1"), (3, data.with_name("list.csv")))
    ]
    assert documents[0]["fixed"] == documents[1]["fixed"] == documents[2]["fixed"]
    changes = [document["evaluations"]["difference"] for document in documents]
    assert changes[0] == changes[1] == changes[2]


def test_all_images_of_a_kind_may_be_marked(spoilt: tuple[Path, Path]) -> None:
    model, data = spoilt
    done = repairkit.patch(model, data, out=model.with_name("a.onnx"), fix="corner=bright")
    (target,) = done.document["choice"]["targets"]
    there = done.document["fixed"]["to_fix"]
    assert there["wrong"] < there["n"]
    # Half of the kind are right, and of the others 60 % are to be mended.
    assert 0.7 < float(target.partition(">=")[2]) < 0.9
    assert [filter.id for filter in done.patch.filters] == [SPOILT]
