"""The atlas in a real Chromium: its script finds cards, no other runs, and none is needed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from repairkit.jobs.atlas.making_atlas import album_of, fitting_page
from tests import chromium
from tests.chromium import CHROMIUM, CONTRAST, MISSING, Watched, violations
from tests.report.atlases import atlas_document, originals
from tests.report.documents import HOSTILE

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason=MISSING)

N = 12
_SHOWN = "[...document.querySelectorAll('[data-card]')].filter(c => !c.hidden).length"
_FOCUSED = "[...document.querySelectorAll('[data-card]')].indexOf(document.activeElement)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started(playwright) as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("atlases")
    evil = atlas_document(4, sites=HOSTILE, classes=HOSTILE[:2], groups=HOSTILE[2:4])
    documents = {"plain": atlas_document(N), "evil": evil, "many": atlas_document(200, n_rows=200)}
    for name, document in documents.items():
        text = fitting_page(document, partial(album_of, document, originals(document)))
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in documents}


@pytest.fixture
def plain(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    with Watched(browser, pages["plain"]) as watched:
        yield watched.page
        assert watched.said == []
        assert watched.outside == []


def shown(page: Any) -> int:
    return int(page.evaluate(_SHOWN))


@pytest.mark.parametrize(
    ("name", "scheme", "rules"),
    [
        ("evil", "light", {}),
        ("plain", "dark", CONTRAST),
        pytest.param("plain", "light", {}, marks=pytest.mark.slow),
    ],
)
def test_contrast_names_and_landmarks_pass_axe(
    browser: Any, pages: dict[str, Path], name: str, scheme: str, rules: dict[str, Any]
) -> None:
    with Watched(browser, pages[name], scheme) as watched:
        watched.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert violations(axe, watched, rules) == []


def test_cards_are_found_by_layer_sign_class_and_text(plain: Any) -> None:
    assert shown(plain) == N
    plain.select_option("#find-layer", "2")
    assert shown(plain) == N / 3
    plain.select_option("#find-sign", "-")
    harmful = shown(plain)
    assert 0 < harmful < N / 3
    assert plain.inner_text("#count") == f"{harmful} of {N} shown"
    plain.keyboard.press("Escape")
    assert shown(plain) == N
    assert plain.input_value("#find-layer") == ""
    plain.select_option("#find-set", label="class cat")
    of_cat = shown(plain)
    assert 0 < of_cat < N
    plain.select_option("#find-sign", "+")
    assert 0 < shown(plain) < of_cat
    plain.keyboard.press("Escape")
    plain.fill("#find-text", "conv1:9")
    assert shown(plain) == 1
    plain.fill("#find-text", "there is no such filter")
    assert shown(plain) == 0
    assert plain.is_visible("#none")


def test_the_keyboard_finds_and_walks(plain: Any) -> None:
    plain.keyboard.press("/")
    assert plain.evaluate("document.activeElement.id") == "find-text"
    plain.keyboard.type("conv2")
    assert shown(plain) == N / 3
    plain.keyboard.press("Enter")
    assert plain.evaluate(_FOCUSED) == 1
    plain.keyboard.press("ArrowRight")
    assert plain.evaluate(_FOCUSED) == 4  # those between are hidden
    plain.keyboard.press("ArrowLeft")
    plain.keyboard.press("ArrowLeft")
    assert plain.evaluate(_FOCUSED) == 1
    plain.keyboard.press("Escape")
    assert shown(plain) == N
    plain.keyboard.press("ArrowDown")
    assert plain.evaluate(_FOCUSED) == 2
    # A key in the search field is text, and moves nothing.
    plain.focus("#find-text")
    plain.keyboard.type("a/b")
    assert plain.input_value("#find-text") == "a/b"
    plain.keyboard.press("ArrowLeft")
    assert plain.evaluate("document.activeElement.id") == "find-text"


def test_no_name_runs_and_no_other_script_may(browser: Any, pages: dict[str, Path]) -> None:
    with Watched(browser, pages["evil"]) as watched:
        page = watched.page
        assert page.evaluate("document.scripts.length") == 1
        assert HOSTILE[0] in page.inner_text("main")
        assert page.is_visible("#finder")
        assert (watched.said, watched.outside) == ([], [])
        added = "s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        page.evaluate(f"{{ let {added} document.body.append(s); }}")
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.ran=2>')"
        )
        page.wait_for_timeout(100)
        assert page.evaluate("window.ran === undefined")
        assert any("Content Security Policy" in text for text in watched.said)


def test_without_script_all_cards_are_there(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["plain"].as_uri())
    assert page.locator("article").count() == N
    assert page.locator("article").first.is_visible()
    assert not page.locator("#finder").is_visible()
    context.close()


@pytest.mark.parametrize("name", ["plain", "evil"])
def test_a_phone_needs_no_scrolling_sideways_and_paper_has_all_cards(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    with Watched(browser, pages[name], "dark", width=390) as watched:
        assert watched.overhang <= 0
        watched.page.emulate_media(media="print")
        assert not watched.page.is_visible("#finder")
        assert watched.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert watched.page.pdf(format="A4").startswith(b"%PDF")


def test_two_hundred_filters_stay_usable(browser: Any, pages: dict[str, Path]) -> None:
    assert pages["many"].stat().st_size <= 10_000_000
    with Watched(browser, pages["many"]) as watched:
        page = watched.page
        page.keyboard.press("ArrowLeft")
        assert page.evaluate(_FOCUSED) == 199
        assert page.evaluate("document.activeElement.getBoundingClientRect().top < innerHeight")
        page.keyboard.press("/")
        page.keyboard.type("conv2:154")
        assert shown(page) == 1
