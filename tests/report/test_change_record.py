"""The change record has the facts of the report, in words that need no explanation."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.report.records.change_record import change_facts, render_change
from repairkit.report.story import find_payers, verdict
from tests.report.documents import HOSTILE, figure, repair
from tests.report.test_page import ODD, Reading, fairness, read

# Words of the field that a manager or an auditor need not know.
JARGON = re.compile(
    r"\b(accuracy|baseline|calibration|channel|coalition|confidence|cross|epoch|fold|folds|frozen|"
    r"freez\w+|interval|layer|logits?|metric|neuron|objective|out of fold|part of the test|p-value|"
    r"probe|recall|Shapley|selection part|significant\w*|tensors?|test part)\b",
    re.IGNORECASE,
)


def record(document: dict[str, Any]) -> Reading:
    found = read(render_change(document))
    assert found.ids[0] == "main"
    assert {"failed", "changed", "pays", "limits", "undo", "files"} <= set(found.ids)
    return found


def text_of(found: Reading) -> str:
    """What is read below the style."""
    return " ".join(found.text.rpartition("}")[2].replace("\xa0", " ").split())


@pytest.mark.parametrize("name", [name for name in ODD if "thousand" not in name])
def test_any_repair_has_a_record_without_jargon(name: str) -> None:
    document = ODD[name] | {"notes": []}
    found = record(document)
    told = text_of(found)
    named = {document["measures"][document["objective"]]["words"]}
    for words in named if document["objective"] == "loss" else set():
        told = told.replace(words, "")
    assert not JARGON.findall(told)
    assert len(told) < 5_000
    for digest in (document["source"]["digest"], document["result"]["digest"]):
        assert digest in told


@settings(max_examples=30, deadline=None)
@given(gain=st.floats(-0.4, 0.4).filter(lambda gain: abs(gain) > 0.001))
def test_its_verdict_and_figures_are_those_of_the_report(gain: float) -> None:
    document = repair(["dark", "light"], gain=gain)
    facts = change_facts(document)
    for key in ("tone", "word"):
        assert facts["verdict"][key] == verdict(document)[key]
    side = "surely better" if gain > 0 else "surely worse"
    assert f"That is {side}" in facts["verdict"]["sentence"]
    assert [row["sure"] for row in facts["rows"]] == [side] * 4
    evaluations = document["evaluations"]
    first = facts["rows"][0]
    assert first["after"] is evaluations["after"]["metrics"]["worst_group_accuracy"]
    assert first["difference"] is evaluations["difference"]["worst_group_accuracy"]
    (line, *_) = facts["pays"]
    assert ("surely gets fewer" in line) == bool(find_payers(document)) or "No group" in line


def test_those_that_pay_are_named_first_and_in_the_verdict() -> None:
    groups = [f"group {n}" for n in range(40)]
    document = repair(groups, gain=0.1)
    for name, loss in (("group 31", -0.3), ("group 17", -0.2)):
        document["evaluations"]["difference"][f"accuracy:{name}"] = figure(loss)
    facts = change_facts(document)
    assert facts["verdict"]["sentence"].endswith("and others pay for it: group 31 and group 17.")
    assert "group 31 surely gets fewer right answers" in facts["pays"][0]
    shown = [row["name"] for row in facts["rows"] if row["tone"] == "loss"]
    assert shown == ["Group group 17: right answers", "Group group 31: right answers"]
    assert len(facts["rows"]) + facts["n_more"] == 2 + len(groups)


def test_a_change_that_is_open_or_none_is_called_so() -> None:
    document = repair(["a", "b"], gain=0.0)
    assert "That is no change." in change_facts(document)["verdict"]["sentence"]
    moved = {"value": -0.01, "ci_low": -0.04, "ci_high": 0.02}
    document["evaluations"]["difference"] = dict.fromkeys(
        document["evaluations"]["difference"], moved
    )
    facts = change_facts(document)
    assert "That may be chance." in facts["verdict"]["sentence"]
    assert facts["pays"] == [
        "No group surely gets fewer right answers.",
        "A loss cannot be ruled out, at most for a: \N{MINUS SIGN}1.0\xa0points (likely "
        "\N{MINUS SIGN}4.0 to +2.0).",
    ]


def test_less_that_is_better_is_better() -> None:
    document = repair([], objective="mean_absolute_error", gain=-0.1)
    facts = change_facts(document)
    assert "surely better" in facts["verdict"]["sentence"]
    assert facts["rows"][0]["tone"] == "gain"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("fairness", "served some groups of images worse"),
        ("robustness", "altered on purpose fooled the model"),
        ("backdoor", "A hidden mark in an image"),
        ("named", "No failure was named"),
        ("objective", "was not good enough"),
    ],
)
def test_what_failed_follows_what_was_asked(how: str, words: str) -> None:
    document = repair()
    document["choice"]["how"] = how
    found = text_of(record(document))
    assert words in found
    attacked = how in ("robustness", "backdoor")
    assert ("New ones may succeed" in found) == attacked


def test_images_to_fix_and_a_class_to_forget_are_told() -> None:
    fixed = {"to_fix": {"n": 40, "wrong": 30, "mended": 20, "broken": 1}}
    assert "Of 40 images that were named as a problem, the model answered 30 wrongly." in text_of(
        record(repair(choice=repair()["choice"] | {"how": "fix"}, fixed=fixed | SOME))
    )
    forgotten = {"class": "dog"} | FORGOTTEN
    found = text_of(record(repair(forgotten=forgotten)))
    assert "Nothing failed: the model was to stop recognising class dog." in found
    assert "traces of it may remain" in found


SOME = {"elsewhere": {"n": 1, "wrong": 0, "mended": 0, "broken": 0}, "mended_share": None}
SOME |= {"suite": "test"}
FORGOTTEN = {"chance": 0.1, "suite": "test", "recall": figure(0.1), "probe": {}}


def test_what_makes_figures_doubtful_is_a_limit() -> None:
    parts = repair()["parts"] | {"overlaps": [["selection", "test"]]}
    document = repair(["a"], parts=parts, read={"first_look": {"doubt": "wrong scale"}})
    document |= {"fairness": fairness(["a"]), "notes": ["one", "two"]}
    found = text_of(record(document))
    for words in ("too good to be believed", "prepared wrongly", "few images", "2 notes"):
        assert words in found


def test_a_changed_last_layer_and_trees_are_told_in_their_words() -> None:
    head = {"kind": "bias", "layer": "fc", "bias": [0.0], "weight": None}
    patch = {"source": "s", "frozen": [], "head": head}
    found = text_of(record(repair(patch=patch)))
    assert "added to the model's score of each class" in found
    assert "set to a constant" not in found
    trees = text_of(record(ODD["trees"] | {"unit": "tree"}))
    assert "1 decision trees" in trees or "1 decision tree" in trees
    assert "filter" not in trees


@pytest.mark.parametrize("evil", HOSTILE)
def test_names_are_text_and_nothing_else(evil: str) -> None:
    document = repair([evil, "other"], frozen=[f"{evil}:1"], classes=[evil, "dog"], notes=[evil])
    document["data"]["path"] = document["source"]["path"] = evil
    document["result"]["path"] = f"{evil}.onnx"
    document["evaluations"]["difference"][f"accuracy:{evil}"] = figure(-0.2, 0.05)
    found = record(document)
    shown = evil.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert shown in found.text
