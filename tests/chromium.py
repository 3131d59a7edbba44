"""A real Chromium for tests of pages, and a page that is watched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("REPAIRKIT_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), "")
MISSING = "no Chromium (apt-get install chromium, or set REPAIRKIT_CHROMIUM)"
# What axe looks at again where only the colours are others.
CONTRAST = {"runOnly": ["color-contrast"]}


@contextmanager
def started(playwright: Any) -> Iterator[Any]:
    """A browser; `playwright` is the module `playwright.sync_api`."""
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page, with all that it said and asked for."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light", width: int = 1100) -> None:
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 800}
        )
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    @property
    def outside(self) -> list[str]:
        """What the page asked for and does not lie on the disk or in itself."""
        return [url for url in self.asked if not url.startswith(("file:", "data:", "about:"))]

    @property
    def overhang(self) -> int:
        """How many pixels of the page lie beyond the width of the screen."""
        shown = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(shown))


def violations(axe: Any, watched: Watched, rules: dict[str, Any]) -> list[tuple[str, str]]:
    """What axe finds wrong: the rule and the first element; `axe` is its module."""
    answer = axe.Axe().run(watched.page, options=rules).response
    assert "color-contrast" in {rule["id"] for rule in answer["passes"]}
    return [(each["id"], each["nodes"][0]["html"]) for each in answer["violations"]]
