"""Pages that lie outside `docs`, pages of folders, and cells of notebooks with their pictures."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Files of the root that the site shows, by their places there.
OF_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
# Folders whose pages the navigation lists, by the mark that stands for those that it does not name.
FOLDERS = {
    "COMMANDS": "reference/commands/",
    "DECISIONS": "decisions/",
    "GUIDE": "guide/",
    "JOBS": "jobs/",
    "PYTHON": "reference/python/",
}
_LINK = re.compile(r"\]\(([^)#\s]+)((?:#[^)]*)?)\)")
_BLOCK = re.compile(r"^```python\n.*?^```$", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"^```\{code-cell\}.*$", re.MULTILINE)
_CELL_SETTINGS = re.compile(r"^(```python\n)(?::[\w-]+:.*\n)+\n?", re.MULTILINE)

_SEARCH = 'data-md-component="search" role="dialog" aria-label="Search"'


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from the root of the repository; list the pages of folders in the navigation.

    This hook is the last one, so that other hooks' pages are there.
    """
    for place, name in OF_ROOT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=_LINK.sub(_in_docs, text)))
    known = [page.src_uri for page in files.documentation_pages()]
    named = set(_places(config.nav))
    config.nav = _filled(config.nav, [place for place in known if place not in named])
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Lead links into the root to the site's own pages; show code cells and what they draw."""
    up = "../" * page.file.src_uri.count("/")
    for place, name in OF_ROOT.items():
        markdown = markdown.replace(f"](../{up}{name}", f"]({up}{place}")
    markdown = _CELL_SETTINGS.sub(r"\1", _CELL.sub("```python", markdown))
    if not page.file.src_uri.startswith(FOLDERS["JOBS"]):
        return markdown
    numbers, name = count(1), Path(page.file.src_uri).stem
    return _BLOCK.sub(lambda block: _with_picture(block[0], name, numbers), markdown)


def _with_picture(block: str, name: str, numbers: Iterator[int]) -> str:
    """A cell of a worked job, and the picture that it drew when the job was last run."""
    if "plt.show()" not in block:
        return block
    return f"{block}\n\n![What this cell draws](pictures/{name}-{next(numbers)}.png)"


def on_post_page(output: str, **_: Any) -> str:
    """Give the theme's dialog of the search a name, which screen readers say."""
    return output.replace('data-md-component="search" role="dialog"', _SEARCH)


def _in_docs(link: re.Match[str]) -> str:
    """A link from the root, as it must be written within `docs`."""
    target, anchor = link.groups()
    places = {name: place for place, name in OF_ROOT.items()}
    return f"]({places.get(target, target.removeprefix('docs/'))}{anchor})"


def _places(entry: Any) -> Iterator[str]:
    """The pages that an entry of the navigation names."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from _places(inner)


def _filled(entry: Any, places: list[str]) -> Any:
    """An entry of the navigation with pages in place of its marks; empty ones are left out."""
    if isinstance(entry, dict):
        filled = {title: _filled(inner, places) for title, inner in entry.items()}
        return {title: inner for title, inner in filled.items() if inner}
    if isinstance(entry, list):
        lists = [_filled(inner, places) for inner in entry]
        flat = [each for part in lists for each in (part if isinstance(part, list) else [part])]
        return [each for each in flat if each]
    if entry in FOLDERS:
        return [place for place in places if place.startswith(FOLDERS[entry])]
    return entry
