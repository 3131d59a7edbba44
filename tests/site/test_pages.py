"""The site of the documentation: complete, whole in its links, and sufficient to itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from typer.main import get_command

import repairkit
from repairkit import api
from repairkit.cli import app

ROOT = Path(__file__).parents[2]
_LOADS = {"src", "srcset", "poster", "data"}
_LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "manifest"}


@dataclass
class Parsed(HTMLParser):
    """What a page links to, loads, and can be linked to at."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.loads += [values[name] for name in _LOADS if name in values and tag != "object"]
        if "href" in values:
            kinds = set(values.get("rel", "").split())
            place = self.loads if tag == "link" and kinds & _LOADING_LINKS else self.links
            place.append(values["href"])

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Parsed]:
    parsed = {}
    for path in site.rglob("*.html"):
        parsed[path.relative_to(site).as_posix()] = page = Parsed()
        page.feed(path.read_text(encoding="utf-8"))
    return parsed


def led_to(place: str, link: str) -> tuple[str, str]:
    """The file of the site that a link of a page leads to, and the anchor in it."""
    target, anchor = urldefrag(urljoin(f"http://site/{place}", link))
    return unquote(urlsplit(target).path).lstrip("/"), unquote(anchor)


@pytest.mark.long
def test_every_link_leads_to_a_page_and_a_place_in_it(site: Path, pages: dict[str, Parsed]) -> None:
    lost, checked = [], 0
    for place, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme or place == "404.html":
                continue
            target, anchor = led_to(place, link)
            checked += 1
            anchors = pages[target].anchors if target in pages else {anchor}
            if not (site / target).is_file() or (anchor and anchor not in anchors):
                lost.append((place, link))
    assert lost == []
    assert checked > 1000


@pytest.mark.long
def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Parsed]) -> None:
    for place, page in pages.items():
        for load in page.loads:
            if load.startswith("data:") or place == "404.html":
                continue
            assert not urlsplit(load).scheme, (place, load)
            assert not load.startswith("//"), (place, load)
            assert (site / led_to(place, load)[0]).is_file(), (place, load)
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", "\n".join(styles))


@pytest.mark.long
def test_every_page_is_reached_from_the_first(pages: dict[str, Parsed]) -> None:
    reached, waiting = set(), ["index.html"]
    while waiting:
        place = waiting.pop()
        if place in reached or place not in pages:
            continue
        reached.add(place)
        waiting += [led_to(place, link)[0] for link in pages[place].links if link]
    assert set(pages) - {"404.html"} <= reached


@pytest.mark.long
def test_every_page_of_the_docs_is_a_page_of_the_site(pages: dict[str, Parsed]) -> None:
    for source in sorted((ROOT / "docs").rglob("*.md")):
        place = source.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        place = re.sub(r"(^|/)README\.html$", r"\1index.html", place)
        assert place in pages, place


@pytest.mark.long
def test_each_command_has_a_page_with_all_its_options(pages: dict[str, Parsed]) -> None:
    group = get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    assert len(commands) >= 16
    for name, command in commands.items():
        text = " ".join(pages[f"reference/commands/{name}.html"].text)
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                for option in (*parameter.opts, *parameter.secondary_opts):
                    assert option in text, (name, option)
        assert f"reference/commands/{name}.html" in {
            led_to("reference/commands/index.html", link)[0]
            for link in pages["reference/commands/index.html"].links
        }


@pytest.mark.long
def test_each_public_name_of_python_has_its_docstring_on_the_site(
    pages: dict[str, Parsed],
) -> None:
    shown = {
        anchor
        for place, page in pages.items()
        if place.startswith("reference/python/")
        for anchor in page.anchors
    }
    public = {name for name in {*repairkit.__all__, *api.__all__} if not name.startswith("_")}
    assert {f"repairkit.api.{name}" for name in public} <= shown
    adapters = {f"repairkit_adapters.{each}.apply_patch" for each in ("pytorch", "keras")}
    assert adapters <= shown


@pytest.mark.long
def test_nothing_is_left_of_the_marks_that_pages_are_made_from(pages: dict[str, Parsed]) -> None:
    for place, page in pages.items():
        text = "".join(page.text)
        assert "::: repairkit" not in text, place
        assert "{code-cell}" not in text, place
