"""Whether the values call harmful what the model lives on.

A figure such as "attack success less accuracy", or a difference between groups, is good where the
model answers nothing right. Then the filters that it says to freeze first are those without which
the model fails. The rule: take the k filters that V calls most harmful, and the k that accuracy
lives on most, with k a fifth of all filters and 20 at the most. V is suspected where at least half
of them are the same, and where so many or more are the same by chance once in a thousand times at
the most. By chance the overlap is hypergeometric, with a mean of k * k / n.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np

from repairkit.core.filters import Filter
from repairkit.core.metric import Measure
from repairkit.core.scores import Scores
from repairkit.formats.curve_file import Collapse, CurveDocument, line_named
from repairkit.formats.run_file import RunDocument
from repairkit.formats.score_size import Ends
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.image_metrics import ACCURACY
from repairkit.metrics.robustness import CLEAN_ACCURACY, ROBUSTNESS_ABOVE

_MOST = 20
_SHARE = 5
_FEWEST = 3
_LEVEL = 1e-3


def warn_of_collapse(
    document: RunDocument, scores: Scores, bench: Bench, *, without: Collection[int]
) -> None:
    """Note in the document of a run that V may reward a broken model, if it may.

    Args:
        document: gets the notes, and `rewards_collapse`.
        scores: of all metrics of the game, the guard among them.
        bench: of the run.
        without: players that are not ranked.
    """
    (metric,) = bench.metrics(bench.metric_names[:1])
    ends = document["metrics"].get(metric.name)
    floor = floor_note(metric.name, ends)
    document["notes"] += [floor] if floor else []
    filters = bench.roster.filters
    collapse = find_collapse(scores, metric.measure, bench.accuracy, filters, without=without)
    if collapse is not None:
        document["rewards_collapse"] = collapse
        document["notes"].append(collapse_in_words(collapse, metric.measure, ends))


def find_collapse(
    scores: Scores,
    measure: Measure,
    accuracy: str,
    filters: Sequence[Filter],
    *,
    without: Collection[int] = (),
) -> Collapse | None:
    """The overlap of what V calls harmful with what accuracy lives on; None if it is as expected.

    Args:
        scores: of all metrics of the game, the one that steered first.
        measure: of that metric.
        accuracy: the metric that stands for accuracy; where it was not played, nothing is known.
            Nor is anything suspected of a V with a floor on it.
        filters: of the players.
        without: players that are not ranked.
    """
    if accuracy not in scores.metrics[1:] or _has_floor(scores.metrics[0]):
        return None
    kept = np.setdiff1d(np.arange(len(filters)), np.fromiter(without, np.intp, len(without)))
    harm = -measure.sign * scores.values[kept, 0]
    help_ = scores.values[kept, scores.metrics.index(accuracy)]
    k = min(_MOST, len(kept) // _SHARE, int((harm > 0).sum()), int((help_ > 0).sum()))
    if k < _FEWEST or not np.isfinite(np.concatenate([harm, help_])).all():
        return None
    harmful, helpful = (np.argsort(-worth, kind="stable")[:k] for worth in (harm, help_))
    both = [player for player in harmful.tolist() if player in set(helpful.tolist())]
    chance = overlap_by_chance(len(both), k, len(kept))
    if 2 * len(both) < k or chance > _LEVEL:
        return None
    return {
        "metric": scores.metrics[0],
        "accuracy": accuracy,
        "k": k,
        "overlap": len(both),
        "expected": k * k / len(kept),
        "chance": chance,
        "filters": [filters[kept[player]].id for player in both],
    }


def _has_floor(metric: str) -> bool:
    return metric.startswith(f"{ROBUSTNESS_ABOVE.name}:")


def floor_note(metric: str, ends: Ends | None) -> str | None:
    """What to say where the floor of V is above the accuracy of the model as it is."""
    if not _has_floor(metric) or ends is None or ends["all"] <= 1:
        return None
    return (
        f"the floor of {metric} is above the model's own clean accuracy on these images, so that "
        "no filter can be told to harm; lower the floor"
    )


def overlap_by_chance(overlap: int, k: int, n: int) -> float:
    """How likely two random sets of `k` of `n` share `overlap` or more: a hypergeometric tail."""
    ways = sum(math.comb(k, j) * math.comb(n - k, k - j) for j in range(overlap, k + 1))
    return ways / math.comb(n, k)


def collapse_in_words(collapse: Collapse, measure: Measure, ends: Ends | None) -> str:
    """What a reader must know before freezing the filters that V calls harmful.

    Args:
        collapse: the overlap.
        measure: of V.
        ends: V with all filters and with none, if they are known.
    """
    remedy = "let patch choose, which holds accuracy by --max-drop"
    if collapse["accuracy"] == CLEAN_ACCURACY.name:
        remedy = (
            f"score with --metric {ROBUSTNESS_ABOVE.name}:0.7, which keeps a floor on clean "
            f"accuracy, or {remedy}"
        )
    better = ""
    if ends is not None and measure.sign * (ends["none"] - ends["all"]) > 0:
        better = (
            f", and with no filter at all it is {measure.figure(ends['none'])}, better than "
            f"{measure.figure(ends['all'])} with all"
        )
    return (
        f"V may reward a model that answers nothing right: of the {collapse['k']} filters that "
        f"{measure.words} calls most harmful, {collapse['overlap']} are among the {collapse['k']} "
        f"on which {collapse['accuracy']} lives most (chance gives {collapse['expected']:.1f}; p = "
        f"{collapse['chance']:.1g}){better}; freezing them may leave nothing of the model: look at "
        f"the removal curve of accuracy, and {remedy}"
    )


def collapse_on_curve(curve: CurveDocument) -> str | None:
    """What freezing shows where it makes V better, and takes half of the accuracy or more.

    Args:
        curve: with accuracy beside V, else nothing is known.
    """
    measures = {name: Measure.from_json(facts) for name, facts in curve["measures"].items()}
    metric, accuracy = (
        curve["metric"],
        next((name for name in (CLEAN_ACCURACY.name, ACCURACY.name) if name in measures), None),
    )
    measure, line = measures[metric], line_named(curve, curve["lead"])
    if accuracy is None or accuracy == metric or line is None:
        return None
    figures = [line["figures"][name] for name in (metric, accuracy)]
    starts = [along[0]["value"] for along in figures]
    for size, *drawn in zip(curve["sizes"], *figures, strict=True):
        known = [n for n in (*starts, *(figure["value"] for figure in drawn)) if n is not None]
        if len(known) < 2 * len(figures):
            continue
        before, whole, now, left = known
        if measure.sign * (now - before) > 0 and left <= whole / 2:
            return (
                f"freezing the first {size} filters, {line['words']}, brings the {measure.words} "
                f"from {measure.figure(before)} to {measure.figure(now)} and takes the "
                f"{measures[accuracy].words} from {measures[accuracy].figure(whole)} to "
                f"{measures[accuracy].figure(left)} on the images of the curve: that breaks the "
                "model rather than repairs it"
            )
    return None
