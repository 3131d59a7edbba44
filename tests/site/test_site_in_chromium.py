"""The site in a real Chromium, read from the disk: seen, reached and searched by everyone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import chromium
from tests.chromium import CHROMIUM, CONTRAST, MISSING, Watched, violations

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=MISSING)]

PAGES = (
    "index",
    "concepts",
    "formats",
    "guide/estimators",
    "guide/diff",
    "guide/python",
    "jobs/shortcut",
    "reference/commands/index",
    "reference/commands/score",
    "reference/python/functions",
)

# Wide tables, long lines of code, and pictures.
WIDE = (
    "architecture",
    "benchmarks",
    "compatibility",
    "decisions/0004-estimators-regression",
    "guide/data",
    "reference/python/results",
    "results",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started(playwright) as running:
        yield running


@pytest.mark.parametrize("page", PAGES)
def test_contrast_names_and_landmarks_pass_axe(browser: Any, site: Path, page: str) -> None:
    with Watched(browser, site / f"{page}.html") as watched:
        assert watched.said == []  # before axe asks for the style sheets, which a browser refuses
        assert watched.outside == []
        assert violations(axe, watched, {}) == []
    with Watched(browser, site / f"{page}.html", "dark") as watched:
        assert violations(axe, watched, CONTRAST) == []


def test_no_page_scrolls_sideways_on_a_phone_or_asks_for_anything_outside(
    browser: Any, site: Path
) -> None:
    with Watched(browser, site / "index.html", width=390) as watched:
        for page in (*PAGES, *WIDE):
            watched.page.goto((site / f"{page}.html").as_uri())
            assert watched.overhang <= 0, page
        assert watched.outside == []
        assert watched.said == []


def test_the_colours_follow_the_system(browser: Any, site: Path) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        with Watched(browser, site / "index.html", scheme) as watched:
            colour = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
            numbers = [float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
            shades[scheme] = sum(numbers) / 3
    assert shades["light"] > 200
    assert shades["dark"] < 60


def test_a_printed_page_has_the_text_alone(browser: Any, site: Path) -> None:
    with Watched(browser, site / "formats.html", "dark") as watched:
        watched.page.emulate_media(media="print")
        for part in (".md-header", ".md-tabs", ".md-sidebar--primary", ".md-footer"):
            assert not watched.page.is_visible(part), part
        assert watched.page.is_visible("article h1")
        colour = watched.page.evaluate("getComputedStyle(document.querySelector('article')).color")
        numbers = [float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
        assert max(numbers) < 100
        assert watched.page.pdf(format="A4").startswith(b"%PDF")


def test_the_keyboard_skips_to_the_text_and_shows_where_it_is(browser: Any, site: Path) -> None:
    with Watched(browser, site / "guide" / "estimators.html") as watched:
        page = watched.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.classList.contains('md-skip')")
        assert page.evaluate("document.activeElement.getBoundingClientRect().top >= 0")
        page.keyboard.press("Enter")
        assert "#" in page.url
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.closest('article') !== null"))
            outline = page.evaluate(
                "(s => [s.outlineStyle, s.outlineWidth])(getComputedStyle(document.activeElement))"
            )
            if page.evaluate("document.activeElement.matches('article a')"):
                assert outline[0] != "none", page.evaluate("document.activeElement.outerHTML")
                assert outline[1] != "0px"
        assert True in reached


def test_the_menu_of_a_phone_opens_and_closes_by_keyboard(browser: Any, site: Path) -> None:
    with Watched(browser, site / "index.html", width=390) as watched:
        page = watched.page
        entry = "nav.md-nav--primary label[for='__nav_2']"
        opened = "document.querySelector('#__drawer').checked"
        for _ in range(4):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('for') === '__drawer'"):
                break
        assert not page.evaluate(opened)
        assert not page.is_visible(entry)
        page.keyboard.press("Enter")
        assert page.evaluate(opened)
        page.wait_for_selector(entry, state="visible")
        page.keyboard.press("Enter")
        assert not page.evaluate(opened)


def test_search_works_without_a_server(browser: Any, site: Path) -> None:
    with Watched(browser, site / "index.html") as watched:
        page = watched.page
        page.click(".md-search__input")
        page.locator(".md-search__input").press_sequentially("seal digest", delay=50)
        page.wait_for_selector(".md-search-result__item a[href*='formats.html']", timeout=20_000)
        assert watched.outside == []
