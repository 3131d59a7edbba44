"""The verdict of a repair in one sentence, and whether it may be called good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairkit.report.facts.changes import act
from repairkit.report.facts.numbers import (
    change,
    count,
    figure,
    in_words,
    interval,
    is_cross_fitted,
    of_part,
    sign,
)
from repairkit.report.facts.payers import payers_by_chance, payers_in_words

_WORDS = {"good": "Improved", "mixed": "Mixed", "open": "Not proven", "bad": "Worse"}


def verdict(document: Mapping[str, Any]) -> dict[str, str]:
    """`tone`, `word` for it, and the `sentence`, from the figures of the images that report.

    Good needs an interval of the objective's difference that lies on the good side of zero, and
    nobody who pays for it: groups, or classes where there are no groups, that surely lose accuracy
    are named in the first sentence. They turn good to mixed, and open to bad.
    """
    objective = document["objective"]
    evaluations = document["evaluations"]
    if objective is None:
        return _without_figures(document)
    n_images = evaluations["before"]["n_images"]
    before, after = (evaluations[key]["metrics"][objective] for key in ("before", "after"))
    moved = evaluations["difference"][objective]
    if moved["value"] is None:
        return _undefined(document)
    direction = sign(objective, document.get("less_is_better", ()))
    low, high = sorted(direction * (moved[end] or 0.0) for end in ("ci_low", "ci_high"))
    tone = "good" if low > 0 else "bad" if high < 0 else "open"
    suite = evaluations["before"]["suite"]
    where = f"on {count(n_images, 'image')} {of_part(suite)}"
    crossed = is_cross_fitted(suite)
    done = act(document)
    what = "Choosing like this" if crossed else done
    ships = f" What ships: {done[0].lower()}{done[1:]}." if crossed else ""
    ends = f"from {figure(before['value'], objective)} to {figure(after['value'], objective)}"
    numbers = (
        f"{ends} {where}: "
        f"{change(moved['value'], objective)}, 95\N{NO-BREAK SPACE}% interval "
        f"{interval(moved, objective, signed=True)}"
    )
    name = in_words(objective)
    if tone != "open":
        verb = "lifts" if moved["value"] > 0 else "lowers"
        sentence = f"{what} {verb} the {name} {numbers}"
    elif moved["value"] == moved["ci_low"] == moved["ci_high"] == 0:
        sentence = f"{what} leaves the {name} as it was {where}"
    else:
        sentence = f"{what} moves the {name} {numbers}, which may be chance"
    pay = payers_in_words(document)
    if pay:
        sentence += f"; it {pay}" if tone == "bad" else f", but {pay}"
        tone = {"good": "mixed", "open": "bad"}.get(tone, tone)
    if _is_doubtful(document):
        sentence += ", and the preprocessing is doubtful"
        tone = {"good": "mixed"}.get(tone, tone)
    return {
        "tone": tone,
        "word": _WORDS[tone],
        "sentence": f"{sentence}.{payers_by_chance(document)}"
        + _price(objective, evaluations["difference"])
        + ships,
    }


def _is_doubtful(document: Mapping[str, Any]) -> bool:
    """Whether the job went on although its preprocessing looked wrong."""
    look = (document.get("read") or {}).get("first_look") or {}
    return bool(look.get("doubt"))


def _without_figures(document: Mapping[str, Any]) -> dict[str, str]:
    n_frozen = len(document["patch"]["frozen"])
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


def _undefined(document: Mapping[str, Any]) -> dict[str, str]:
    name, before = in_words(document["objective"]), document["evaluations"]["before"]
    where = f"{count(before['n_images'], 'image')} {of_part(before['suite'])}"
    pay = payers_in_words(document)
    return {
        "tone": "bad" if pay else "open",
        "word": _WORDS["bad" if pay else "open"],
        "sentence": (
            f"{act(document)} changes the {name} by an unknown amount: "
            f"the {where} do not define it{f'; it {pay}' if pay else ''}."
        ),
    }


def _price(objective: str, differences: Mapping[str, Any]) -> str:
    """What became of overall accuracy, where that is not the objective."""
    if objective == "accuracy" or "accuracy" not in differences:
        return ""
    moved = differences["accuracy"]
    if moved["value"] is None or moved["ci_low"] is None:
        return ""
    limits = interval(moved, "accuracy", signed=True)
    told = f"{change(moved['value'], 'accuracy')} (interval {limits})"
    if moved["ci_high"] < 0:
        return f" It costs overall accuracy: {told}."
    if moved["ci_low"] > 0:
        return f" Overall accuracy gains as well: {told}."
    return f" Overall accuracy stays as it was, as far as these images tell: {told}."
