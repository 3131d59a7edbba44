"""What images say of a cure that they did not choose.

With cross-confirmation every image chooses and every image confirms. The images are shared out into
folds. For each fold a cure is chosen on the images outside it, and its answers for the fold's
images are kept. These answers together tell what choosing like this is worth on images that did not
choose. What ships is the cure that all images choose. References: Nadeau & Bengio 2003 (the error
of a cross-fitted figure); Bayle, Bayle, Janson & Mackey 2020.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from repairkit.core import attacked, errors, suite
from repairkit.core.process.stages import stage
from repairkit.data.parts import strata_of
from repairkit.jobs.repair.cures.supplies import Offer
from repairkit.jobs.repair.ladder import CureJudge, Verdict, not_sure
from repairkit.repairs.crossfit import Folds, assign_folds
from repairkit.repairs.cure import ChosenPatch, Cure, Cured, Nothing, Story

_STABLE_SHARE = 0.5
_FEWEST_OF_A_GROUP = 3
_CROSS = 3  # a stream of the seed


def draw_folds(about: suite.Annotations, n_folds: int, seed: int) -> Folds:
    """Folds by class, group and twins, for `cross_fit`.

    Raises:
        TargetNotMetError: a group has too few images.
    """
    _check_groups(about)
    rng = np.random.default_rng([seed, _CROSS])
    return assign_folds(strata_of(about), n_folds, rng, twins=attacked.twins_of(about))


def _check_groups(about: suite.Annotations) -> None:
    """Every group needs images to choose on, to screen within these, and to confirm on.

    Raises:
        TargetNotMetError: a group has too few images.
    """
    if about.groups is None:
        return
    counts = np.bincount(about.groups, minlength=len(about.group_names))
    fewest = int(np.where(counts > 0, counts, len(about) + 1).argmin())
    if counts[fewest] < _FEWEST_OF_A_GROUP:
        raise errors.TargetNotMetError(
            f"no repair: too few of the {len(about)} selection images, {counts[fewest]}, are of "
            f"group {about.group_names[fewest]!r} to choose on some and confirm on others; give at "
            f"least {_FEWEST_OF_A_GROUP} of each, better 30; nothing was written"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossFitted:
    """A cure chosen on all images, and once without each fold.

    Attributes:
        folds: of the images.
        plain: the model's outputs for all images as it is.
        whole: what all images choose.
        without: what the images outside each fold choose.
    """

    folds: Folds
    plain: suite.Array
    whole: Cured | Nothing
    without: tuple[Cured | Nothing, ...]

    def answers(self, n_steps: int) -> suite.Array:
        """For each image the outputs under the cure that its fold did not choose.

        Args:
            n_steps: steps of each cure at the most.
        """
        after = self.plain.copy()
        for fold, cured in enumerate(self.without):
            if isinstance(cured, Cured):
                members = self.folds.fold_of == fold
                after[members] = cured.first(n_steps).outputs[members]
        return after

    def stability(self, n_steps: int) -> dict[str, int]:
        """For each filter of the shipped cure, the folds whose cure freezes it too."""
        if not isinstance(self.whole, Cured):
            return {}
        counts = Counter(
            filter.id
            for cured in self.without
            if isinstance(cured, Cured)
            for filter in cured.first(n_steps).patch.filters
        )
        return {f.id: counts[f.id] for f in self.whole.first(n_steps).patch.filters}

    def unstable(self, n_steps: int) -> list[str]:
        """The filters of the shipped cure that fewer than half of the folds freeze."""
        enough = _STABLE_SHARE * len(self.without)
        return [name for name, count in self.stability(n_steps).items() if count < enough]

    def fold_rows(self, n_steps: int) -> list[Story]:
        """For the report: what each fold's images did not choose."""
        return [
            {
                "n_images": int((self.folds.fold_of == fold).sum()),
                "cure": cured.name if isinstance(cured, Cured) else None,
                "frozen": [f.id for f in cured.first(n_steps).patch.filters]
                if isinstance(cured, Cured)
                else [],
            }
            for fold, cured in enumerate(self.without)
        ]


def cross_fit(cure: Cure, folds: Folds, plain: suite.Array) -> CrossFitted:
    """Choose on all images, and without each fold.

    Args:
        cure: the way to change the model.
        folds: of the selection images.
        plain: the model's outputs for all of them.
    """
    whole = cure.on(folds.everyone)
    without = tuple(cure.on(rest) for rest in folds.rest)
    return CrossFitted(folds=folds, plain=plain, whole=whole, without=without)


@dataclass(frozen=True, eq=False)
class Confirmed:
    """The cure as far as limits are kept, and what its answers out of fold make sure.

    `n_steps` counts its steps, `looks` how often the answers were judged: more than once where
    larger changes cost too much.
    """

    n_steps: int
    looks: int
    answers: suite.Array
    verdict: Verdict


def confirm(fitted: CrossFitted, judge: CureJudge) -> Confirmed:
    """Judge a cure by the answers out of fold; smaller changes only where a limit asks for it.

    Fewer steps cost less. They also gain less, so nothing but a limit leads to them, and no gain is
    picked among several.
    """
    most = fitted.whole.n_steps if isinstance(fitted.whole, Cured) else 1
    first: Confirmed | None = None
    for looks, n_steps in enumerate(range(most, 0, -1), 1):
        answers = fitted.answers(n_steps)
        verdict = judge.judge(fitted.plain, answers)
        confirmed = Confirmed(n_steps, looks, answers, verdict)
        first = first or confirmed
        if verdict.refusal is None:
            return confirmed
        if not verdict.refusal.costs_too_much:
            break
    assert first is not None
    return first


def compare_cures(judge: CureJudge, folds: Folds, offer: Offer) -> list[Story]:
    """All cures beside each other: the rows of the report's `selection.cures`.

    Args:
        judge: of the selection images.
        folds: of the selection images.
        offer: the cures that the model can take, and why it cannot take others.
    """
    rows = [
        _row(name, cross_fit(cure, folds, offer.plain), judge) for name, cure in offer.cures.items()
    ]
    nothing: Story = {"promise": None, "n_frozen": 0, "changes": {}, "reached": {}}
    for name, reason in offer.reasons.items():
        rows.append({"cure": name, **nothing, "reason": f"not available here: {reason}"})
    return rows


def _row(name: str, fitted: CrossFitted, judge: CureJudge) -> Story:
    confirmed, whole = confirm(fitted, judge), fitted.whole
    verdict = confirmed.verdict
    rung = None if verdict.refusal is not None else verdict.best(judge.wishes.promise)
    reason = whole.reason if isinstance(whole, Nothing) else ""
    if verdict.refusal is not None:
        reason = verdict.refusal.reason
    return {
        "cure": name,
        "promise": None if rung is None or isinstance(whole, Nothing) else rung.name,
        "n_frozen": len(whole.first(confirmed.n_steps).patch) if isinstance(whole, Cured) else 0,
        "changes": {metric: figure.to_json() for metric, figure in verdict.changes.items()},
        "reached": {metric: figure.to_json() for metric, figure in verdict.reached.items()},
        "reason": reason,
    }


@stage("choosing")
def confirm_by_all(judge: CureJudge, folds: Folds, offer: Offer, *, repair: str) -> ChosenPatch:
    """Every image chooses and every image confirms; see `confirming`.

    Args:
        judge: of all selection images.
        folds: of the selection images.
        offer: the cures that the model can take.
        repair: the name of the wanted one.

    Raises:
        TargetNotMetError: there is nothing to gain, or not surely enough.
    """
    wishes, n_images, plain = judge.wishes, len(judge.annotations), offer.plain
    fitted = cross_fit(offer.wanted(repair), folds, plain)
    story = wishes.opening(n_images, n_images, judge.seed) | {"repair": repair}
    story |= {**fitted.whole.story, "folds": fitted.fold_rows(wishes.search.at_most)}
    if isinstance(fitted.whole, Nothing):
        raise _declined(fitted.whole.reason, story, judge, plain)
    with stage("confirming"):
        confirmed = confirm(fitted, judge)
    verdict, n_steps = confirmed.verdict, confirmed.n_steps
    shipped = fitted.whole.first(n_steps)
    story |= {
        **verdict.rows(wishes, confirmed.looks),
        "cure": shipped.name,
        "folds": fitted.fold_rows(n_steps),
        "stability": fitted.stability(n_steps),
        "unstable": fitted.unstable(n_steps),
    }
    reason = "" if verdict.best(wishes.promise) else verdict.why_not(wishes)
    if verdict.refusal is not None:
        reason = f"on images that did not choose, {verdict.refusal.reason}"
    if reason:
        reason = f"{shipped.words} is best on all selection images, but {reason}"
        raise _declined(reason, story, judge, plain)
    return ChosenPatch(
        patch=shipped.patch,
        promise=verdict.changes[wishes.objective.metric],
        selection=story,
        outputs=(plain, confirmed.answers),
        n_folds=wishes.n_folds,
        n_confirmations=confirmed.looks,
    )


@stage("choosing")
def confirm_by_part(
    judge: CureJudge, positions: tuple[suite.Indices, suite.Indices], offer: Offer, *, repair: str
) -> ChosenPatch:
    """Some selection images choose, the others confirm and have no part in the choice.

    Args:
        judge: of the images that confirm.
        positions: of the images that choose, and of those that confirm.
        offer: the cures that the model can take.
        repair: the name of the wanted one.

    Raises:
        TargetNotMetError: there is nothing to gain, or not surely enough.
    """
    wishes, (within, others) = judge.wishes, positions
    before, whole = offer.plain[others], offer.wanted(repair).on(within)
    story = wishes.opening(len(within), len(others), judge.seed) | {"repair": repair}
    story |= whole.story
    if isinstance(whole, Nothing):
        raise _declined(whole.reason, story, judge, before)
    first = ""
    for looks, n_steps in enumerate(range(whole.n_steps, 0, -1), 1):
        cured = whole.first(n_steps)
        with stage("confirming"):
            verdict = judge.judge(before, cured.outputs[others])
        rows, promise = verdict.rows(wishes, looks), verdict.changes[wishes.objective.metric]
        reason = chance = not_sure(wishes.objective, verdict.changes)
        if verdict.refusal is not None:
            reason = chance or verdict.refusal.reason
        if not reason:
            selection = {**story, **rows, "cure": cured.name}
            return ChosenPatch(
                patch=cured.patch, promise=promise, selection=selection, n_confirmations=looks
            )
        if looks == 1:
            story |= rows
            first = (
                f"{cured.words} was best on the {len(within)} images that chose, but on the "
                f"{len(others)} that confirm {reason}; more selection images may tell"
            )
        # A smaller change costs less and gains less: only a broken limit leads to one.
        if chance or (verdict.refusal is not None and not verdict.refusal.costs_too_much):
            break
    story["confirmation_looks"] = looks
    if looks > 1:
        first += f" ({looks - 1} smaller sets on the way there were not borne out either)"
    raise _declined(first, story, judge, before)


def _declined(
    reason: str, story: Mapping[str, object], judge: CureJudge, plain: suite.Array
) -> errors.TargetNotMetError:
    """The error, with the targets that the model meets already.

    Args:
        reason: why there is no repair.
        story: how the choice went so far.
        judge: of the images that confirm.
        plain: the outputs for them as the model is.
    """
    targets = judge.wishes.targets
    met = [str(target) for target in targets if target.met(judge.value(target.metric, plain))]
    if met:
        reason += f"; as it is, the model meets {' and '.join(met)} on them"
    document = {**story, "declined": reason}
    return errors.TargetNotMetError(f"no repair: {reason}; nothing was written", document)
