"""What a repair promises, and how it came to be chosen, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repairkit.report.facts.numbers import change, count, in_words, interval, sign

_CURES = {
    "freeze": "freezing filters",
    "bias": "class biases",
    "last-layer": "last layer refitted",
}
_MOST_NAMED = 8


def promise_in_words(document: Mapping[str, Any]) -> list[str]:
    """The promise and what it rests on, a sentence or two each; empty where none was made."""
    promised, selection = document["choice"].get("promised_on_selection"), document.get("selection")
    if not promised or not selection:
        return []
    objective, parts = document["objective"], selection["parts"]
    gain = (
        f"{change(promised['value'], objective)} of {in_words(objective)} "
        f"({interval(promised, objective, signed=True)})"
    )
    if not parts.get("folds"):
        ranked = selection.get("scores_saw_confirmation")
        role = "ranked the candidates too" if ranked else "did not choose"
        n_images = parts.get("confirmation") or 0
        on = f"{count(n_images, 'image')} that {role}" if n_images else "the images that chose"
        return [f"Promised: {gain} on {on}."]
    told = [
        f"Choosing like this gained {gain} on images that did not choose: each of "
        f"{parts['folds']} folds of the {count(parts['choosing'], 'selection image')} was judged "
        "under the cure that the others chose, and the interval is widened for that."
    ]
    told += [*_rungs(selection["promise"]), *_unstable(selection)]
    return [*told, *_better(document, selection)]


def _rungs(promise: Mapping[str, Any]) -> list[str]:
    """Which promise is reached, and why no stronger one."""
    told: list[str] = []
    for rung in promise["rungs"]:
        if rung["name"] == promise["reached"]:
            told.insert(0, f"Promise reached: {rung['words']}; {rung['why']}.")
            break
        told.append(f"Not sure: {rung['words']}; {rung['why']}.")
    return told


def _unstable(selection: Mapping[str, Any]) -> list[str]:
    names = selection.get("unstable") or []
    if not names:
        return []
    shown = ", ".join(names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return [f"Unstable, for fewer than half of the folds chose the same: {shown}{more}."]


def _better(document: Mapping[str, Any], selection: Mapping[str, Any]) -> list[str]:
    """A cure that gained more than the shipped one, if there is such a one."""
    objective = document["objective"]
    turn = sign(objective, document.get("less_is_better", ()))
    gains = {
        cure["cure"]: turn * cure["changes"][objective]["value"]
        for cure in selection.get("cures") or []
        if cure["promise"] and cure["changes"][objective]["value"] is not None
    }
    shipped = selection.get("cure")
    best = max(gains, key=lambda name: gains[name], default="")
    if shipped not in gains or gains[best] <= gains[shipped]:
        return []
    gain = change(turn * gains[best], objective)
    return [f"Another cure gained more out of fold: {_CURES[best]}, {gain}; see --repair {best}."]


def search_in_words(selection: Mapping[str, Any]) -> str:
    """How the choice was made, in a sentence or two."""
    if "candidates" not in selection:
        return "The last layer was fitted; no filter was searched for."
    how = {
        "joint": "Filters were added and dropped one by one, each judged by images that did not "
        "choose it.",
        "plain": "The lowest-ranked filters were frozen, as many as looked best.",
    }.get(selection["how"], selection["how"])
    parts = selection["parts"]
    looked = (
        f"{count(selection['candidates'], 'candidate')}, {count(selection['looks'], 'set')} of "
        f"filters looked at on {count(parts['choosing'], 'image')}"
    )
    if parts.get("folds"):
        return f"{how} {looked}; all of them confirmed, out of fold."
    n_images = parts.get("confirmation") or 0
    confirmed = f"{count(n_images, 'other image')} confirmed" if n_images else "no image confirmed"
    return f"{how} {looked}; {confirmed}."


def cure_metrics(document: Mapping[str, Any]) -> list[str]:
    """The metrics of `cure_rows`: the objective, and accuracy where that is another."""
    cures = (document.get("selection") or {}).get("cures") or []
    known = {name for cure in cures for name in cure["changes"]}
    accuracy = "clean_accuracy" if "clean_accuracy" in known else "accuracy"
    return list(dict.fromkeys([document["objective"], *({accuracy} & known)]))


def cure_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cures beside each other by their answers out of fold, ready to be shown.

    `figures` hold one text for each of `cure_metrics`.
    """
    selection = document.get("selection") or {}
    rows = []
    for cure in selection.get("cures") or []:
        moved: Mapping[str, Any] = cure["changes"]
        promise = cure["promise"]
        rows.append(
            {
                "cure": _CURES.get(cure["cure"], cure["cure"]),
                "figures": [_moved(moved, metric) for metric in cure_metrics(document)],
                "promise": promise or "-",
                "note": cure["reason"],
                "shipped": "yes" if cure["cure"] == selection.get("cure") else "",
            }
        )
    return rows


def _moved(moved: Mapping[str, Any], metric: str) -> str:
    if metric not in moved or moved[metric]["value"] is None:
        return "-"
    found = moved[metric]
    return f"{change(found['value'], metric)} ({interval(found, metric, signed=True)})"


def cures_caption(selection: Mapping[str, Any]) -> str:
    """What the figures of `cure_rows` are about."""
    parts: Mapping[str, Any] = selection["parts"]
    return (
        f"Change by cure on the {count(parts['choosing'], 'selection image')}, each judged under a "
        "cure that it did not choose"
    )


def shown_cures(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells of a table: cure, a figure for each metric, promise."""
    return [
        [
            f"{row['cure']}{' (this repair)' if row['shipped'] else ''}",
            *row["figures"],
            row["promise"],
        ]
        for row in rows
    ]
