"""Removal curves and trade-offs on pages and in pictures, from documents of known numbers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

from repairkit.metrics.catalogue import measure_of
from repairkit.report.curves import lead_sentence, overlay_svg
from repairkit.report.page import render_overlay, render_patch, render_run
from repairkit.report.repair_page import attack_trade_off
from tests.report.documents import HOSTILE, PICTURES, curve, figure, overlay, repair, scoring
from tests.report.test_page import read


def with_curve(**more: Any) -> dict[str, Any]:
    document = scoring()
    return {**document, "run": {**document["run"], "curve": curve(), **more}}


def test_the_page_of_a_run_leads_with_its_curve() -> None:
    page = render_run(with_curve(), PICTURES)
    shown = read(page)
    assert shown.text.index("What freezing them does") < shown.text.index("The lowest values")
    assert lead_sentence(curve()) in shown.text
    assert "With 2\N{NO-BREAK SPACE}filters frozen" in lead_sentence(curve())
    assert "90.0 % to 20.0 %" in lead_sentence(curve()).replace("\N{NO-BREAK SPACE}", " ")
    assert "200 images of the test part, which scored nothing" in shown.text
    assert "that judged the removal curve alone" in shown.text
    assert "left untouched" not in shown.text
    # The numbers of the chart stand in a table, with their intervals.
    table = page[page.index("Numbers of the curves") :]
    assert "85.0 to 95.0" in table.partition("</table>")[0].replace("\N{NO-BREAK SPACE}", " ")


def test_a_chart_draws_every_figure_and_the_bands_of_values_and_draws() -> None:
    page = render_run(with_curve(), PICTURES)
    chart = page[page.index('<svg class="chart"') :].partition("</svg>")[0]
    n_figures = sum(len(line["figures"]["accuracy"]) for line in curve()["lines"])
    assert len(re.findall(r'class="dot ', chart)) == n_figures
    assert len(re.findall(r'class="band ', chart)) == 3


def test_a_run_that_may_reward_a_dead_model_warns_at_the_top() -> None:
    collapse = {
        "metric": "robustness",
        "accuracy": "clean_accuracy",
        "k": 16,
        "overlap": 12,
        "expected": 0.1,
        "chance": 1e-9,
        "filters": ["conv:1"],
    }
    page = render_run(with_curve(rewards_collapse=collapse), PICTURES)
    warning = page[page.index('<p class="warning">') :].partition("</p>")[0]
    assert "12 are among the 16" in warning
    assert '<p class="warning">' not in render_run(with_curve(), PICTURES)


def test_names_in_a_picture_are_text_and_nothing_else() -> None:
    for hostile in HOSTILE:
        document = overlay(label=hostile)
        picture = ET.fromstring(overlay_svg(document))
        assert not [e for e in picture.iter() if e.tag.endswith("script")]
        assert not [k for e in picture.iter() for k in e.attrib if k.startswith("on")]
        read(render_overlay(document))


def test_a_figure_that_is_not_known_leaves_a_gap() -> None:
    document = overlay()
    document["lines"][0]["figures"][1] = None
    document["lines"][1]["figures"][2] = {"value": None, "low": None, "high": None}
    drawn = [e for e in ET.fromstring(overlay_svg(document)).iter() if "dot" in e.get("class", "")]
    assert len(drawn) == 3 * len(document["lines"]) - 2
    read(render_overlay(document))


def attacked(points: list[dict[str, Any]]) -> dict[str, Any]:
    document = repair(objective="robustness")
    both = {"clean_accuracy": figure(0.8), "attack_success": figure(0.9)}
    for end in ("before", "after"):
        evaluation = document["evaluations"][end]
        document["evaluations"][end] = {
            **evaluation,
            "metrics": {**evaluation["metrics"], **both},
        }
    measures = {name: measure_of(name).to_json() for name in both}
    selection = {**(document.get("selection") or {}), "trade_off": points}
    return {**document, "measures": document["measures"] | measures, "selection": selection}


def test_a_search_against_an_attack_is_drawn_step_by_step() -> None:
    steps = [
        {
            "n_frozen": n,
            "kept": True,
            "clean_accuracy": 0.8 - 0.1 * n,
            "attack_success": 1 - 0.3 * n,
        }
        for n in range(3)
    ]
    aside = {"n_frozen": 3, "kept": False, "clean_accuracy": 0.1, "attack_success": 0.1}
    drawn = attack_trade_off(attacked([*steps, aside]))
    assert drawn is not None
    assert [point["n_frozen"] for point in drawn["points"]] == [0, 1, 2]
    assert drawn["points"][2]["attack_success"] == steps[2]["attack_success"]
    # The plain recipe knows accuracy and robustness, whose sum is the success.
    plain = [{"n_frozen": n, "kept": True, "accuracy": 0.8, "robustness": 0.1} for n in range(2)]
    drawn = attack_trade_off(attacked(plain))
    assert drawn is not None
    assert abs(drawn["points"][0]["attack_success"] - 0.9) < 1e-12
    assert attack_trade_off(attacked(steps[:1])) is None
    assert attack_trade_off(repair()) is None
    assert 'id="attack-trade-off"' not in render_patch(repair(), PICTURES)
