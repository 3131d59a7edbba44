"""Score a model's filters into a run folder."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from repairkit.core.errors import RunFolderError, Terminated
from repairkit.core.metric import Metric
from repairkit.core.process.stages import event, stage
from repairkit.core.scores import Progress, Run, Spent, first_metrics
from repairkit.core.suite import Precision, Suite
from repairkit.data.parts import CONFIRMATION_SHARE, split_selection, thin
from repairkit.estimators.driving import checkpoint, driver
from repairkit.formats import effects, run_file
from repairkit.jobs.ask import keeping
from repairkit.jobs.output import destination, signs_of_life
from repairkit.jobs.runs import claiming, run_document
from repairkit.jobs.score import columns, excluding, methods
from repairkit.jobs.score.collapse import warn_of_collapse
from repairkit.jobs.score.elsewhere import Cluster, PlacedGame, Recipe
from repairkit.jobs.score.score_settings import NORMS, SHARE_OF_CURVE, Exclusion, ScoreSettings
from repairkit.jobs.score.scored import Around, Evidence, Scored
from repairkit.jobs.setup import looking, preparing, workbench
from repairkit.jobs.setup.settings import Again, said_again
from repairkit.jobs.setup.subject import judging_the_model
from repairkit.metrics.definition import check_defined

logger = logging.getLogger(__name__)
_ENDS = 2  # rows: all filters, and none


@judging_the_model
def score(
    subject: workbench.Subject,
    settings: workbench.Settings,
    scoring: ScoreSettings,
    *,
    out: Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    cluster: Cluster | None = None,
    around: Around | None = None,
) -> Scored:
    """Estimate the value of every filter.

    Args:
        subject: the model.
        settings: images, metrics, sites.
        scoring: method and budget.
        out: the run folder; nothing is written if None.
        resume: go on with the unfinished run in `out`.
        on_progress: called every fraction of a second.
        cluster: where coalitions are evaluated; here if None. Never changes a result.
        around: what is done before and after.

    Raises:
        RepairkitError: anything that the user can mend.
        KeyboardInterrupt: after the run was saved; `run.json` says that it is unfinished.
    """
    scoring = scoring.begun()
    workbench.check_metrics(settings, settings.metrics)
    folder = None if out is None else run_file.RunFolder(out)
    if folder is not None:
        claiming.check_free(folder, resume=resume)
    with nullcontext() if folder is None else claiming.locked(folder.path):
        bench = preparing.prepare(subject, settings)
        scored = score_bench(
            bench if around is None else around.prepare(bench),
            scoring,
            folder=folder,
            resume=resume,
            on_progress=on_progress,
            cluster=cluster,
        )
        return scored if around is None else around.finish(scored, scoring.deadline)


def score_again(model: Path, settings: workbench.Settings, scoring: ScoreSettings) -> Again:
    """The command that does this scoring again."""
    again = said_again(
        "score", model, settings, scoring, usual=ScoreSettings(), budget=scoring.budget
    )
    return again if scoring.curve else replace(again, words=(*again.words, "--no-curve"))


def score_bench(
    bench: workbench.Bench,
    scoring: ScoreSettings,
    *,
    folder: run_file.RunFolder | None = None,
    resume: bool = False,
    suite: Suite | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cluster: Cluster | None = None,
) -> Scored:
    """Like `score`, on a prepared bench and the images of `suite` (the selection part if None).

    The caller holds the lock of `folder`.
    """
    scoring = scoring.begun()
    metrics = bench.metrics(bench.metric_names)
    excluded = find_excluded(scoring.exclude, bench)
    if scoring.for_patch and suite is None and bench.full_size is None:
        suite = split_selection(
            bench.parts.selection, CONFIRMATION_SHARE, bench.settings.seed
        ).choosing
    methods.check_method(scoring)
    if scoring.keep_rows:
        keeping.check_keeping(scoring.method, folder=folder is not None, here=cluster is None)
    earlier = run_document.read_earlier(folder) if folder is not None and resume else None
    bench = looking.looked_at(bench, scoring.deadline, go_on=earlier is not None)
    document = _opening(bench, scoring, excluded, folder)
    if folder is not None:
        run_document.claim(folder, document, resume=resume)
        if resume:
            claiming.sweep(folder)
    looking.tell_reading(document["read"])
    evidence = None
    if scoring.method in NORMS:
        estimation = methods.score_norms(scoring.method, bench, metrics[0].name)
        scores = estimation.scores
    else:
        asked = bench.parts.selection if suite is None else suite
        job = _Job(
            bench=bench,
            scoring=scoring,
            images=asked,
            metrics=metrics,
            pace=_pace(scoring, bench),
            earlier=earlier,
            document=document,
            folder=folder,
            cluster=cluster,
            on_progress=on_progress,
        )
        beside = columns.auxiliaries(job.metrics, scoring.method, len(bench.roster), earlier)
        if beside is not None:
            document["auxiliary"] = [metric.name for metric in beside if metric is not None]
        job = replace(
            job,
            images=_affordable(job),
            guard=columns.guard(bench, metrics),
            auxiliaries=beside or (),
        )
        words = "" if job.pace is None else job.pace.in_words(len(bench.roster), scoring.method)
        with stage(words) if words else nullcontext():
            estimation = _watched(job)
        scores = first_metrics(estimation.scores, len(metrics))
        warn_of_collapse(document, estimation.scores, bench, without=excluded.players)
        evidence = _evidence(estimation, job, asked)
    excluded = excluded.known_by(scores, bench.roster, document)
    run_document.conclude(document, estimation, scores)
    details = run_document.told_on_request(estimation, document) if scoring.statistics else {}
    if folder is not None:
        folder.write_result(
            document,
            scores,
            bench.roster,
            bench.subject.layer_map,
            without=excluded.players,
            details=details,
        )
    return Scored(
        scores=scores,
        bench=bench,
        document=document,
        folder=None if folder is None else folder.path,
        details=details,
        excluded=excluded.players,
        evidence=evidence,
    )


def _opening(
    bench: workbench.Bench,
    scoring: ScoreSettings,
    excluded: excluding.Excluded,
    folder: run_file.RunFolder | None,
) -> run_file.RunDocument:
    """`run.json` before anything is scored."""
    given = [
        name
        for name, about in effects.settings_of(ScoreSettings).items()
        if about.where_given and getattr(scoring, name)
    ]
    named = {name: run_document.plain(getattr(scoring, name)) for name in given}
    options = {**scoring.options, **named, **excluded.keyed}
    document = run_document.opening(bench, scoring.method, options, scoring.budget)
    if excluded.document is not None:
        document["excluded"] = excluded.document
    if folder is not None:
        again = score_again(bench.subject.file.path, bench.settings, scoring)
        beside = f"{destination.Places.here().relative(folder.path)}.again"
        document["again"] = again.to_json() | {"out": beside}
    document["notes"] += excluded.notes
    return document


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A game to be played, and where its results go.

    Attributes:
        bench: the workbench.
        scoring: method and budget.
        images: on which the game is played.
        metrics: of the game, without the guard.
        guard: see `engine.model_game.ModelGame`.
        auxiliaries: see there.
        pace: what the time limit allows; None without one.
        earlier: the run that is resumed, if any.
        document: its `run.json` so far.
        folder: where that is written; nowhere if None.
        cluster: where the game is played; here if None.
        on_progress: called every fraction of a second.
    """

    bench: workbench.Bench
    scoring: ScoreSettings
    images: Suite
    metrics: tuple[Metric, ...]
    pace: methods.Pace | None
    earlier: run_file.RunDocument | None
    document: run_file.RunDocument
    folder: run_file.RunFolder | None
    cluster: Cluster | None
    on_progress: Callable[[Progress], None] | None
    guard: Metric | None = None
    auxiliaries: tuple[Metric | None, ...] = ()


def _evidence(estimation: driver.Estimation, job: _Job, asked: Suite) -> Evidence | None:
    if estimation.run is None or estimation.facts is None:
        return None
    return Evidence(
        run=estimation.run,
        facts=estimation.facts,
        asked=asked,
        images=job.images,
        metrics=job.metrics,
        guard=job.guard,
    )


def _watched(job: _Job) -> driver.Estimation:
    """Play the game and report progress; if it is stopped, the folder records that."""
    document, folder = job.document, job.folder
    watch = signs_of_life.Watch(folder, len(job.bench.roster))
    opened = event(
        "started", key=document["key"], method=job.scoring.method, model=document["model"]
    )
    logger.info("scoring %d filters", len(job.bench.roster), extra=opened)
    try:
        with _table(job) as table:
            estimation = _play(job, table, watch)
    except KeyboardInterrupt as stop:
        why = "stopped by SIGTERM" if isinstance(stop, Terminated) else "interrupted"
        watch.close("unfinished")
        run_document.tell_unfinished(document, watch.spent, why)
        if folder is not None and folder.run_file.is_file():
            folder.write(document)
        logger.info("%s", document["reason"], extra=event("unfinished", **watch.facts(why)))
        raise
    except BaseException as error:
        watch.close("failed")
        logger.info("failed", extra=event("failed", error=str(error), kind=type(error).__name__))
        raise
    watch.close("finished")
    closed = event("finished", reason=estimation.reason, **watch.facts("finished"))
    logger.info("%s", estimation.reason, extra=closed)
    return estimation


@dataclass(frozen=True)
class _Table:
    """Where the game is played: here, or by the workers of a cluster."""

    game: PlacedGame
    device: str
    precision: Precision


@contextmanager
def _table(job: _Job) -> Iterator[_Table]:
    bench, working = job.bench, job.bench.working
    if job.cluster is None:
        n_rows = _rows_of(job.scoring, bench)
        game = working.game(
            job.images, job.metrics, guard=job.guard, n_rows=n_rows, auxiliaries=job.auxiliaries
        )
        yield _Table(game, working.device, working.precision)
        return
    recipe = Recipe.of(bench, job.images, job.metrics, job.guard, job.auxiliaries)
    with job.cluster.open(recipe, seed=bench.settings.seed) as remote:
        yield _Table(remote, remote.device, remote.precision)


def _play(job: _Job, table: _Table, watch: signs_of_life.Watch) -> driver.Estimation:
    """Play the game; the folder is first written after the first round."""
    bench, scoring, document, folder = job.bench, job.scoring, job.document, job.folder
    game = table.game
    keeper = keeping.Keeper(game) if _keeps_rows(job) else None
    known = columns.play_ends(game)
    document["metrics"] = columns.ends_of(known[1], game.facts, len(job.metrics))
    document["notes"] += looking.told_of_ends(document["metrics"])
    plan = methods.settle_estimator(scoring, game, bench, pace=job.pace, again=_taken(job.earlier))
    estimator, budget = plan.estimator, plan.budget
    document["settings"]["estimator"] = run_document.plain(estimator)
    document["settings"]["budget"] = asdict(budget)
    document["taken"] = plan.taken.to_json()
    document["notes"] += methods.told_of_method(scoring.method, plan.taken, game.facts)
    document["notes"] += methods.told_of_few(scoring.method, plan, game.facts)
    document["engine"] = game.path
    document["device"], document["precision"] = table.device, table.precision
    if bench.settings.tf32 and table.precision != "tf32":
        document["notes"].append("TF32 was asked for, and no CUDA device found: 32 bits were used")
    report = signs_of_life.reporter(job.on_progress, budget, len(bench.roster))
    unwritten = [folder] if folder is not None else []

    def on_round(run: Run, spent: Spent) -> None:
        while unwritten:
            unwritten.pop().write(document)
        if keeper is not None:
            keeper.settle(spent.rounds)
        watch.on_round(run, spent)
        if report is not None:
            report(run, spent)

    if folder is not None and not run_document.starts_anew(folder, document):
        run_document.check_values(folder, document["metrics"])
    store = None if folder is None else checkpoint.CheckpointStore(folder.checkpoint)
    if keeper is not None and store is not None:
        keeper.open(
            bench,
            job.images,
            method=plan.taken.method,
            per_row=getattr(estimator, "images_per_coalition", 1),
            most_rows=budget.max_evaluations,
            store=store,
            document=document,
        )
    with stage("scoring"), keeper or nullcontext():
        estimation = driver.estimate(
            game,
            estimator,
            budget=budget,
            seed=bench.settings.seed,
            on_round=on_round,
            checkpoint=store,
            with_details=scoring.statistics,
            began=_began(job),
            known=known,
        )
    if keeper is not None:
        document["rows"] = keeper.kept
    document["engine"] = game.path  # which now tells of rows that were mixed
    return estimation


def _began(job: _Job) -> float | None:
    """The moment from which the time of scoring counts: earlier by what the curve is to take."""
    scoring = job.scoring
    if job.pace is None or scoring.began is None or not scoring.curve:
        return scoring.began
    return scoring.began - SHARE_OF_CURVE * job.pace.deadline.seconds


def _pace(scoring: ScoreSettings, bench: workbench.Bench) -> methods.Pace | None:
    """The passes that the time limit allows, if there is one."""
    deadline = scoring.deadline
    if deadline is None:
        return None
    deadline = replace(deadline, seconds=scoring.of_ranking.time_limit_seconds or deadline.seconds)
    with stage("timing a pass of an image"):
        return methods.Pace(deadline, workbench.seconds_per_pass(bench))


def _affordable(job: _Job) -> Suite:
    """The images on which a first answer fits the time limit, or those of the earlier run.

    Raises:
        DataError: a metric needs a class or group of which there is no image.
        BudgetError: the time limit is too short for any score.
    """
    asked, method, pace = job.images, job.scoring.method, job.pace
    for metric in job.metrics:
        check_defined(metric, asked.annotations, asked.name)
    n, most = len(job.bench.roster), len(asked)
    if job.earlier is not None:
        scored_on = job.earlier.get("scored_on")
        most = most if scored_on is None else scored_on["n_images"]
    elif pace is not None:
        of_sets = any(not metric.per_image for metric in job.metrics)
        pace.refuse_hopeless(n, method, of_sets=of_sets)
        most = pace.most_images(n, method, of_sets=of_sets)
    images = thin(asked, most, job.bench.settings.seed)
    job.document["scored_on"] = {"part": images.name, "n_images": len(images)}
    if len(images) < len(asked):
        job.document["notes"].append(
            f"scored on {len(images)} of {len(asked)} selection images, drawn evenly over labels "
            "and groups, because of the time limit"
        )
    return images


def _taken(earlier: run_file.RunDocument | None) -> methods.Taken | None:
    """The method that the resumed run had chosen."""
    known = None if earlier is None else earlier.get("taken")
    return None if known is None else methods.Taken(known["method"], known["options"], known["why"])


def _keeps_rows(job: _Job) -> bool:
    """Whether rows are kept: where that was asked, now or when the resumed run began."""
    return job.scoring.keep_rows or (job.earlier is not None and "rows" in job.earlier)


def _rows_of(scoring: ScoreSettings, bench: workbench.Bench) -> int | None:
    """The most coalitions of all images that a method asks for; None if it draws images."""
    n = len(bench.roster)
    wanted: int | None = {"leave-one-out": n + 1, "exact": 1 << min(n, 30)}.get(scoring.method)
    if wanted is None:
        return None
    most = scoring.of_ranking.max_evaluations
    return _ENDS + (wanted if most is None else min(wanted, most))


def find_excluded(exclusion: Exclusion | None, bench: workbench.Bench) -> excluding.Excluded:
    """The filters that a run ranks highest, by the metric that steered it.

    Where no such folder is there and a metric of this run has the name, its top is meant.

    Raises:
        RunFolderError: the run is broken, unfinished, of another model, about filters read or
            silenced otherwise, or it leaves nothing to rank.
    """
    if exclusion is None:
        return excluding.NOTHING
    if not exclusion.run.is_dir() and str(exclusion.run) in bench.metric_names:
        return excluding.Excluded(later=exclusion)
    folder = run_file.RunFolder(exclusion.run)
    run = folder.read()
    if run["model"]["digest"] != bench.subject.file.digest:
        raise RunFolderError(
            f"{exclusion.run}: holds scores of another model ({run['model']['path']}), which say "
            f"nothing of {bench.subject.file.path}; score it first, then name that run"
        )
    run = folder.read_finished()
    for setting in run_document.differing(
        run_document.settings_in(run),
        run_document.settings_at(bench.settings, bench.common),
        effects.Affects.FILTERS,
    ):
        raise RunFolderError(
            f"{exclusion.run}: was scored with {setting.name} {setting.first!r}, and this job has "
            f"{setting.second!r}; give both the same"
        )
    columns = folder.read_metric_values()
    metric = next(iter(columns))
    values = columns[metric]
    n_top = max(1, round(exclusion.share * len(values)))
    # Where less is better, the filters that help the model most have the lowest values.
    turn = 1 if metric in run.get("less_is_better", []) else -1
    top = sorted(values, key=lambda name: turn * values[name])[:n_top]
    known = {f.id: player for player, f in enumerate(bench.roster.filters)}
    players = frozenset(known[name] for name in top if name in known)
    if len(players) == len(bench.roster):
        raise RunFolderError(
            f"{exclusion.run}: its top {n_top} filters are all that this job scores; lower "
            "--exclude-share, or score more sites"
        )
    return excluding.Excluded(
        players,
        {
            "run": str(exclusion.run),
            "key": run["key"],
            "metric": metric,
            "share": exclusion.share,
            "filters": [bench.roster.filters[player].id for player in sorted(players)],
        },
    )
