"""Pages from documents: right and small whatever the data, and nothing in a name has an effect."""

from __future__ import annotations

import html
import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from repairkit.report.charts import draw_picture, interval_mark, spread, ticks
from repairkit.report.model_card import model_card
from repairkit.report.page import render_patch, render_run
from repairkit.report.story import verdict
from tests.report.documents import HOSTILE, PICTURES, figure, repair, scoring

SCHEMA = json.loads((files("repairkit.report") / "report.schema.json").read_text())
_MOST_BYTES = 5_000_000
_VOID = {"meta", "br", "link", "img", "input", "hr"}


class Reading(HTMLParser):
    """Text and elements of a page; fails where an element is not closed in its place."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.opened, self.tags, self.ids = "", [], [], []
        self.addresses: list[str] = []
        self.shown: set[str] = set()
        self.feed(page)
        assert not self.opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert not [name for name in given if name.startswith("on")]
        self.ids += [given["id"]] if "id" in given else []
        self.addresses += [str(given[key]) for key in ("href", "src") if key in given]
        if tag not in _VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.opened.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        self.shown.add(data)


def read(page: str) -> Reading:
    assert len(page.encode()) < _MOST_BYTES
    found = Reading(page)
    assert "script" not in found.tags
    assert all(a.startswith(("data:image/", "#")) for a in found.addresses)
    assert len(set(found.ids)) == len(found.ids)
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", found.text)
    return found


def check(document: dict[str, Any]) -> Reading:
    jsonschema.validate(document, SCHEMA)
    return read(render_patch(document, PICTURES))


def fairness(groups: list[str]) -> dict[str, Any]:
    three = {"before": figure(0.6), "after": figure(0.7), "difference": figure(0.1)}
    return {
        "suite": "test",
        "n_images": 300,
        "small": "a group is small where it has fewer than 30 images",
        "columns": [
            {
                "name": "sex x age",
                "rates_of": "cat",
                "groups": [
                    {"name": g, "n": 3, "small": True, **three, "rates": {"selection_rate": three}}
                    for g in groups
                ],
                "disparities": {"accuracy": three, "equalized_odds_difference": three},
            }
        ],
    }


MANY = [f"group {n}" for n in range(1000)]
ODD: dict[str, dict[str, Any]] = {
    "plain": repair(),
    "all groups equal": repair(gain=0.0),
    "one group": repair(["all of them"]),
    "no groups": repair([], objective="accuracy"),
    "a group of 3 images": repair(["many", "few"], sizes=[300, 3]),
    "1,000 groups and classes": repair(MANY, classes=[f"class {n}" for n in range(1000)]),
    "2,000 filters frozen": repair(frozen=[f"conv:{n}" for n in range(2000)]),
    "regression": repair([], objective="mean_absolute_error", classes=()),
    "nothing tried": repair(trials=[]),
    "nothing seen": repair(interpretation=repair([])["interpretation"] | {"filters": []}),
    "trees": repair(
        patch={"source": "s", "frozen": [["trees:1", [0.1, 0.9]]]},
    ),
    "fairness": repair(["a", "b"], fairness=fairness(["a", "b"])),
    "a thousand groups by column": repair(MANY, fairness=fairness(MANY)),
    "huge and tiny numbers": repair([], gain=1e-300, objective="loss"),
    "chosen jointly": repair(
        selection={
            "how": "joint",
            "parts": {"choosing": 120, "confirmation": 80},
            "candidates": 7,
            "looks": 21,
            "steps": [
                {
                    "n_frozen": 1,
                    "added": "conv:1",
                    "dropped": None,
                    "kept": True,
                    "reason": "surely better",
                }
            ],
            "trade_off": [
                {
                    "n_frozen": n,
                    "filters": [f"conv:{i + 1}" for i in range(n)],
                    "kept": n < 3,
                    "worst_group_accuracy": 0.6 + n / 10,
                    "accuracy": 0.7,
                }
                for n in range(4)
            ],
            "confirmation": {"change": {"worst_group_accuracy": figure(0.1)}, "reached": {}},
            "promised": figure(0.1),
            "declined": None,
        },
    ),
    "baselines": repair(
        baselines=[
            {
                "method": "leave-one-out",
                "n_frozen": 2,
                "note": "freezes those whose absence alone does most",
                "figures": {
                    "worst_group_accuracy": {
                        "before": figure(0.6),
                        "after": figure(0.65),
                        "difference": figure(0.05),
                    }
                },
            },
            {"method": "conductance", "n_frozen": 2, "note": "not available here", "figures": {}},
        ],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_the_page_of_a_repair_is_right_whatever_the_data(name: str) -> None:
    document = ODD[name]
    found = check(document)
    names = [*document["evaluations"]["before"]["groups"]]
    names += [filter_id for filter_id, _ in document["patch"]["frozen"]]
    assert all(name in found.shown for name in names)
    grouped = bool(document["evaluations"]["before"]["groups"])
    assert ("sensitive attribute is not needed at inference" in found.text) == grouped


def test_blocks_that_are_there_are_shown_and_others_left_out() -> None:
    plain, chosen = check(ODD["plain"]), check(ODD["chosen jointly"])
    assert "baselines" not in plain.ids
    assert "baselines" in check(ODD["baselines"]).ids
    assert "tried and given up" in chosen.text
    assert "tried and given up" not in plain.text
    assert "few images" in check(ODD["a group of 3 images"]).text
    assert "few images" not in plain.text
    assert "equalized odds difference" in check(ODD["fairness"]).text


@pytest.mark.parametrize("n_filters", [1, 2, 40, 17_216])
def test_the_page_of_a_run_is_right_whatever_its_size(n_filters: int) -> None:
    document = scoring(n_filters)
    jsonschema.validate(document, SCHEMA)
    assert f"{n_filters:,}" in read(render_run(document, PICTURES)).text


def test_the_page_of_a_run_shows_what_the_folder_holds() -> None:
    document = scoring()
    bare = {**document, **dict.fromkeys(("statistics", "spread", "removal", "interpretation"))}
    bare["scores"] = {**document["scores"], "harmful": None, "helpful": None, "samples": None}
    jsonschema.validate(bare, SCHEMA)
    assert "filters" not in read(render_run(bare)).ids


@pytest.mark.parametrize("evil", HOSTILE)
def test_names_are_text_and_nothing_else(evil: str) -> None:
    document = repair([evil, "other"], frozen=[f"{evil}:1"], classes=[evil, "dog"], notes=[evil])
    document["data"]["path"] = document["source"]["path"] = evil
    document["result"]["path"] = f"{evil}.onnx"
    document["versions"]["repairkit"] = evil
    found = check(document)
    shown = evil.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert found.text.count(shown) >= 6
    run = read(render_run(scoring(site=evil), PICTURES))
    assert shown in run.text
    card = model_card(document)
    assert "\u202e" not in card
    # The last line is a span of code, in which nothing is markup.
    prose = card.partition("- Undo:")[0]
    assert "<" not in prose
    assert "[y](" not in prose


def test_a_card_keeps_every_row_of_its_table_in_one_line() -> None:
    card = model_card(repair(["a|b\n| c", "d"]))
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert all(len(re.split(r"(?<!\\)\|", row)) == 7 for row in rows)
    assert "not needed at inference" in card


@pytest.mark.parametrize(
    ("gain", "reach", "tone"),
    [(0.1, 0.05, "good"), (0.1, 0.2, "open"), (-0.1, 0.05, "bad"), (0.0, 0.0, "open")],
)
def test_the_verdict_follows_the_interval(gain: float, reach: float, tone: str) -> None:
    document = repair(gain=gain)
    document["evaluations"]["difference"]["worst_group_accuracy"] = figure(gain, reach)
    assert verdict(document)["tone"] == tone


def test_less_is_better_where_it_is() -> None:
    document = repair([], objective="robustness", gain=-0.2)
    assert verdict(document)["tone"] == "good"
    assert 'class="dot gain"' in render_patch(document)


def test_a_page_tells_what_was_read_and_left_out() -> None:
    told = {
        "images": 1234,
        "labels": "labels are class numbers",
        "outputs": "outputs are read as <logits>",
        "left_out": ["2 files are no images"],
    }
    run = scoring()
    for page in (
        render_patch({**repair(), "read": told}),
        render_run({**run, "run": {**run["run"], "read": told}}),
    ):
        assert "images; labels are class numbers; outputs are read as &lt;logits&gt;." in page
        assert "Left out: 2 files are no images." in page


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.booleans(), st.booleans())
def test_a_colour_tells_good_from_bad_not_high_from_low(
    near: float, reach: float, high: bool, more_is_better: bool
) -> None:
    low_end, high_end = (near, near + reach) if high else (-near - reach, -near)
    drawn = interval_mark(
        (low_end + high_end) / 2,
        low_end,
        high_end,
        within=(-3.0, 3.0),
        description="",
        more_is_better=more_is_better,
    )
    wanted, other = ("gain", "loss") if high == more_is_better else ("loss", "gain")
    assert wanted in drawn
    assert other not in drawn


def test_overlapping_parts_are_warned_of() -> None:
    document = repair()
    document["parts"]["overlaps"] = [["selection", "test"]]
    assert "too good to be believed" in html.unescape(render_patch(document))


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=8))
@example([-3e-21, -5e-157])
def test_axes_hold_their_values_and_have_few_round_ticks(values: list[float]) -> None:
    low, high = spread(values)
    assert low < high
    assert low <= min(values)
    assert max(values) <= high
    found = ticks(low, high)
    assert len(found) <= 8
    assert all(low - abs(low) * 1e-6 <= t <= high + abs(high) * 1e-6 for t in found)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (8, 8, 1), (8, 8, 2), (300, 200, 3), (3, 500, 3), (2000, 1, 1), (5, 5, 4)]
)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_any_array_becomes_a_small_picture_or_none(shape: tuple[int, ...], dtype: str) -> None:
    pixels = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    found = draw_picture(pixels)
    if shape == (1, 1, 1):
        assert found is None
        return
    assert found is not None
    assert found.uri.startswith("data:image/")
    assert len(found.uri) < 20_000
    assert (found.height, found.width) == shape[:2]


def test_what_is_no_image_is_no_picture() -> None:
    assert draw_picture(np.zeros(7, np.float32)) is None
    spoilt = np.full((4, 4, 1), math.nan, np.float32)
    assert draw_picture(spoilt) is not None
