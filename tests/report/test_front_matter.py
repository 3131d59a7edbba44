"""The library of Hugging Face reads the head of a card and finds every figure of the report."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.report.model_card import front_matter, is_own_card, marked_card, model_card
from tests.report.documents import HOSTILE, figure, repair

hub = pytest.importorskip("huggingface_hub")
yaml = pytest.importorskip("yaml")

names = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8)
NUMBERS = st.floats(-1e300, 1e300).filter(lambda value: abs(value) > 1e-300 or not value)


def results_of(card: str) -> dict[tuple[str, str | None], Any]:
    """What the library reads, by metric and slice."""
    read = hub.ModelCard(card).data
    assert read.to_dict()["library_name"] == "onnx"
    assert read.license is None
    return {(one.metric_type, one.dataset_config): one for one in read.eval_results}


@settings(max_examples=30, deadline=None)
@given(groups=st.lists(names, max_size=3, unique=True), value=NUMBERS, classes=names)
def test_every_figure_is_read_as_it_was(groups: list[str], value: float, classes: str) -> None:
    document = repair(groups, gain=0.25)
    document["evaluations"]["after"]["metrics"]["accuracy"] = figure(value, 0.0)
    if not groups:
        row = {key: figure(value, 0.0) for key in ("before", "after", "difference")}
        document["classes"] = [{"name": classes, "n": 3, **row}]
    results = results_of(marked_card(document))
    evaluations = document["evaluations"]
    for name, after in evaluations["after"]["metrics"].items():
        read = results.pop((name, None))
        assert read.metric_value == after["value"]
        assert read.metric_args["ci_low"] == after["ci_low"]
        assert read.metric_args["change"] == evaluations["difference"][name]["value"]
        assert (read.dataset_split, read.dataset_name) == ("test", "faces.csv")
        assert read.task_type == "image-classification"
    wanted = groups or [f"class: {classes}"]
    assert [config for _, config in results] == wanted
    for (name, config), read in results.items():
        assert name == "accuracy"
        of_group = evaluations["after"]["groups"].get(config, {"value": value})
        assert read.metric_value == of_group["value"]


def test_no_name_breaks_out_of_the_head() -> None:
    document = repair(HOSTILE, classes=HOSTILE, frozen=[f"{HOSTILE[0]}:1"])
    document["data"]["path"] = "---\n- x: [\x85\u2028\ud800\U0001f600].csv"
    document["result"]["path"] = 'a": b\\.onnx'
    card = marked_card(document)
    assert len(results_of(card)) == 2 + len(HOSTILE)
    assert hub.ModelCard(card).data.model_name == 'a": b\\'
    assert hub.ModelCard(card).text.strip() == model_card(document).strip()


def test_of_very_many_groups_the_head_holds_those_that_pay_and_fare_worst() -> None:
    groups = [f"group {number}" for number in range(300)]
    document = repair(groups, gain=0.0)
    for name, low in (("group 7", 0.1), ("group 250", 0.2)):
        document["evaluations"]["after"]["groups"][name] = figure(low)
    document["evaluations"]["difference"]["accuracy:group 299"] = figure(-0.3)
    results = results_of(marked_card(document))
    assert len(results) == 2 + 100
    assert {("accuracy", name) for name in ("group 7", "group 250", "group 299")} <= results.keys()


def test_numbers_without_a_point_stay_numbers_in_yaml() -> None:
    document = repair([])
    for value in (1e-7, -3e22, 1e16, 5.0, 0.1):
        document["evaluations"]["after"]["metrics"]["accuracy"] = figure(value, 0.0)
        block = yaml.safe_load(front_matter(document))
        assert block["model-index"][0]["results"][0]["metrics"][0]["value"] == value


def test_without_figures_the_head_has_tags_alone() -> None:
    document = repair([])
    for key in ("before", "after"):
        document["evaluations"][key]["metrics"] = {}
    assert yaml.safe_load(front_matter(document)) == {
        "library_name": "onnx",
        "tags": ["onnx", "model-repair", "repairkit"],
    }


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_card_is_known_until_a_byte_changes(data: st.DataObject) -> None:
    card = marked_card(repair(["a", "b"]))
    assert is_own_card(card)
    at = data.draw(st.integers(0, len(card) - 1))
    other = data.draw(st.characters(exclude_categories=["Cs"]).filter(lambda c: c != card[at]))
    assert not is_own_card(card[:at] + other + card[at + 1 :])
    assert not is_own_card(card + other)


def test_cards_of_earlier_versions_are_known_too() -> None:
    body = model_card(repair([]))
    mark = "<!-- A model card by repairkit, which replaces it as long as it is not edited: "
    old = f"{mark}{hashlib.sha256(body.encode()).hexdigest()} -->\n{body}"
    assert is_own_card(old)
    assert not is_own_card(f"{old} ")
    assert is_own_card("")
