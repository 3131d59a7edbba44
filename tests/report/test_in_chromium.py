"""The pages in a real Chromium: nothing runs, nothing is fetched, all can be seen and reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repairkit.report.diff_page import render_diff
from repairkit.report.page import render_overlay, render_patch, render_run
from repairkit.report.records.change_record import render_change
from tests import chromium
from tests.chromium import CHROMIUM, CONTRAST, MISSING, Watched, violations
from tests.jobs.diff.disguises import hostile_document
from tests.report.documents import HOSTILE, PICTURES, overlay, repair, scoring
from tests.report.test_page import ODD

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)

# What the colours have no part in is looked at once.
_LOOKS = [
    ("evil", "light", {}),
    pytest.param("run", "light", {}, marks=pytest.mark.slow),
    ("change", "light", {}),
    ("change", "dark", CONTRAST),
    ("evil", "dark", CONTRAST),
    pytest.param("run", "dark", CONTRAST, marks=pytest.mark.slow),
    pytest.param("curves", "light", {}, marks=pytest.mark.slow),
    ("diff", "light", {}),
    pytest.param("diff", "dark", CONTRAST, marks=pytest.mark.slow),
    pytest.param("curves", "dark", CONTRAST, marks=pytest.mark.slow),
]
_MEASURE_CHARTS = """
[...document.querySelectorAll('svg.chart')].map(chart => {
  const box = chart.getBoundingClientRect();
  return [box.width, box.height, chart.querySelectorAll('path, circle, rect').length];
})
"""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=MISSING)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started(playwright) as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    evil = repair(HOSTILE, frozen=[f"{name}:1" for name in HOSTILE], classes=HOSTILE, notes=HOSTILE)
    texts = {
        "evil": render_patch(evil, PICTURES),
        "joint": render_patch(ODD["chosen jointly"], PICTURES),
        "change": render_change(evil),
        "run": render_run(scoring(site=HOSTILE[0]), PICTURES),
        "curves": render_overlay(overlay(label=HOSTILE[0])),
        "diff": render_diff(hostile_document(folder)),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.parametrize(("name", "scheme", "rules"), _LOOKS)
def test_contrast_names_and_landmarks_pass_axe(
    browser: Any, pages: dict[str, Path], name: str, scheme: str, rules: dict[str, Any]
) -> None:
    with Watched(browser, pages[name], scheme) as watched:
        watched.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert violations(axe, watched, rules) == []


@pytest.mark.parametrize("name", ["evil", "joint", "change", "run", "curves", "diff"])
def test_a_page_says_nothing_asks_for_nothing_and_draws_its_charts(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    with Watched(browser, pages[name]) as watched:
        assert watched.said == []
        assert watched.outside == []
        assert watched.asked[0] == pages[name].as_uri()
        drawn = watched.page.evaluate(_MEASURE_CHARTS)
        assert drawn or name in ("change", "diff")  # which have tables alone
        assert all(width > 200 and height > 100 and marks > 0 for width, height, marks in drawn)


def test_hostile_names_are_seen_as_they_are_written(browser: Any, pages: dict[str, Path]) -> None:
    with Watched(browser, pages["evil"]) as watched:
        assert watched.page.evaluate("document.scripts.length") == 0
        text = watched.page.inner_text("main")
        assert HOSTILE[0] in text
        assert HOSTILE[1] in text
        # A name from right to left turns nothing around it.
        assert watched.page.evaluate(
            "[...document.querySelectorAll('bdi')].some(b => b.textContent.includes('\\u05e9'))"
        )


@pytest.mark.parametrize("name", ["evil", "diff"])
def test_everything_can_be_reached_by_keyboard(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    with Watched(browser, pages[name]) as watched:
        page = watched.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        wanted = page.evaluate("document.querySelectorAll('main summary').length")
        reached = set()
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "SUMMARY":
                number = page.evaluate(
                    "[...document.querySelectorAll('main summary')].indexOf(document.activeElement)"
                )
                if number in reached:
                    break
                reached.add(number)
            elif page.evaluate("document.activeElement === document.body"):
                break
        assert len(reached) == wanted
        page.focus("main summary")
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector('main details').open")


@pytest.mark.parametrize("name", ["evil", "change", "run", "diff"])
def test_a_phone_needs_no_scrolling_sideways(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    with Watched(browser, pages[name], width=390) as watched:
        assert watched.overhang <= 0


@pytest.mark.parametrize("name", ["evil", "change", "run", "diff"])
def test_a_printed_page_has_no_links_to_nowhere_and_dark_ink(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    with Watched(browser, pages[name], "dark") as watched:
        watched.page.emulate_media(media="print")
        assert not watched.page.is_visible("nav")
        assert watched.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert watched.page.pdf(format="A4").startswith(b"%PDF")


ON_ONE_SHEET = (
    "plain",
    "fairness",
    "1,000 groups and classes",
    "a thousand groups by column",
    "2,000 filters frozen",
    "regression",
    "trees",
    "chosen jointly",
)


@pytest.mark.parametrize("name", ON_ONE_SHEET)
def test_a_change_record_is_one_printed_sheet(browser: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "change.html"
    path.write_text(render_change(ODD[name]), encoding="utf-8")
    with Watched(browser, path) as watched:
        sheet = watched.page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", sheet)) == 1
