"""How a command answers: tables for people, one JSON document, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from repairkit.cli.options.groups import flag
from repairkit.cli.shown import streams


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is printed."""

    title: ClassVar = "Output"
    as_json: bool = flag("Print one JSON document and nothing else.", "--json")
    quiet: bool = flag("Print no progress and no table.")

    def give(self, document: Callable[[], object], tell: Callable[[], None]) -> None:
        """Print the document, or tell people, or neither."""
        if self.as_json:
            streams.print_json(document())
        elif not self.quiet:
            tell()
