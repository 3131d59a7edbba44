"""Figures in words: shares in per cent, their differences in points, all else as numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from repairkit.core.measures import measure_of
from repairkit.core.process.text import printable

_NOTHING = 1e-12
_MINUS = "\N{MINUS SIGN}"
UNKNOWN = "-"
"""In the place of a figure that is not defined."""
_SPACE = "\N{NO-BREAK SPACE}"


def visible(text: object) -> str:
    """Text of one line in which every character shows; spaces that keep words together stay."""
    parts = str(text).replace("\n", " ").split(_SPACE)
    return _SPACE.join(printable(part) for part in parts)


def of_part(suite: str) -> str:
    """Which images a figure is of: `of the test part`, or `(selection, cross-fitted)`."""
    return f"({suite})" if is_cross_fitted(suite) else f"of the {suite} part"


def is_cross_fitted(suite: str) -> bool:
    """Whether there is no test part, and each image was judged under a cure it did not choose."""
    return "," in suite


def is_share(metric: str) -> bool:
    """Whether a metric is a share of images, or a difference of such shares."""
    return measure_of(metric).unit == "share"


def sign(metric: str, less_is_better: Collection[str] = ()) -> int:
    """1 where more of a metric is better, else -1; a document may name further ones of the kind."""
    return -1 if metric in less_is_better else measure_of(metric).sign


def in_words(metric: str) -> str:
    """A metric's name as people say it."""
    kind, colon, name = metric.partition(":")
    if not colon and measure_of(metric).words:
        return measure_of(metric).words
    if colon and kind == "accuracy":
        return f"accuracy of {name}"
    if colon and kind == "recall":
        return f"recall of {name}"
    if colon and kind in ("group_accuracy", "group_loss"):
        return f"{kind.removeprefix('group_')} of {name}"
    return metric.replace("_", " ") if "." not in metric and not colon else metric


def number(value: float | None, metric: str = "", *, signed: bool = False) -> str:
    """A figure without its unit; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    value = 0.0 if abs(value) < _NOTHING else value
    share = is_share(metric)
    shown = 100 * value if share else value
    text = f"{shown:+.1f}" if share and signed else f"{shown:.1f}" if share else ""
    if not share:
        text = f"{shown:+.4g}" if signed else f"{shown:.4g}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", _MINUS)


def figure(value: float | None, metric: str) -> str:
    """A figure with its unit."""
    text = number(value, metric)
    return f"{text}{_SPACE}%" if is_share(metric) and text != UNKNOWN else text


def change(value: float | None, metric: str) -> str:
    """A difference with its sign and unit: of shares, points."""
    text = number(value, metric, signed=True)
    return f"{text}{_SPACE}points" if is_share(metric) and text != UNKNOWN else text


def interval(found: Mapping[str, Any], metric: str, *, signed: bool = False) -> str:
    """`61.0 to 64.2`, of a figure as JSON has it; empty where there is none."""
    if found.get("value") is None and found.get("ci_low") is None:
        return ""
    low, high = (number(found.get(end), metric, signed=signed) for end in ("ci_low", "ci_high"))
    return f"{low} to {high}"


def count(number_of: int, noun: str, plural: str | None = None) -> str:
    """`1 filter`, `2 filters`, `1,000 filters`."""
    word = noun if number_of == 1 else plural or f"{noun}s"
    return f"{number_of:,}{_SPACE}{word}"


def listing(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
