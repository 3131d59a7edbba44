"""Rank filters on smaller images, then measure the top of the ranking at the model's own size.

Nothing is said of the model's own size that was not measured there: the filters that were have the
values of that size, from images that took no part in the ranking; all others have those of the
small size, and `run.json` and `scores.csv` say which is which. Levels of absent filters are
measured at the size at which they are used.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from repairkit.core import errors
from repairkit.core.game import Round
from repairkit.core.process.stages import Deadline, stage
from repairkit.core.scores import Budget, Scores, Spent
from repairkit.core.suite import Suite
from repairkit.data.parts import CONFIRMATION_SHARE, split_selection
from repairkit.data.small_images import SmallImages
from repairkit.estimators.driving import driver
from repairkit.estimators.questions import settle_top_k
from repairkit.estimators.samples import rank_correlation
from repairkit.estimators.walking import confirming_stars
from repairkit.formats import run_file
from repairkit.formats.score_size import ScoreSize, in_words
from repairkit.graph.fixing import node_in, with_image_size
from repairkit.jobs.runs import run_document
from repairkit.jobs.score.score_settings import (
    NORMS,
    SHARE_OF_CONFIRMING,
    SHARE_OF_CURVE,
    ScoreSettings,
)
from repairkit.jobs.score.scored import Around, Scored
from repairkit.jobs.setup import looking, preparing, workbench

_SPLIT_AGAIN = 0x51CE  # so that the images that `patch` confirms on are split off by another draw
_USUAL_STARS = 128
_FEWEST = 4  # filters at full size
_DRAWS = 19  # keeps these draws apart from others of the seed


def small_bench(
    bench: workbench.Bench, scoring: ScoreSettings, *, here: bool, go_on: bool
) -> workbench.Bench:
    """The bench for the small images, with the images that rank as its selection part.

    Args:
        bench: at the model's own size.
        scoring: names the size.
        here: whether coalitions are evaluated on this machine.
        go_on: see `looking.looked_at`.

    Raises:
        SettingsError: another setting does not go with a small size.
        ModelError: the model does not take images of that size; the message names the node.
    """
    assert scoring.score_size is not None
    size = _checked_size(bench, scoring, here=here)
    bench = looking.looked_at(bench, scoring.deadline, go_on=go_on)
    subject, layout = bench.subject, bench.subject.spec.layout
    words = in_words(size)
    resized = with_image_size(subject.model, subject.input_name, workbench.IMAGE_AXES[layout], size)
    channels = subject.spec.channels
    shape = (channels, *size) if layout == "nchw" else (*size, channels)
    small = replace(
        subject,
        file=replace(subject.file, model=resized),
        spec=replace(subject.spec, shape=shape),
    )
    dataset = replace(bench.dataset, images=SmallImages(bench.dataset.images, size, layout))
    _try_one(bench, small, dataset.images.batch(np.arange(1)), words)
    with stage(f"preparing for {words}"):
        ready = preparing.prepare(small, bench.settings, dataset=dataset)
    ranking = _halves(bench, scoring)[0]
    parts = replace(ready.parts, selection=replace(ranking, images=dataset.images))
    return replace(
        ready,
        parts=parts,
        form=bench.form,
        n_classes=bench.n_classes,
        look=bench.look,
        full_size=bench,
    )


def _checked_size(bench: workbench.Bench, scoring: ScoreSettings, *, here: bool) -> tuple[int, int]:
    """The size in pixels, where it makes sense."""
    size = scoring.score_size
    assert size is not None
    full, layout = bench.image_size, bench.subject.spec.layout
    clashes = {
        "--ray": not here,
        "--means": bench.settings.means is not None,
        "--keep-rows": scoring.keep_rows,
        f"--method {scoring.method}": scoring.method in (*NORMS, "random"),
    }
    for option, clashing in clashes.items():
        if clashing:
            raise errors.SettingsError(
                f"--score-size ranks by small images and {option} knows no size; leave one out"
            )
    if layout not in workbench.IMAGE_AXES or full is None:
        raise errors.SettingsError(
            f"--score-size is about images and the input {bench.subject.input_name!r} takes none; "
            "leave it out"
        )
    if min(size) < 1 or any(s > f for s, f in zip(size, full, strict=True)) or size == full:
        raise errors.SettingsError(
            f"--score-size {in_words(size)} is not smaller than the model's {in_words(full)}; give "
            "a smaller size, or leave it out"
        )
    allowed = scoring.budget.max_evaluations
    least = -(-confirming_stars.LEAST_STARS * (_FEWEST + 1) // SHARE_OF_CONFIRMING)
    if allowed is not None and allowed < least:
        raise errors.BudgetError(
            f"{allowed} evaluations are too few to confirm a ranking at {in_words(full)}; raise "
            f"--max-evaluations to at least {int(least)}, or leave --score-size out"
        )
    return size


def _try_one(bench: workbench.Bench, small: workbench.Subject, image: Any, words: str) -> None:
    """Run one image of the small size; refuse a model whose nodes depend on its own size."""
    path = bench.subject.file.path
    why = ""
    subject = preparing.with_inputs(small, bench.settings, bench.dataset)
    feeds = workbench.first_images(bench.dataset, 1).feeds(np.arange(1))
    try:
        runner = subject.opened().as_written(outputs=(subject.output,))
        shape = runner.run(image, feeds=feeds)[subject.output].shape[1:]
    except errors.ModelError as error:
        node = node_in(str(error))
        why = f"{node} depends on the size" if node else str(error)
    else:
        if shape != bench.sample.shape[1:]:
            why = (
                f"its output {subject.output!r} is {shape} in place of {bench.sample.shape[1:]} "
                "per image, since nothing pools all positions"
            )
    if why:
        raise errors.ModelError(
            f"{path}: cannot be scored at {words}: {why}; leave --score-size out, or use a model "
            "with a global pool before its dense layers"
        )


def _halves(bench: workbench.Bench, scoring: ScoreSettings) -> tuple[Suite, Suite]:
    """The selection images that rank, and those that confirm at full size."""
    selection, seed = bench.parts.selection, bench.settings.seed
    if scoring.for_patch:
        selection = split_selection(selection, CONFIRMATION_SHARE, seed).choosing
    try:
        halves = split_selection(selection, CONFIRMATION_SHARE, seed + _SPLIT_AGAIN)
    except errors.TargetNotMetError as error:
        raise errors.DataError(
            f"too few of the {len(selection)} selection images of a group to rank on some and "
            "confirm on others; give more, or leave --score-size out"
        ) from error
    return halves.choosing, halves.confirmation


Finish = Callable[[Scored, Deadline | None], Scored]


def small_first(scoring: ScoreSettings, *, here: bool, resume: bool, then: Finish | None) -> Around:
    """What ranks by small images, and measures the ends of the ranking at full size.

    Args:
        scoring: how.
        here: whether coalitions are evaluated on this machine.
        resume: whether an unfinished run goes on.
        then: what is done afterwards.
    """

    def finish(scored: Scored, deadline: Deadline | None) -> Scored:
        confirmed = confirm(scored, scoring)
        return confirmed if then is None else then(confirmed, deadline)

    return Around(
        prepare=lambda bench: small_bench(bench, scoring, here=here, go_on=resume), finish=finish
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is measured at full size.

    Attributes:
        top_k: of the question whether the top stays.
        sides: `highest`, `lowest` or both.
        players: the 2k highest and lowest by the small ranking.
        budget: of their measurement.
    """

    top_k: int
    sides: tuple[str, ...]
    players: tuple[int, ...]
    budget: Budget


def confirm(scored: Scored, scoring: ScoreSettings) -> Scored:
    """Measure the ends of a small ranking at the model's own size; the folder is written anew.

    Args:
        scored: by `small_bench`.
        scoring: how; its budget is that of both sizes.

    Raises:
        KeyboardInterrupt: the folder then says that nothing was confirmed.
    """
    full, scoring = scored.bench.full_size, scoring.begun()
    assert full is not None
    plan, images = _plan(scored, scoring), _halves(full, scoring)[1]
    metrics = full.metrics(full.metric_names)
    game = full.working.game(images, metrics)
    document = scored.document
    with stage(f"confirming {len(plan.players)} filters at full size"):
        everyone = np.ones(len(full.roster), bool)
        ends = game.play(Round(np.stack([everyone, ~everyone]))).values
        reach = document.get("statistics", {}).get("most_removed")
        try:
            estimation = driver.estimate(
                game,
                confirming_stars.ConfirmingStars(
                    players=plan.players, reach=None if reach is None else int(reach)
                ),
                budget=plan.budget,
                seed=full.settings.seed + _DRAWS,
                began=scoring.began,
            )
        except errors.BudgetError:  # the time ended before eight stars
            estimation = None
    facts = document["score_size"]
    facts["top_k"], facts["images"] = plan.top_k, len(images)
    facts["metrics"] = {
        metric.name: {"all": float(ends[0, column]), "none": float(ends[1, column])}
        for column, metric in enumerate(metrics)
    }
    scores = replace(scored.scores, decided=np.zeros(len(everyone), bool), efficient=False)
    scores = replace(scores, joint=None)
    if estimation is not None:
        scores = _measured(scores, estimation.scores, plan, full, facts)
        _add_spent(document, facts, estimation.spent)
    _conclude(document, scores, full)
    document["notes"].append(_sentence(facts, scores.metrics[0]))
    if scored.folder is not None:
        run_file.RunFolder(scored.folder).write_result(
            document,
            scores,
            full.roster,
            full.subject.layer_map,
            without=scored.excluded,
            details=scored.details,
        )
    return replace(scored, scores=scores, bench=full, document=document, evidence=None)


def _plan(scored: Scored, scoring: ScoreSettings) -> _Plan:
    n, limits = len(scored.bench.roster), scoring.budget
    side = str(scoring.options.get("side", "both"))
    sides = ("highest", "lowest") if side == "both" else (side,)
    asked = scoring.options.get("top_k")
    top_k = settle_top_k(None if asked is None else int(asked), n)
    allowed = None
    if limits.max_evaluations is not None:
        allowed = int(SHARE_OF_CONFIRMING * limits.max_evaluations)
        most = allowed // confirming_stars.LEAST_STARS - 1
        top_k = max(min(top_k, most // (2 * len(sides))), 1)
    ranked = [p for p in scored.scores.ranking().tolist() if p not in scored.excluded]
    ends = {"highest": ranked[: 2 * top_k], "lowest": ranked[-2 * top_k :]}
    players = tuple(sorted({player for name in sides for player in ends[name]}))
    seconds = limits.time_limit_seconds
    if seconds is not None:
        seconds *= 1 - (SHARE_OF_CURVE if scoring.curve else 0.0)
    elif allowed is None:
        allowed = _USUAL_STARS * (len(players) + 1)
    return _Plan(top_k=top_k, sides=sides, players=players, budget=Budget(allowed, seconds))


def _measured(
    small: Scores,
    large: Scores,
    plan: _Plan,
    full: workbench.Bench,
    facts: ScoreSize,
) -> Scores:
    """The scores with values of full size where they were measured; tells how the ranking held."""
    measured = np.flatnonzero(large.samples > 0)
    facts["filters"] = [full.roster.filters[player].id for player in measured.tolist()]
    ranked, values = small.values[measured, 0], large.values[measured, 0]
    error = large.std_errors[measured, 0]
    rng = np.random.default_rng([full.settings.seed, _DRAWS])
    top_k = min(plan.top_k, len(measured))
    facts["stays"] = {}
    for side in plan.sides:
        sign = 1 if side == "highest" else -1
        held = confirming_stars.top_held(sign * ranked, sign * values, error, top_k, rng)
        facts["stays"][side] = [held.share, held.low, held.high]
    correlation = rank_correlation(ranked, values)
    facts["rank_correlation"] = correlation if np.isfinite(correlation) else None
    facts["rank_interval"] = list(confirming_stars.rank_bounds(correlation, len(measured)))
    columns: dict[str, Any] = {}
    for name in ("values", "std_errors", "ci_low", "ci_high", "samples"):
        column = getattr(small, name).copy()
        column[measured] = getattr(large, name)[measured]
        columns[name] = column
    return replace(
        small,
        **columns,
        confidence=min(small.confidence, large.confidence),
        interval=(
            f"at {in_words(facts['full'])} {large.interval}; "
            f"at {in_words(facts['size'])} {small.interval}"
        ),
    )


def _add_spent(document: run_file.RunDocument, facts: ScoreSize, spent: Spent) -> None:
    facts["evaluations"] = spent.evaluations
    document["evaluations"] = document.get("evaluations", 0) + spent.evaluations
    document["image_passes"] = document.get("image_passes", 0) + spent.image_passes
    document["seconds"] = round(max(document.get("seconds", 0.0), 0.0) + spent.seconds, 3)


def _conclude(document: run_file.RunDocument, scores: Scores, full: workbench.Bench) -> None:
    """`run.json` without what holds for one size and all filters alone."""
    document["decided"], document["n_undecided"] = False, len(scores.values)
    document["adds_up"] = False
    document["interval"], document["confidence"] = scores.interval, scores.confidence
    document["parts"] = run_document.told_parts(full.parts)
    for name in ("known", "sum_of_values"):
        document.pop(name, None)  # type: ignore[misc]  # an optional key, by name


def _sentence(facts: ScoreSize, metric: str) -> str:
    """How well the small ranking held, as a note."""
    small, full = in_words(facts["size"]), in_words(facts["full"])
    if "stays" not in facts:
        return (
            f"all values are of {small}: the time limit ended before any filter was measured at "
            f"{full}, and nothing is known of that size"
        )
    k = facts["top_k"]
    stays = " and ".join(
        f"{100 * share:.0f} % of the {k} {side} ({100 * low:.0f} to {100 * high:.0f} %)"
        for side, (share, low, high) in facts["stays"].items()
    )
    low, high = facts["rank_interval"]
    correlation = facts["rank_correlation"]
    rank = (
        "no rank correlation, since values are equal"
        if correlation is None
        else f"a rank correlation of {correlation:.2f} ({low:.2f} to {high:.2f})"
    )
    at_full, n = facts["metrics"][metric]["all"], len(facts["filters"])
    return (
        f"ranked at {small}, and {n} filters at its ends measured at {full} on {facts['images']} "
        f"images that did not rank (V(all) is {at_full:.4g} there); of these {n}, {stays} stay, "
        f"with {rank}; values of all other filters are of {small}"
    )
