"""Who pays for a repair is named in the first sentence, and a loss within noise is not."""

from __future__ import annotations

from typing import Any

import pytest

from repairkit.metrics.catalogue import measure_of
from repairkit.report.model_card import model_card
from repairkit.report.page import render_patch
from repairkit.report.story import find_payers, verdict
from repairkit.report.wording import visible
from tests.report.documents import HOSTILE, figure, repair


def moved(name: str, change: float, reach: float = 0.02, n: int = 300) -> dict[str, Any]:
    three = {"before": figure(0.8), "after": figure(0.8 + change)}
    return {"name": name, "n": n, **three, "difference": figure(change, reach)}


def with_group(document: dict[str, Any], name: str, change: float, reach: float) -> dict[str, Any]:
    document["evaluations"]["difference"][f"accuracy:{name}"] = figure(change, reach)
    return document


def first_sentence(document: dict[str, Any]) -> str:
    return verdict(document)["sentence"].partition(". ")[0]


@pytest.mark.parametrize(
    ("gain", "reach", "before", "after"),
    [(0.1, 0.05, "good", "mixed"), (0.1, 0.2, "open", "bad"), (-0.1, 0.05, "bad", "bad")],
)
def test_a_payer_turns_the_colour_and_stands_in_the_first_sentence(
    gain: float, reach: float, before: str, after: str
) -> None:
    plain = repair(["kept", "paid"])
    plain["evaluations"]["difference"] |= {
        "worst_group_accuracy": figure(gain, reach),
        "accuracy:kept": figure(0.0, 0.01),
        "accuracy:paid": figure(-0.03, 0.04),
    }
    assert verdict(plain)["tone"] == before
    assert find_payers(plain) == []
    assert "paid" not in verdict(plain)["sentence"]
    paid = with_group(plain, "paid", -0.08, 0.04)
    assert verdict(paid)["tone"] == after
    assert "surely lowers the accuracy of group paid" in first_sentence(paid)
    page, card = render_patch(paid), model_card(paid)
    assert f'class="verdict {after}"' in page
    assert visible(first_sentence(paid)) in page
    assert "accuracy of group paid" in card.partition("Made by")[0]
    assert page.count('class="flag pays"') == 1


def test_the_worst_payers_come_first_and_none_is_passed_over() -> None:
    names = [f"hall {k}" for k in range(20)]
    document = repair(names)
    for k, name in enumerate(names):
        with_group(document, name, -0.01 * (k + 1), 0.005)
    found = find_payers(document)
    assert found is not None
    assert [payer["name"] for payer in found] == names[::-1]
    told = first_sentence(document)
    assert told.index("hall 19") < told.index("hall 18") < told.index("17 more")
    assert "chance alone may name 1" in verdict(document)["sentence"]


def test_each_column_alone_is_looked_at_beside_the_cross() -> None:
    views = [
        {"name": "sex", "rates_of": "1", "groups": [moved("woman", -0.05), moved("man", 0.05)]},
        {"name": "sex x age", "rates_of": "1", "groups": [moved("woman x old", -0.05, 0.09)]},
    ]
    for view in views:
        view["disparities"] = {}
        view["groups"] = [{**group, "small": False, "rates": {}} for group in view["groups"]]
    fairness = {"suite": "test", "n_images": 300, "small": "few", "columns": views}
    document = repair(["woman x old"], fairness=fairness)
    assert [(p["name"], p["column"]) for p in find_payers(document) or []] == [("woman", "sex")]
    assert "group woman" in first_sentence(document)
    render_patch(document)


def test_without_groups_classes_are_looked_at() -> None:
    classes = [moved("cat", -0.2), moved("dog", -0.01), moved("cow", 0.3, n=12)]
    document = repair([], objective="accuracy", classes=("cat", "dog"))
    assert find_payers(document) is None
    document["classes"] = classes
    assert [payer["name"] for payer in find_payers(document) or []] == ["cat"]
    assert "accuracy of class cat" in first_sentence(document)
    page = render_patch(document)
    assert 'id="classes"' in page
    assert "accuracy of cow (few images)" in model_card(document).replace("\\", "")


@pytest.mark.parametrize("evil", HOSTILE)
def test_the_name_of_a_payer_is_text_and_nothing_else(evil: str) -> None:
    document = with_group(repair([evil, "other"]), evil, -0.2, 0.05)
    page = render_patch(document)
    assert "<script" not in page
    assert "\u202e" not in page
    assert verdict(document)["tone"] == "mixed"


def test_what_is_not_defined_is_a_dash_without_an_interval() -> None:
    unknown = {"value": None, "ci_low": None, "ci_high": None}
    view = {
        "name": "site",
        "rates_of": "cat",
        "groups": [
            {**moved("wet", 0.1), "small": False, "rates": {"true_positive_rate": None}},
            {**moved("dry", 0.1), "small": False, "rates": {"true_positive_rate": moved("", 0.1)}},
        ],
        "disparities": {"equal_opportunity_difference": None, "accuracy": moved("", 0.1)},
        "left_out": ["true positive rate not defined: wet has no images of cat"],
    }
    fairness = {"suite": "test", "n_images": 300, "small": "few", "columns": [view]}
    document = repair(["wet", "dry"], fairness=fairness)
    document["measures"]["recall:cat"] = measure_of("recall:cat").to_json()
    for key in ("before", "after"):
        document["evaluations"][key]["metrics"]["recall:cat"] = unknown
    document["evaluations"]["difference"]["recall:cat"] = unknown
    page, card = render_patch(document), model_card(document)
    odds = page.partition("equal opportunity difference")[2].partition("</tr>")[0]
    assert odds.count(">\n- <small></small>") + odds.count(">- <small></small>") == 3
    assert "%" not in odds
    assert "wet has no images of cat" in page
    row = next(line for line in card.splitlines() if line.startswith("| recall of cat"))
    assert row.endswith("| - | - | - |")
    document["objective"] = "recall:cat"
    assert "do not define it" in verdict(document)["sentence"]
