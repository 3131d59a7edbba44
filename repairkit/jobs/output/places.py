"""Paths as a report tells them: relative, without the home folder, so that it may be handed on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a path may stand between; a longer path may hold the same names.
_BEFORE = r"(?<![^\s\"'`(\[{<=,:;])"
_BEHIND = r"(?![^\s\"'`)\]}>,:;])"


@dataclass(frozen=True)
class Places:
    """The folder in which a job runs, and the user's home; both absolute."""

    folder: Path
    home: Path

    @classmethod
    def here(cls) -> Places:
        """Those of this process. All paths are relative to these."""
        # Unlike Path.home(), this does not fail where the home is unknown.
        return cls(Path.cwd(), Path(os.path.expanduser("~")))  # noqa: PTH111 - see above

    def relative(self, path: Path) -> str:
        """A path from the folder of the job; from `~` where that would lead through the home.

        A relative path stays as it was given.
        """
        whole = Path(os.path.normpath(self.folder / path))
        if not self._inside(self.folder, self.home) and self._inside(whole, self.home):
            return f"~/{whole.relative_to(self.home).as_posix()}"
        if not path.is_absolute():
            return f"./{path}" if str(path).startswith(("~", "-")) else str(path)
        try:
            return os.path.relpath(whole, self.folder)
        except ValueError:  # on another drive
            return str(path)

    def cleaned(self, document: Any) -> Any:
        """A document of JSON without the folder of the job or the home in any of its texts."""
        if isinstance(document, str):
            return self._cleaned_text(document)
        if isinstance(document, dict):
            return {self.cleaned(name): self.cleaned(value) for name, value in document.items()}
        if isinstance(document, list | tuple):
            return [self.cleaned(value) for value in document]
        return document

    def _cleaned_text(self, text: str) -> str:
        for place, inside, itself in ((self.folder, "", "."), (self.home, "~/", "~")):
            # A root would stand in every text that holds a slash.
            if place != Path(place.anchor):
                start = f"{_BEFORE}{re.escape(str(place))}"
                text = re.sub(f"{start}{re.escape(os.sep)}", inside, text)
                text = re.sub(f"{start}{_BEHIND}", itself, text)
        return text

    @staticmethod
    def _inside(path: Path, folder: Path) -> bool:
        return folder != Path(folder.anchor) and path.is_relative_to(folder)
