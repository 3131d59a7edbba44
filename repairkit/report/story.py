"""What a repair did, in sentences: the verdict, who pays, what was changed and what is promised.

Who pays: groups, or classes where there are no groups, that surely lose accuracy. A loss is sure
where its interval on the reporting images lies below 0. The interval holds 0 where an exact sign
test calls the loss chance (`repairkit.metrics.evaluation.difference`). There is no correction for
the number of groups: the more groups there are, the more losses a correction would hide. Where
nothing is lost in truth, this rule names one group in 40 at the most.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from repairkit.core.metric import SHARE, Measure
from repairkit.report import wording

ONE_IN = 40
"""One group in so many is named by chance, at the most."""
_NAMED = 3
_BESIDE = ("accuracy_elsewhere", "accuracy_of_others:")
_HALF = 0.5  # the balanced accuracy of guessing
_MANY = 20
_MOST_NAMED = 8
_HEADS = {"bias": "class biases", "last-layer": "weights"}
_CURES = {
    "freeze": "freezing filters",
    "bias": "class biases",
    "last-layer": "last layer refitted",
}
_WORDS = {"good": "Improved", "mixed": "Mixed", "open": "Not proven", "bad": "Worse"}


def verdict(document: wording.Document) -> dict[str, str]:
    """`tone`, `word` for it, and the `sentence`, from the figures of the images that report.

    Good needs an interval of the objective's difference that lies on the good side of zero, and
    nobody who pays for it: groups, or classes where there are no groups, that surely lose accuracy
    are named in the first sentence. They turn good to mixed, and open to bad.
    """
    objective = document["objective"]
    evaluations = document["evaluations"]
    if objective is None:
        return _without_figures(document)
    moved = evaluations["difference"][objective]
    if moved["value"] is None:
        return _undefined(document)
    sign = wording.measures_of(document)[objective].sign
    low, high = sorted(sign * (moved[end] or 0.0) for end in ("ci_low", "ci_high"))
    tone = "good" if low > 0 else "bad" if high < 0 else "open"
    crossed, done = wording.is_cross_fitted(evaluations["before"]["suite"]), act(document)
    sentence = _what_moved(document, "Choosing like this" if crossed else done, sure=tone != "open")
    ships = f" What ships: {done[0].lower()}{done[1:]}." if crossed else ""
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


def _what_moved(document: wording.Document, subject: str, *, sure: bool) -> str:
    """The first clause of the verdict: what became of the objective on the images that report."""
    objective, evaluations = document["objective"], document["evaluations"]
    measure, moved = wording.measures_of(document)[objective], evaluations["difference"][objective]
    suite, n_images = (evaluations["before"][key] for key in ("suite", "n_images"))
    where = f"on {wording.count(n_images, 'image')} {wording.of_part(suite)}"
    if not sure and moved["value"] == moved["ci_low"] == moved["ci_high"] == 0:
        return f"{subject} leaves the {measure.words} as it was {where}"
    start, end = (
        wording.figure(evaluations[key]["metrics"][objective]["value"], measure)
        for key in ("before", "after")
    )
    numbers = (
        f"from {start} to {end} {where}: "
        f"{wording.change(moved['value'], measure)}, 95\N{NO-BREAK SPACE}% interval "
        f"{wording.interval(moved, measure, signed=True)}"
    )
    if not sure:
        return f"{subject} moves the {measure.words} {numbers}, which may be chance"
    verb = "lifts" if moved["value"] > 0 else "lowers"
    return f"{subject} {verb} the {measure.words} {numbers}"


def _is_doubtful(document: wording.Document) -> bool:
    """Whether the job went on although its preprocessing looked wrong."""
    look = (document.get("read") or {}).get("first_look") or {}
    return bool(look.get("doubt"))


def _without_figures(document: wording.Document) -> dict[str, str]:
    n_frozen = len(document["patch"]["frozen"])
    proof = document["verification"]
    on = f"{wording.count(proof['n_images'], 'image')} ({proof['images']})"
    what = "1 filter is" if n_frozen == 1 else f"{wording.count(n_frozen, 'filter')} are"
    return {
        "tone": "open",
        "word": "No figures",
        "sentence": (
            f"{what} frozen, as was asked for. No metric was computed, so nothing is said of "
            f"better or worse. All outputs equal those of the masked original on {on}."
        ),
    }


def _undefined(document: wording.Document) -> dict[str, str]:
    name = wording.measures_of(document)[document["objective"]].words
    before = document["evaluations"]["before"]
    where = f"{wording.count(before['n_images'], 'image')} {wording.of_part(before['suite'])}"
    pay = payers_in_words(document)
    return {
        "tone": "bad" if pay else "open",
        "word": _WORDS["bad" if pay else "open"],
        "sentence": (
            f"{act(document)} changes the {name} by an unknown amount: "
            f"the {where} do not define it{f'; it {pay}' if pay else ''}."
        ),
    }


def _price(objective: str, differences: wording.Document) -> str:
    """What became of overall accuracy, or of that beside the objective, where that is another."""
    beside = [name for name in differences if name.startswith(_BESIDE)]
    name = beside[0] if beside else "accuracy"
    if objective == name or name not in differences:
        return ""
    moved, what = differences[name], "accuracy elsewhere" if beside else "overall accuracy"
    if moved["value"] is None or moved["ci_low"] is None:
        return ""
    limits = wording.interval(moved, SHARE, signed=True)
    moved_by = f"{wording.change(moved['value'], SHARE)} (interval {limits})"
    if moved["ci_high"] < 0:
        return f" It costs {what}: {moved_by}."
    if moved["ci_low"] > 0:
        return f" {what.capitalize()} gains as well: {moved_by}."
    return f" {what.capitalize()} stays as it was, as far as these images tell: {moved_by}."


# What was changed


def act(document: wording.Document) -> str:
    """The subject of a sentence: `Freezing 3 of 208 filters and changing the weights of fc`."""
    claim = document["patch"]
    deeds = []
    if claim["frozen"] or not claim.get("head"):
        total = (document.get("scoring") or {}).get("n_filters")
        n = len(claim["frozen"])
        what = (
            wording.count(n, "filter")
            if total is None
            else f"{n:,} of {wording.count(total, 'filter')}"
        )
        n_partly = len(claim.get("gains", {}))
        deeds.append(f"freezing {what}{f' ({n_partly} of them partly)' if n_partly else ''}")
    head = claim.get("head")
    if head:
        deeds.append(f"changing the {_HEADS[head['kind']]} of the last layer")
    sentence = " and ".join(deeds)
    return sentence[0].upper() + sentence[1:]


def head_in_words(document: wording.Document) -> str:
    """What became of the last layer; empty where it stays."""
    head = document["patch"].get("head")
    if not head:
        return ""
    if head["kind"] == "bias":
        return f"New class biases in the last layer, {head['layer']}"
    return f"Weights of the last layer, {head['layer']}, refitted on the selection images"


def overlap_warnings(parts: wording.Document) -> list[str]:
    """Sentences on parts that share images with the test part; means look at no label."""
    consequences = {
        "selection": "the figures of the test part are too good to be believed",
        "calibration": "what frozen filters yield was measured on images that judge it",
    }
    return [
        f"The parts {first} and test share images: {consequences[first]}."
        for first, second in parts.get("overlaps", [])
        if second == "test"
    ]


# Who pays

Payer = dict[str, Any]
"""`name`, `column`, `n`, and the figures `before`, `after` and `difference`."""


def find_payers(document: wording.Document) -> list[Payer] | None:
    """Groups or classes that surely lose accuracy, the worst first; None if none is known."""
    rows = list(_everyone(document))
    if not rows:
        return None
    payers = [row for row in rows if (row["difference"]["ci_high"] or 0.0) < 0]
    return sorted(payers, key=lambda row: float(row["difference"]["value"]))


def payers_in_words(document: wording.Document) -> str:
    """The clause of the verdict that names who pays; empty where no group does."""
    payers = find_payers(document) or []
    if not payers:
        return ""
    noun = _noun(payers, many=len(payers) > 1)
    named = [_payer(payer) for payer in payers[:_NAMED]]
    rest = payers[_NAMED:]
    if rest:
        names = ", ".join(payer["name"] for payer in rest[: 3 * _NAMED])
        more = len(rest) - 3 * _NAMED
        named.append(f"{len(rest)} more: {names}{f' and {more} others' if more > 0 else ''}")
    return f"surely lowers the accuracy of {noun} {wording.listing(named)}"


def payers_by_chance(document: wording.Document) -> str:
    """A sentence on how many chance alone may have named; empty where few were looked at."""
    if not find_payers(document):
        return ""
    rows = list(_everyone(document))
    if len(rows) < _MANY:
        return ""
    noun, by_chance = _noun(rows, many=True), math.ceil(len(rows) / ONE_IN)
    return f" Of the {len(rows):,} {noun} that were looked at, chance alone may name {by_chance:,}."


def _noun(rows: list[Payer], *, many: bool) -> str:
    if any(row["column"] is not None for row in rows):
        return "groups" if many else "group"
    return "classes" if many else "class"


def _payer(payer: Payer) -> str:
    loss = payer["difference"]
    change = wording.change(loss["value"], SHARE)
    return f"{payer['name']} ({change}, {wording.interval(loss, SHARE, signed=True)})"


def _everyone(document: wording.Document) -> Iterator[Payer]:
    """Everyone whose accuracy is known; crossed groups and those of each column alone."""
    groups = list(groups_told(document))
    for column, name, n, three in groups:
        yield _loser(name, column, n, three)
    for row in () if groups else document.get("classes") or ():
        yield _loser(row["name"], None, row["n"], row)


def groups_moved(document: wording.Document) -> Iterator[tuple[str, int, wording.Document]]:
    """Of each group its name, its size and its figures `before`, `after` and `difference`."""
    evaluations = document["evaluations"]
    before, after, change = (evaluations[key] for key in ("before", "after", "difference"))
    for name, accuracy in before["groups"].items():
        three = {
            "before": accuracy,
            "after": after["groups"][name],
            "difference": change[f"accuracy:{name}"],
        }
        yield name, before["group_sizes"][name], three


def groups_told(document: wording.Document) -> Iterator[tuple[str, str, int, wording.Document]]:
    """Of each group its column, its name, its size and figures of its accuracy.

    Groups of all columns crossed, and of each column alone; the column is empty where the document
    does not tell it.
    """
    fairness = document.get("fairness")
    if not fairness:
        yield from (("", *row) for row in groups_moved(document))
        return
    for view in fairness["columns"]:
        for group in view["groups"]:
            yield view["name"], group["name"], group["n"], group


def _loser(name: str, column: str | None, n: int, three: wording.Document) -> Payer:
    figures = {key: three[key] for key in ("before", "after", "difference")}
    return {"name": name, "column": column, "n": n, **figures}


# What is promised


def promise_in_words(document: wording.Document) -> list[str]:
    """The promise and what it rests on, a sentence or two each; empty where none was made."""
    promised, selection = document["choice"].get("promised_on_selection"), document.get("selection")
    if not promised or not selection:
        return []
    objective, parts = document["objective"], selection["parts"]
    measure = wording.measures_of(document)[objective]
    gain = (
        f"{wording.change(promised['value'], measure)} of {measure.words} "
        f"({wording.interval(promised, measure, signed=True)})"
    )
    if not parts.get("folds"):
        ranked = selection.get("scores_saw_confirmation")
        role = "ranked the candidates too" if ranked else "did not choose"
        n_images = parts.get("confirmation") or 0
        on = (
            f"{wording.count(n_images, 'image')} that {role}"
            if n_images
            else "the images that chose"
        )
        return [f"Promised: {gain} on {on}."]
    sentences = [
        f"Choosing like this gained {gain} on images that did not choose: each of "
        f"{parts['folds']} folds of the {wording.count(parts['choosing'], 'selection image')} was "
        "judged under the cure that the others chose, and the interval is widened for that."
    ]
    sentences += [*_rungs(selection["promise"]), *_unstable(selection)]
    return [*sentences, *_better(document, selection), *_aims_in_words(document)]


def _aims_in_words(document: wording.Document) -> Iterator[str]:
    """What became of images to fix or of a class to forget, on the images that report."""
    fixed, forgotten = document.get("fixed"), document.get("forgotten")
    if fixed:
        there, others = fixed["to_fix"], fixed["elsewhere"]
        share = fixed["mended_share"]
        where = wording.of_part(fixed["suite"])
        mended = "none of them was wrong before"
        if share is not None:
            mended = (
                f"{there['mended']} of the {there['wrong']} wrong ones are right now "
                f"({wording.figure(share['value'], SHARE)}, 95 % interval "
                f"{wording.interval(share, SHARE)}), and {there['broken']} turned wrong"
            )
        yield (
            f"Of {wording.count(there['n'], 'image')} to fix {where} {mended}; of "
            f"{wording.count(others['n'], 'other image')} {others['mended']} turned right and "
            f"{others['broken']} turned wrong."
        )
    if forgotten:
        probe = forgotten["probe"]
        before, after = (
            f"{wording.figure(probe[when]['value'], SHARE)} "
            f"({wording.interval(probe[when], SHARE)})"
            for when in ("before", "after")
        )
        still = probe["after"]["ci_low"] > _HALF
        verdict = "is still" if still else "may still be"
        recall, chance = (
            wording.figure(share, SHARE)
            for share in (forgotten["recall"]["value"], forgotten["chance"])
        )
        yield (
            f"Class {forgotten['class']} is named for {recall} of its images "
            f"{wording.of_part(forgotten['suite'])}, where chance is {chance}. A linear probe on "
            f"{probe['on']} tells it from the others with a balanced accuracy of {after}, before "
            f"{before}; guessing gives 50 %. So the class {verdict} in the features: it was not "
            "unlearned."
        )


def _rungs(promise: wording.Document) -> list[str]:
    """Which promise is reached, and why no stronger one."""
    sentences: list[str] = []
    for rung in promise["rungs"]:
        if rung["name"] == promise["reached"]:
            sentences.insert(0, f"Promise reached: {rung['words']}; {rung['why']}.")
            break
        sentences.append(f"Not sure: {rung['words']}; {rung['why']}.")
    return sentences


def _unstable(selection: wording.Document) -> list[str]:
    names = selection.get("unstable") or []
    if not names:
        return []
    shown = ", ".join(names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return [f"Unstable, for fewer than half of the folds chose the same: {shown}{more}."]


def _better(document: wording.Document, selection: wording.Document) -> list[str]:
    """A cure that gained more than the shipped one, if there is such a one."""
    objective = document["objective"]
    measure = wording.measures_of(document)[objective]
    turn = measure.sign
    gains = {
        cure["cure"]: turn * cure["changes"][objective]["value"]
        for cure in selection.get("cures") or []
        if cure["promise"] and cure["changes"][objective]["value"] is not None
    }
    shipped = selection.get("cure")
    best = max(gains, key=lambda name: gains[name], default="")
    if shipped not in gains or gains[best] <= gains[shipped]:
        return []
    gain = wording.change(turn * gains[best], measure)
    words = _CURES.get(best, best)
    return [f"Another cure gained more out of fold: {words}, {gain}; see --repair {best}."]


def search_in_words(selection: wording.Document) -> str:
    """How the choice was made, in a sentence or two."""
    if "candidates" not in selection:
        of_last_layer = selection.get("cure") in (None, "bias", "last-layer")
        own = selection.get("fitted_to") == "own answers"
        to = " to the model's own answers to clean images" if own else ""
        fitted = f"The last layer was fitted{to}; no" if of_last_layer else "No"
        return f"{fitted} filter was searched for."
    method = {
        "joint": "Filters were added and dropped one by one, each judged by images that did not "
        "choose it.",
        "plain": "The lowest-ranked filters were frozen, as many as looked best.",
    }.get(selection["how"], selection["how"])
    parts = selection["parts"]
    candidates = wording.count(selection["candidates"], "candidate")
    sets = wording.count(selection["looks"], "set")
    images = wording.count(parts["choosing"], "image")
    looked = f"{candidates}, {sets} of filters looked at on {images}"
    if parts.get("folds"):
        return f"{method} {looked}; all of them confirmed, out of fold."
    n_images = parts.get("confirmation") or 0
    confirmed = (
        f"{wording.count(n_images, 'other image')} confirmed" if n_images else "no image confirmed"
    )
    return f"{method} {looked}; {confirmed}."


def cure_metrics(document: wording.Document) -> list[str]:
    """The metrics of `cure_rows`: the objective, and the accuracy beside it or overall."""
    cures = (document.get("selection") or {}).get("cures") or []
    known = {name for cure in cures for name in cure["changes"]}
    usual = "clean_accuracy" if "clean_accuracy" in known else "accuracy"
    accuracy = next((name for name in known if name.startswith(_BESIDE)), usual)
    return list(dict.fromkeys([document["objective"], *({accuracy} & known)]))


def cure_rows(document: wording.Document) -> list[dict[str, Any]]:
    """The cures beside each other by their answers out of fold, ready to be shown.

    `figures` hold one text for each of `cure_metrics`.
    """
    selection = document.get("selection") or {}
    measures = wording.measures_of(document)
    rows = []
    for cure in selection.get("cures") or []:
        moved: wording.Document = cure["changes"]
        promise = cure["promise"]
        rows.append(
            {
                "cure": _CURES.get(cure["cure"], cure["cure"]),
                "figures": [_cell(moved, metric, measures) for metric in cure_metrics(document)],
                "promise": promise or "-",
                "note": cure["reason"],
                "shipped": "yes" if cure["cure"] == selection.get("cure") else "",
            }
        )
    return rows


def _cell(moved: wording.Document, metric: str, measures: Mapping[str, Measure]) -> str:
    if metric not in moved or moved[metric]["value"] is None:
        return "-"
    measure, cell = measures[metric], moved[metric]
    return (
        f"{wording.change(cell['value'], measure)} ({wording.interval(cell, measure, signed=True)})"
    )


def cures_caption(selection: wording.Document) -> str:
    """What the figures of `cure_rows` are about."""
    parts: wording.Document = selection["parts"]
    images = wording.count(parts["choosing"], "selection image")
    return f"Change by cure on the {images}, each judged under a cure that it did not choose"


def shown_cures(rows: Sequence[wording.Document]) -> list[list[str]]:
    """The cells of a table: cure, a figure for each metric, promise."""
    return [
        [
            f"{row['cure']}{' (this repair)' if row['shipped'] else ''}",
            *row["figures"],
            row["promise"],
        ]
        for row in rows
    ]
