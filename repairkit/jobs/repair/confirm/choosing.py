"""Choose a cure, confirm it by images that did not choose it, or decline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.attacked import twins_of, with_twins
from repairkit.core.errors import TargetNotMetError
from repairkit.core.patch import Figure, Patch
from repairkit.core.process.stages import stage
from repairkit.core.process.text import counted
from repairkit.core.suite import Annotations, Indices, Suite
from repairkit.data.strata import draw_shares, label_bins
from repairkit.jobs.repair.confirm.confirming import not_sure
from repairkit.jobs.repair.confirm.cross_confirming import confirm, cross_fit
from repairkit.jobs.repair.confirm.promises import PROMISES, Judge, Rung, Verdict
from repairkit.jobs.repair.cures.cures import Cure, Cured, Nothing
from repairkit.jobs.repair.objective import Limit, Objective, Target, metric_names
from repairkit.jobs.setup.bench import Bench
from repairkit.metrics import adversarial, is_attacked
from repairkit.repairs import Folds, SearchSettings, assign_folds

CONFIRMATION_SHARE = 1 / 3
N_FOLDS = 5
_FEWEST_OF_A_GROUP = 3
_SPLIT, _CROSS = 1, 3  # streams of the seed


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is to be improved, how far and at which cost.

    Attributes:
        objective: what to improve.
        limits: what metrics may lose.
        targets: figures to be reached.
        search: how to search.
        share: of the selection images, those that confirm and choose nothing; None where every
            image does both, by cross-fitting.
        max_group_drop: what the accuracy of a group may lose, in [0, 1].
        promise: the lowest promise that will do.
        n_folds: of the cross-fitting.
    """

    objective: Objective
    limits: tuple[Limit, ...] = ()
    targets: tuple[Target, ...] = ()
    search: SearchSettings = field(default_factory=SearchSettings)
    share: float | None = None
    max_group_drop: float = 1.0
    promise: str = PROMISES[-1]
    n_folds: int = N_FOLDS

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The objective and all that limits and targets are about, each once."""
        return metric_names(self.objective, self.limits, self.targets)


@dataclass(frozen=True, eq=False)
class Chosen:
    """A patch, what it promises, and how it came to be chosen (the report's `selection`).

    `outputs` are those before and after for all selection images, each under a cure that it did not
    choose; None where a part of them confirmed.
    """

    patch: Patch
    promise: Figure
    story: dict[str, Any]
    outputs: tuple[Array, Array] | None = None


@dataclass(frozen=True)
class Halves:
    """The selection images that choose, those that confirm, and their positions in the part."""

    choosing: Suite
    confirmation: Suite
    positions: tuple[Indices, Indices]


def split_selection(bench: Bench, share: float) -> Halves:
    """Share out the selection images by label and group, with the seed of the job.

    Raises:
        TargetNotMetError: a group has too few images to choose on some and confirm on others.
    """
    suite = bench.parts.selection
    about, seed = suite.annotations, bench.settings.seed
    rng = np.random.default_rng([seed, _SPLIT])
    drawn = with_twins(about, draw_shares(about.labels, about.groups, [1 - share, share], rng))
    halves = [np.flatnonzero(drawn == half) for half in (0, 1)]
    groups = np.zeros(len(suite), np.int64) if about.groups is None else about.groups
    for half in halves:
        missing = set(groups.tolist()) - set(groups[half].tolist())
        if missing:
            of_group = (
                "" if about.groups is None else f" of group {about.group_names[min(missing)]!r}"
            )
            raise TargetNotMetError(
                f"no repair: too few of the {len(suite)} selection images{of_group} to choose on "
                "some and confirm on others; give more of them; nothing was written"
            )
    first, second = halves
    return Halves(
        suite.take(first, "choosing"), suite.take(second, "confirmation"), (first, second)
    )


def strata_of(about: Annotations) -> NDArray[np.int64]:
    """What folds hold their shares of: group, class and whether an attack made it, (n_images,)."""
    groups = np.zeros(len(about), np.int64) if about.groups is None else about.groups
    made = adversarial(about) if is_attacked(about) else np.zeros(len(about), bool)
    labels = label_bins(about.labels)
    # Groups first: folds dealt out in this order hold their share of each group as a whole.
    return np.asarray((groups * (labels.max() + 1) + labels) * 2 + made, np.int64)


def draw_folds(about: Annotations, n_folds: int, seed: int) -> Folds:
    """Folds by class, group and twins, for `choose_by_all`.

    Raises:
        TargetNotMetError: a group has too few images.
    """
    _check_groups(about)
    rng = np.random.default_rng([seed, _CROSS])
    return assign_folds(strata_of(about), n_folds, rng, twins=twins_of(about))


def _check_groups(about: Annotations) -> None:
    """Every group needs images to choose on, to screen within these, and to confirm on.

    Raises:
        TargetNotMetError: a group has too few images.
    """
    if about.groups is None:
        return
    counts = np.bincount(about.groups, minlength=len(about.group_names))
    fewest = int(np.where(counts > 0, counts, len(about) + 1).argmin())
    if counts[fewest] < _FEWEST_OF_A_GROUP:
        raise TargetNotMetError(
            f"no repair: too few of the {len(about)} selection images, {counts[fewest]}, are of "
            f"group {about.group_names[fewest]!r} to choose on some and confirm on others; give at "
            f"least {_FEWEST_OF_A_GROUP} of each, better 30; nothing was written"
        )


def told_names(bench: Bench, wishes: Wishes) -> tuple[str, ...]:
    """The metrics that a report tells of a choice: all that is wished for, and accuracy."""
    names = wishes.metric_names
    return names if not bench.n_classes or bench.accuracy in names else (*names, bench.accuracy)


def judge_of(bench: Bench, wishes: Wishes, about: Annotations, *, n_folds: int) -> Judge:
    """What cures are judged by."""
    names = told_names(bench, wishes)
    return Judge(
        wishes.objective,
        wishes.limits,
        wishes.targets,
        wishes.max_group_drop,
        bench.metrics,
        names,
        bench.form,
        about,
        n_folds,
        bench.settings.seed,
    )


@stage("choosing")
def choose_by_all(
    wishes: Wishes,
    judge: Judge,
    folds: Folds,
    cure: Cure,
    plain: Array,
    story: Mapping[str, Any],
) -> Chosen:
    """Every image chooses and every image confirms; see `cross_confirming`.

    Args:
        wishes: what is to be improved.
        judge: of all selection images.
        folds: of the selection images.
        cure: the way to change the model.
        plain: the model's outputs for the selection images as it is.
        story: what the report's `selection` is to hold beside.

    Raises:
        TargetNotMetError: there is nothing to gain, or not surely enough.
    """
    fitted, n_images = cross_fit(cure, folds, plain), len(judge.annotations)
    told = {
        **_opening(wishes, n_images, n_images, judge.seed),
        **story,
        **fitted.whole.story,
        "folds": fitted.told_folds(wishes.search.at_most),
    }
    if isinstance(fitted.whole, Nothing):
        raise _declined(fitted.whole.reason, told, wishes, judge, plain)
    with stage("confirming"):
        found = confirm(fitted, judge)
    verdict, n_steps = found.verdict, found.n_steps
    shipped = fitted.whole.first(n_steps)
    told |= {
        **_told_verdict(verdict, wishes, found.looks),
        "cure": shipped.name,
        "folds": fitted.told_folds(n_steps),
        "stability": fitted.stability(n_steps),
        "unstable": fitted.unstable(n_steps),
    }
    rung = verdict.best(wishes.promise)
    if verdict.refused is not None or rung is None:
        refused = verdict.refused
        reason = _not_enough(verdict, wishes)
        if refused is not None:
            reason = f"on images that did not choose, {refused[0]}"
        told_reason = f"{_what(shipped)} is best on all selection images, but {reason}"
        raise _declined(told_reason, told, wishes, judge, plain)
    return Chosen(
        shipped.patch, verdict.changes[wishes.objective.metric], told, (plain, found.answers)
    )


@stage("choosing")
def choose_by_part(
    wishes: Wishes,
    judge: Judge,
    halves: Halves,
    cure: Cure,
    plain: Array,
    story: Mapping[str, Any],
) -> Chosen:
    """Some selection images choose, the others confirm and have no say in the choice.

    Raises:
        TargetNotMetError: there is nothing to gain, or not surely enough.
    """
    within, others = halves.positions
    told = {**_opening(wishes, len(within), len(others), judge.seed), **story}
    whole = cure.on(within)
    told |= whole.story
    if isinstance(whole, Nothing):
        raise _declined(whole.reason, told, wishes, judge, plain[others])
    first = ""
    for looks, n_steps in enumerate(range(whole.n_steps, 0, -1), 1):
        cured = whole.first(n_steps)
        with stage("confirming"):
            verdict = judge.judge(plain[others], cured.outputs[others])
        if not first:
            told |= _told_verdict(verdict, wishes, looks)
        chance = not_sure(wishes.objective, verdict.changes)
        if not chance and verdict.refused is None:
            told |= {**_told_verdict(verdict, wishes, looks), "cure": cured.name}
            return Chosen(cured.patch, verdict.changes[wishes.objective.metric], told)
        first = first or (
            f"{_what(cured)} was best on the {len(within)} images that chose, but on the "
            f"{len(others)} that confirm {chance or (verdict.refused or ('',))[0]}; more "
            "selection images may tell"
        )
        # Fewer filters cost less. They also gain less, so nothing but a limit sends us back.
        if chance or (verdict.refused is not None and not verdict.refused[1]):
            break
    told["confirmation_looks"] = looks
    if looks > 1:
        first += f" ({looks - 1} smaller sets on the way there were not borne out either)"
    raise _declined(first, told, wishes, judge, plain[others])


def _opening(wishes: Wishes, n_choosing: int, n_confirming: int, seed: int) -> dict[str, Any]:
    crossed = wishes.share is None
    return {
        "how": "joint",
        "objective": wishes.objective.metric,
        "parts": {
            "choosing": n_choosing,
            "confirmation": n_confirming,
            "share": wishes.share,
            "folds": wishes.n_folds if crossed else None,
            "seed": seed,
        },
        "settings": asdict(wishes.search),
        "limits": {limit.metric: limit.most for limit in wishes.limits},
        "max_group_drop": wishes.max_group_drop,
        "targets": [str(target) for target in wishes.targets],
        "confirmation": None,
        "confirmation_looks": 0,
        "promised": None,
        "promise": None,
        "declined": None,
    }


def _told_verdict(verdict: Verdict, wishes: Wishes, looks: int) -> dict[str, Any]:
    return {
        "confirmation": {name: figure.to_json() for name, figure in verdict.changes.items()},
        "reached": {name: figure.to_json() for name, figure in verdict.reached.items()},
        "promised": verdict.changes[wishes.objective.metric].to_json(),
        "promise": verdict.to_json(wishes.promise) if wishes.share is None else None,
        "confirmation_looks": looks,
    }


def _what(cured: Cured) -> str:
    """A cure in words."""
    if cured.patch.head is not None:
        return {"bias": "moving the class biases"}.get(cured.name, "refitting the last layer")
    names = ", ".join(f.id for f in cured.patch.filters)
    return f"freezing {counted(len(cured.patch), 'filter')} ({names})"


def _not_enough(verdict: Verdict, wishes: Wishes) -> str:
    """Why no promise that will do is borne out, and how many more images it would take."""
    wanted = PROMISES[: PROMISES.index(wishes.promise) + 1]
    rungs = [rung for rung in verdict.rungs if rung.name in wanted]
    change = verdict.changes[wishes.objective.metric]
    told = "; ".join(f"{rung.words}: {rung.why}" for rung in rungs)
    return (
        f"choosing like this changes {wishes.objective.metric} by "
        f"{wishes.objective.measure.change(change.value)} on images that did not choose, which "
        f"may be chance ({told}){_more(rungs)}"
    )


def _more(rungs: list[Rung]) -> str:
    """How many more images would tell, by the answers that changed."""
    needed = [rung for rung in rungs if rung.needed]
    if not needed:
        return ""
    first = min(needed, key=lambda rung: rung.needed or 0)
    of_group = f" of group {first.of_group}" if first.of_group else ""
    return f"; about {first.needed:,} more selection images{of_group} would tell"


def _declined(
    reason: str,
    story: Mapping[str, Any],
    wishes: Wishes,
    judge: Judge,
    plain: Array,
) -> TargetNotMetError:
    told = f"{reason}{_met_already(wishes, judge, plain)}"
    return TargetNotMetError(f"no repair: {told}; nothing was written", {**story, "declined": told})


def _met_already(wishes: Wishes, judge: Judge, plain: Array) -> str:
    """What is to be said of targets that need no repair."""
    met = [
        str(target) for target in wishes.targets if target.met(judge.value(target.metric, plain))
    ]
    return f"; as it is, the model meets {' and '.join(met)} on them" if met else ""
