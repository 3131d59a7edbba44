"""The verdict of a repair in one sentence, and whether it may be called good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairkit.report.numbers import change, count, figure, in_words, interval, sign


def verdict(document: Mapping[str, Any]) -> dict[str, str]:
    """`tone` (good, open or bad), `word` for it, and the `sentence`, from the test part's figures.

    Good needs an interval of the objective's difference that lies on the good side of zero.
    """
    objective = document["objective"]
    evaluations = document["evaluations"]
    n_frozen = len(document["patch"]["frozen"])
    if objective is None:
        return _without_figures(document, n_frozen)
    n_images = evaluations["before"]["n_images"]
    before, after = (evaluations[key]["metrics"][objective] for key in ("before", "after"))
    moved = evaluations["difference"][objective]
    direction = sign(objective, document.get("less_is_better", ()))
    low, high = sorted(direction * moved[end] for end in ("ci_low", "ci_high"))
    tone = "good" if low > 0 else "bad" if high < 0 else "open"
    what = _frozen(document, n_frozen)
    where = f"on {count(n_images, 'image')} of the {evaluations['before']['suite']} part"
    ends = f"from {figure(before['value'], objective)} to {figure(after['value'], objective)}"
    numbers = (
        f"{ends} {where}: "
        f"{change(moved['value'], objective)}, 95\N{NO-BREAK SPACE}% interval "
        f"{interval(moved, objective, signed=True)}"
    )
    name = in_words(objective)
    if tone != "open":
        verb = "lifts" if moved["value"] > 0 else "lowers"
        sentence = f"Freezing {what} {verb} the {name} {numbers}."
    elif moved["value"] == moved["ci_low"] == moved["ci_high"] == 0:
        sentence = f"Freezing {what} leaves the {name} as it was {where}."
    else:
        sentence = f"Freezing {what} moves the {name} {numbers}, which may be chance."
    return {
        "tone": tone,
        "word": {"good": "Improved", "open": "Not proven", "bad": "Worse"}[tone],
        "sentence": sentence + _price(objective, evaluations["difference"]),
    }


def _without_figures(document: Mapping[str, Any], n_frozen: int) -> dict[str, str]:
    proof = document["verification"]
    on = f"{count(proof['n_images'], 'image')} ({proof['images']})"
    what = "1 filter is" if n_frozen == 1 else f"{count(n_frozen, 'filter')} are"
    return {
        "tone": "open",
        "word": "No figures",
        "sentence": (
            f"{what} frozen, as was asked for. No metric was computed, so nothing is said of "
            f"better or worse. All outputs equal those of the masked original on {on}."
        ),
    }


def _frozen(document: Mapping[str, Any], n_frozen: int) -> str:
    scoring = document.get("scoring") or {}
    total = scoring.get("n_filters")
    if total is None:
        return count(n_frozen, "filter")
    return f"{n_frozen:,} of {count(total, 'filter')}"


def _price(objective: str, differences: Mapping[str, Any]) -> str:
    """What became of overall accuracy, where that is not the objective."""
    if objective == "accuracy" or "accuracy" not in differences:
        return ""
    moved = differences["accuracy"]
    limits = interval(moved, "accuracy", signed=True)
    told = f"{change(moved['value'], 'accuracy')} (interval {limits})"
    if moved["ci_high"] < 0:
        return f" It costs overall accuracy: {told}."
    if moved["ci_low"] > 0:
        return f" Overall accuracy gains as well: {told}."
    return f" Overall accuracy stays as it was, as far as these images tell: {told}."
