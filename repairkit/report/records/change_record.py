"""A record of a repair on one printed page, for those who answer for a model and not for networks.

It has the same facts as the page of a repair, in words that need no explanation: what failed, for
whom, what was changed, what images say before and after, who pays, the limits, and how to undo it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from repairkit.core.metric import SHARE, Measure
from repairkit.core.process.nouns import TREE
from repairkit.report import page, repair_page, story, wording
from repairkit.report.wording import Document

_ROWS_SHOWN = 9
_NAMED = 3
_SURE, _OPEN = {1: "surely better", -1: "surely worse"}, "may be chance"
_PLAIN = {
    "accuracy": "Right answers over all images",
    "worst_group_accuracy": "Right answers in the group that fares worst",
    "group_accuracy": "Right answers, each group counting the same",
    "clean_accuracy": "Right answers on images that nobody attacked",
    "attack_success": "Attacks that succeed",
    "robustness": "Attacks that succeed, less right answers on other images",
    "accuracy_to_fix": "Right answers on the images to fix",
    "accuracy_elsewhere": "Right answers on all other images",
    "mean_absolute_error": "Mean distance between the answer and the truth",
}
_PLAIN_OF = {
    "recall": "Images of class {} that are recognised",
    "recall_left": "Images of class {} that are still recognised",
    "group_accuracy": "Right answers in the group {}",
    "accuracy_of_others": "Right answers on all classes but class {}",
}
_HEADS = {
    "bias": "Numbers that are added to the model's score of each class were changed.",
    "last-layer": "The last layer, which turns what was seen into an answer, was fitted anew to "
    "the images that chose.",
}
_TREES = "decision trees that together make the answer"
_PARTS = "parts of the model that each respond to one pattern of the image (filters)"


def render_change(document: Document) -> str:
    """The record of a repair, from what `report.json` says of it."""
    return page.render("change.html.j2", change_facts(document), None)


@dataclass(frozen=True)
class _Slices:
    """The groups, or the classes where there are none: `noun` and `rows`; `few` if one is small."""

    noun: str
    rows: list[repair_page.Row]
    few: bool

    @classmethod
    def of(cls, document: Document) -> _Slices:
        tables = repair_page.group_tables(document)
        if not tables:
            return cls("class", repair_page.class_rows(document), few=False)
        few = any(row["small"] for table in tables for row in table["rows"])
        return cls("group", tables[0]["rows"], few)


def change_facts(document: Document) -> dict[str, Any]:
    """The variables of the template, by name."""
    slices = _Slices.of(document)
    rows, n_more = _rows(document, slices)
    evaluations = document["evaluations"]
    return {
        "document": document,
        "name": PurePath(document["result"]["path"]).name,
        "source_name": PurePath(document["source"]["path"]).name,
        "verdict": _verdict(document),
        "warnings": [],
        "failed": _failed(document),
        "whom": list(_whom(document, slices)),
        "changed": list(_changed(document)),
        "rows": rows,
        "n_more": n_more,
        "suite": evaluations["before"]["suite"],
        "n_images": evaluations["before"]["n_images"],
        "pays": list(_pays(document, slices)),
        "limits": list(_limits(document, slices)),
        "commands": repair_page.commands(document),
    }


def _plain(name: str, measure: Measure) -> str:
    """What a metric counts, in plain words."""
    family, _, of = name.partition(":")
    if of and family in _PLAIN_OF:
        return _PLAIN_OF[family].format(of)
    words = _PLAIN.get(name, measure.words)
    return words[:1].upper() + words[1:]


def _inside(words: str) -> str:
    """Words that begin a sentence, within one."""
    return words[:1].lower() + words[1:]


def _side(moved: Document, sign: int) -> int:
    """1 where a change is surely for the better, -1 for the worse, 0 where it is open or none."""
    if moved["ci_low"] is None:
        return 0
    low, high = sorted((sign * moved["ci_low"], sign * moved["ci_high"]))
    return 1 if low > 0 else -1 if high < 0 else 0


def _reading(moved: Document, measure: Measure) -> str:
    """What may be said of a change."""
    if moved["value"] == moved["ci_low"] == moved["ci_high"] == 0:
        return "no change"
    return _SURE.get(_side(moved, measure.sign), _OPEN)


# What failed, and for whom


def _verdict(document: Document) -> dict[str, str]:
    known = story.verdict(document)
    objective, evaluations = document["objective"], document["evaluations"]
    if objective is None:
        sentence = (
            "The change was made as asked for. No figure was measured, so that this record cannot "
            "say whether the model is better or worse."
        )
        return {**known, "sentence": sentence}
    measure, moved = wording.measures_of(document)[objective], evaluations["difference"][objective]
    words = _plain(objective, measure)
    if moved["value"] is None:
        return {**known, "sentence": f"{words}: the images do not tell how it changed."}
    before, after = (
        wording.figure(evaluations[when]["metrics"][objective]["value"], measure)
        for when in ("before", "after")
    )
    sentence = f"{words}: {before} before the change, {after} after it. "
    reading = _reading(moved, measure)
    sentence += f"That {'' if reading == _OPEN else 'is '}{reading}"
    payers = story.find_payers(document) or []
    if payers:
        named = wording.listing([payer["name"] for payer in payers[:_NAMED]])
        more = f" and {len(payers) - _NAMED} more" if len(payers) > _NAMED else ""
        sentence += f", and others pay for it: {named}{more}"
    return {**known, "sentence": f"{sentence}."}


def _failed(document: Document) -> str:
    objective, how = document["objective"], document["choice"]["how"]
    fixed, forgotten = document.get("fixed"), document.get("forgotten")
    if objective is None:
        return "No failure was measured: what to change was named by hand."
    if fixed:
        there = fixed["to_fix"]
        return (
            f"Of {there['n']:,} images that were named as a problem, the model answered "
            f"{there['wrong']:,} wrongly."
        )
    if forgotten:
        return f"Nothing failed: the model was to stop recognising class {forgotten['class']}."
    figures, measures = document["evaluations"]["before"]["metrics"], wording.measures_of(document)
    names = [objective]
    if how in ("robustness", "backdoor") and "attack_success" in figures:
        names = ["attack_success"]
    if "accuracy" in figures and how == "fairness":
        names.append("accuracy")
    told = [
        f"{_inside(_plain(name, measures[name]))} "
        f"{wording.figure(figures[name]['value'], measures[name])}"
        for name in names
    ]
    start = {
        "fairness": "The model served some groups of images worse than others",
        "robustness": "Images that someone altered on purpose fooled the model",
        "backdoor": "A hidden mark in an image made the model give one certain answer",
        **dict.fromkeys(("named", "top"), "No failure was named: what to change was given by hand"),
    }.get(how, "A figure of the model was not good enough")
    return f"{start}. Before the change: {'; '.join(told)}."


def _whom(document: Document, slices: _Slices) -> Iterator[str]:
    """Who fared worst before the change, and who fared best, a sentence each."""
    known = [row for row in slices.rows if row["before"]["value"] is not None]
    if document["choice"]["how"] in ("robustness", "backdoor"):
        yield "Everyone who relies on the answers, whenever someone attacks the model like this."
    if len(known) < 2:
        if not known:
            yield "No groups were told apart, so that nothing is known of who is affected more."
        return
    known.sort(key=lambda row: float(row["before"]["value"]))
    worst, best, noun = known[0], known[-1], slices.noun
    yield f"Worst off was the {noun} {worst['name']}: {_right(worst)}."
    yield f"Best off was the {noun} {best['name']}: {_right(best)}."
    if len(known) > 2:
        yield f"{len(known):,} {'classes' if noun == 'class' else 'groups'} were looked at."


def _right(row: Document) -> str:
    share = wording.figure(row["before"]["value"], SHARE)
    few = ", which is too few to be sure" if row["small"] else ""
    return f"{share} right answers on {wording.count(row['n'], 'image')}{few}"


# What was changed


def _changed(document: Document) -> Iterator[str]:
    patch = document["patch"]
    n_frozen, n_partly = len(patch["frozen"]), len(patch.get("gains", {}))
    total = (document.get("scoring") or {}).get("n_filters")
    if n_frozen:
        were = "was" if n_frozen == 1 else "were"
        partly = f" ({n_partly:,} of them only in part)" if n_partly else ""
        parts = _TREES if document.get("unit") == TREE else _PARTS
        of = f"Of the {total:,} {parts}, {n_frozen:,} {were}" if total else ""
        yield (
            f"{of or f'{n_frozen:,} {parts} {were}'} set to a constant value{partly}. What is set "
            "so responds to no image any more."
        )
    if patch.get("head"):
        yield _HEADS[patch["head"]["kind"]]
    yield (
        "Nothing else was changed, and the model takes and gives the same things as before, at the "
        "same speed. The program proved this: it made the change again and compared every byte, "
        "and compared the answers of the two models."
    )


# What the images say


def _rows(document: Document, slices: _Slices) -> tuple[list[dict[str, Any]], int]:
    """Figures before and after, and how many groups or classes are left out."""
    evaluations, measures = document["evaluations"], wording.measures_of(document)
    metrics = list(evaluations["before"]["metrics"])
    metrics.sort(key=lambda name: (name != document["objective"], name != "accuracy"))
    rows = []
    for name in metrics:
        three = [evaluations[when]["metrics"][name] for when in ("before", "after")]
        row = dict(zip(("before", "after"), three, strict=True))
        row["difference"] = evaluations["difference"][name]
        rows.append(_row(_plain(name, measures[name]), None, measures[name], row))
    room, each = max(_ROWS_SHOWN - len(rows), 2), slices.rows
    shown = sorted(sorted(range(len(each)), key=lambda k: _urgency(each[k]))[:room])
    rows += [
        _row(f"{slices.noun.capitalize()} {row['name']}: right answers", row["n"], SHARE, row)
        for row in (each[k] for k in shown)
    ]
    return rows, len(each) - len(shown)


def _urgency(row: Document) -> tuple[bool, float]:
    """Those that pay first, then those that fare worst."""
    value = row["after"]["value"]
    return not row["pays"], 2.0 if value is None else float(value)


def _row(name: str, n: int | None, measure: Measure, row: Document) -> dict[str, Any]:
    moved = row["difference"]
    side = _side(moved, measure.sign)
    return {
        "name": name,
        "n": n,
        "measure": measure,
        "before": row["before"],
        "after": row["after"],
        "difference": moved,
        "tone": {1: "gain", -1: "loss", 0: "open"}[side],
        "sure": "" if moved["ci_low"] is None else _reading(moved, measure),
    }


def _pays(document: Document, slices: _Slices) -> Iterator[str]:
    """Who surely loses; where nobody does, what losses cannot be ruled out."""
    payers = story.find_payers(document)
    noun, evaluations = slices.noun, document["evaluations"]
    if payers is None:
        yield "No groups or classes were told apart, so that nobody can say who pays."
    elif payers:
        for payer in payers[:_NAMED]:
            yield f"The {noun} {payer['name']} surely gets fewer right answers: {_points(payer)}."
        if len(payers) > _NAMED:
            names = [payer["name"] for payer in payers[_NAMED : 3 * _NAMED]]
            more = len(payers) - 3 * _NAMED
            yield f"So do {', '.join(names)}{f' and {more} more' if more > 0 else ''}."
        yield from filter(None, [story.payers_by_chance(document).strip()])
    else:
        yield f"No {noun} surely gets fewer right answers."
        yield from _not_ruled_out(slices.rows)
    measures = wording.measures_of(document)
    for name, moved in evaluations["difference"].items():
        measure = measures.get(name)
        if measure is not None and _side(moved, measure.sign) < 0:
            change = wording.change(moved["value"], measure)
            yield f"{_plain(name, measure)}: surely worse, {change}."


def _not_ruled_out(rows: list[repair_page.Row]) -> Iterator[str]:
    """The group that may have lost most, as far as these images tell."""
    open_ones = [row for row in rows if (row["difference"]["ci_low"] or 0.0) < 0]
    if open_ones:
        row = min(open_ones, key=lambda row: float(row["difference"]["ci_low"]))
        yield f"A loss cannot be ruled out, at most for {row['name']}: {_points(row)}."


def _points(row: Document) -> str:
    moved = row["difference"]
    limits = wording.interval(moved, SHARE, signed=True)
    return f"{wording.change(moved['value'], SHARE)} (likely {limits})"


# Limits


def _limits(document: Document, slices: _Slices) -> Iterator[str]:
    parts, selection = document["parts"], document.get("selection") or {}
    shared = [pair for pair in parts.get("overlaps", []) if pair[1] == "test"]
    if shared:
        yield (
            "Some images that judged the change also had a part in making it, so that the figures "
            "above are too good to be believed."
        )
    if ((document.get("read") or {}).get("first_look") or {}).get("doubt"):
        yield "The images may have been prepared wrongly for this model; all figures rest on that."
    if slices.few:
        yield "Some groups have few images. Their figures are hints and no findings."
    if document["patch"]["frozen"]:
        yield "What is set to a constant stays so for every image, also where it was of use."
    yield from _limits_of_aims(document)
    unstable = len(selection.get("unstable") or [])
    if unstable:
        yield (
            f"When the choice was repeated with fewer images, {unstable:,} of these parts "
            f"{'was' if unstable == 1 else 'were'} chosen less than half of the time."
        )
    yield "The figures hold for images like those that were measured, and say nothing of others."
    if slices.noun == "group":
        yield "Groups were looked at to choose or to judge. The model itself is not told the group."
    if document.get("notes"):
        yield f"The report has {wording.count(len(document['notes']), 'note')} for specialists."


def _limits_of_aims(document: Document) -> Iterator[str]:
    """What a repair against attacks and a class to forget do not promise."""
    if document["choice"]["how"] in ("robustness", "backdoor"):
        yield "Attacks like those that were tried succeed less often. New ones may succeed."
    if document.get("forgotten"):
        yield "The class is named no longer, but traces of it may remain inside the model."
