"""Estimate values of filters, ask, compare and report runs, and add up data of several owners."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, Unpack

from repairkit.api.job_settings import (
    JobKeywords,
    Metric,
    Metrics,
    check_keywords,
    metric_names,
    open_job,
)
from repairkit.core import errors
from repairkit.core.process.text import clean
from repairkit.core.process.trust import GivenName, without
from repairkit.core.scores import Budget, Estimator, Progress
from repairkit.data.given import GivenAs
from repairkit.formats.means_file import CommonMeans
from repairkit.jobs.ask import asking
from repairkit.jobs.ask.choosing import ImageChoice
from repairkit.jobs.curve import overlaying, scored_curve
from repairkit.jobs.look import reporting
from repairkit.jobs.output import destination, signs_of_life
from repairkit.jobs.owners import measuring, merging
from repairkit.jobs.runs import comparing, reopening
from repairkit.jobs.score import elsewhere, score_settings, scored, scoring, small_first
from repairkit.jobs.setup.workbench import Settings
from repairkit.notebook.progress import shown_in_cell

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Unattended:
    """Logs and figures of a run without a terminal. On SIGTERM it saves and raises `Terminated`.

    Attributes:
        log_json: append log lines, one JSON document each, to this file.
        prometheus_port: serve figures for Prometheus on this port.
        prometheus_file: write figures here, for Prometheus's textfile collector.
    """

    log_json: Path | None = None
    prometheus_port: int | None = None
    prometheus_file: Path | None = None

    @contextmanager
    def watch(self, on_progress: OnProgress | None) -> Iterator[OnProgress | None]:
        """Log until the block ends; yields the function to call with the progress.

        Raises:
            RunFolderError: the log cannot be opened.
            SettingsError: figures cannot be served.
        """
        listeners = [] if on_progress is None else [on_progress]
        if self.prometheus_port is not None or self.prometheus_file is not None:
            port, file = self.prometheus_port, self.prometheus_file
            listeners.insert(0, signs_of_life.prometheus_figures(port=port, file=file))

        def call_all(progress: Progress) -> None:
            for listener in listeners:
                listener(progress)

        with signs_of_life.heeding_sigterm(), _logging_to(self.log_json):
            yield call_all if listeners else None


class ScoreKeywords(JobKeywords, total=False):
    """Further arguments of `score`, beside those of any job (`JobKeywords`).

    Attributes:
        options: settings of the estimator, such as `{"top_k": 20, "side": "lowest"}`.
        max_evaluations: largest number of evaluated coalitions.
        time_limit: seconds for everything, reading and preparation included.
        began: start of the time limit, by `time.monotonic`; now if left out.
        resume: continue the unfinished run in `out`.
        paper: follow the paper's Algorithm 1 to the letter, with the method `tmab`.
        statistics: add statistics of convergence (`Scored.details`).
        exclude_top_of: leave the top filters of this finished run of the model out of the ranking,
            or those of a metric of this run.
        keep_rows: leave coalitions and the model's outputs for them in `out`, for `ask`.
        exclude_share: share of filters that counts as top, in (0, 1); 0.2 if left out.
        for_patch: leave out the selection images that `patch` uses to confirm.
        score_size: rank on images of this size, one side or (height, width) in pixels, and measure
            the ends of the ranking at the model's own size with part of the budget.
        curve: draw the removal curve once the filters are scored; True if left out.
        share_to: also write a run folder here that may leave the owner of the data.
        ray: evaluate on this Ray cluster: `local`, `auto` or an address.
        ray_cores: cores of each Ray worker; 1 if left out.
        unattended: logs and figures of a run without a terminal.
        trust: run code that `repairkit.toml` names; code named in this call always runs.
        accept_preprocessing: continue although images or classes look unlike what the model expects
            (docs/guide/data.md).
        progress: in a notebook, show a bar while the job runs; True if left out.
    """

    options: Mapping[str, object] | None
    max_evaluations: int | None
    time_limit: float | None
    began: float
    resume: bool
    paper: bool
    statistics: bool
    keep_rows: bool
    exclude_top_of: str | Path | None
    exclude_share: float
    for_patch: bool
    score_size: int | tuple[int, int] | None
    curve: bool
    share_to: str | Path | None
    ray: str | None
    ray_cores: int
    unattended: Unattended | None
    progress: bool
    trust: bool
    accept_preprocessing: bool


@shown_in_cell
def score(
    model: str | Path,
    data: GivenAs | None = None,
    *,
    metric: Metrics | None = None,
    method: str | Estimator | type = "auto",
    settings: Settings | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
    **more: Unpack[ScoreKeywords],
) -> scored.Scored:
    """Estimate the value of every filter, as `repairkit score` does.

    Args:
        model: an ONNX file.
        data: a folder of class folders, a manifest or an `.npz`; or in memory: arrays (x, y) or
            (x, y, groups), with groups a mapping of names to columns; arrays by the names that an
            `.npz` has; or a DataFrame with a row per image. That of the settings if None.
        metric: names or functions of (outputs, labels, attributes), one or several; the first one
            steers. Those of the settings if None.
        method: an estimator's name, a norm's, or `module:object`; or an estimator, or its class.
        settings: everything else: groups, preprocessing, parts, sites, device, seed. If None, read
            from `repairkit.toml` beside the model or in the working folder.
        out: a run folder; nothing is written if None.
        on_progress: called from time to time.
        more: see `ScoreKeywords`.

    Raises:
        RepairkitError: anything that the user can correct.
        KeyboardInterrupt: after the run was saved, if `out` is given.
    """
    check_keywords("score", more, ScoreKeywords)
    plan = _plan(method if isinstance(method, str) else GivenName.of(method), more)
    names = metric_names(metric)
    subject, job = open_job(model, data, settings, more)
    job = replace(job, metrics=names or job.metrics, named_by=without(job.named_by, names))
    place, shared = (None if path is None else Path(path) for path in (out, more.get("share_to")))
    if shared is not None:
        if place is None:
            raise errors.SettingsError("only a run folder can be shared; name one with out")
        merging.check_share_place(shared)
    unattended = more.get("unattended")
    watched = nullcontext(on_progress) if unattended is None else unattended.watch(on_progress)
    with watched as tell:
        result = scoring.score(
            subject,
            job,
            plan,
            out=place,
            resume=more.get("resume", False),
            on_progress=tell,
            cluster=_cluster(more, job),
            around=_around(plan, more),
        )
    if shared is not None and place is not None:
        merging.share(place, shared)
    return result


def _plan(method: str, given: ScoreKeywords) -> score_settings.ScoreSettings:
    run, share = given.get("exclude_top_of"), given.get("exclude_share", 0.2)
    size = given.get("score_size")
    return score_settings.ScoreSettings(
        method,
        options=dict(given.get("options") or {}),
        budget=Budget(given.get("max_evaluations"), given.get("time_limit")),
        paper=given.get("paper", False),
        statistics=given.get("statistics", False),
        keep_rows=given.get("keep_rows", False),
        exclude=None if run is None else score_settings.Exclusion(Path(run), share),
        for_patch=given.get("for_patch", False),
        score_size=(size, size) if isinstance(size, int) else size,
        curve=given.get("curve", True),
        began=given.get("began", time.monotonic()),
    )


def _around(plan: score_settings.ScoreSettings, given: ScoreKeywords) -> scored.Around:
    """What is done with a scoring: its ends measured at full size, then its curve drawn."""
    curve = scored_curve.with_curve if plan.curve else None
    if plan.score_size is not None:
        here, resume = given.get("ray") is None, given.get("resume", False)
        return small_first.small_first(plan, here=here, resume=resume, then=curve)
    return scored.Around() if curve is None else scored.Around(finish=curve)


def _cluster(given: ScoreKeywords, job: Settings) -> elsewhere.Cluster | None:
    address, cores = given.get("ray"), given.get("ray_cores", 1)
    if address is None:
        return None
    options = elsewhere.ClusterOptions(address, workers=job.workers, cores=cores)
    return elsewhere.find_cluster("ray", options)


def means(
    model: str | Path | None = None,
    data: GivenAs | None = None,
    *,
    out: str | Path,
    merge: Sequence[str | Path] = (),
    settings: Settings | None = None,
    **words: Unpack[JobKeywords],
) -> CommonMeans:
    """Compute the mean of every filter over all images, as `repairkit means` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: a file that `Settings.means` can name.
        merge: files of several owners to add up, in place of model and data.
        settings: preprocessing, sites, device; see `score`.
        words: see `JobKeywords`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    check_keywords("means", words, JobKeywords)
    place = Path(out)
    if merge:
        if model is not None or data is not None:
            raise errors.SettingsError("--merge needs no model and no data; leave them out")
        common = measuring.merge_means([Path(file) for file in merge])
    else:
        if model is None:
            raise errors.SettingsError(
                "means are of a model, and none was given; name an ONNX file"
            )
        subject, job = open_job(model, data, settings, words)
        measuring.check_means_place(place)
        common = measuring.compute_means(subject, job)
    measuring.write_means(place, common)
    return common


def merge(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    by: merging.By = "images",
    weights: Sequence[float] | None = None,
) -> merging.Merged:
    """Add up values over data that may not leave its owners; see `jobs.owners.merging.merge`.

    Raises:
        RepairkitError: the runs do not fit together, or cannot be read.
    """
    place = None if out is None else Path(out)
    return merging.merge([Path(run) for run in runs], out=place, by=by, weights=weights)


class AskKeywords(TypedDict, total=False):
    """Further arguments of `ask`.

    Attributes:
        groups: columns that are crossed into groups; those of the run if left out.
        where: a condition on columns of the data, such as `group == 'a' and age >= 30`.
        class_name: only images of this class, by name or number.
        images: only these images, counted from 0 in the order of the data: numbers, a text such as
            `3,17,40-60`, or a file of numbers.
        exclude_top_of: leave the top filters by this metric of the same rows out of the ranking.
        exclude_share: share of filters that counts as top, in (0, 1); 0.2 if left out.
        trust: run code that the run names; code named in this call always runs.
        progress: in a notebook, show a bar while the job runs; True if left out.
    """

    groups: str | Sequence[str]
    where: str
    class_name: str | int | None
    images: str | Path | Sequence[int] | None
    exclude_top_of: str | None
    exclude_share: float
    progress: bool
    trust: bool


@shown_in_cell
def ask(
    run: str | Path,
    *,
    metric: Metrics | None = None,
    out: str | Path | None = None,
    **more: Unpack[AskKeywords],
) -> asking.Asked:
    """Value the filters by another metric or on other images, as `repairkit ask` does.

    Args:
        run: a finished run folder whose rows were kept (`keep_rows` of `score`).
        metric: names or functions, one or several; the first one ranks. Those of the run if None.
        out: a run folder for the answer; nothing is written if None.
        more: see `AskKeywords`.

    Raises:
        RepairkitError: the run kept no rows, or they cannot answer this.
    """
    check_keywords("ask", more, AskKeywords)
    groups, class_name = more.get("groups", ()), more.get("class_name")
    question = asking.Question(
        metrics=metric_names(metric),
        groups=tuple(map(clean, (groups,) if isinstance(groups, str) else groups)),
        choice=ImageChoice(
            where=more.get("where", ""),
            class_name=None if class_name is None else str(class_name),
            images=more.get("images"),
        ),
        exclude_top_of=more.get("exclude_top_of"),
        exclude_share=more.get("exclude_share", 0.2),
        trust=more.get("trust", False),
    )
    return asking.ask(Path(run), question, out=None if out is None else Path(out))


def compare(
    runs: Sequence[str | Path], *, metric: str | None = None, top_k: int = 20
) -> comparing.Agreements:
    """How far runs of one model agree, as `repairkit compare` shows.

    Args:
        runs: two or more.
        metric: the metric to compare; each run's first if None.
        top_k: filters at each end of the rankings to compare.

    Raises:
        RepairkitError: a run cannot be read, or the runs share no filters.
    """
    return comparing.compare([Path(run) for run in runs], metric=metric, top_k=top_k)


def curve(
    runs: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    metric: Metric | None = None,
    side: str | None = None,
    model: str | Path | None = None,
    data: GivenAs | None = None,
    means: str | Path | None = None,
    trust: bool = False,
) -> overlaying.Curves:
    """The removal curves of runs of one model in one picture, as `repairkit curve` draws them.

    Args:
        runs: one or more run folders.
        out: a file that ends in `.svg`, `.csv` or `.html`; nothing is written if None.
        metric: the figure to show; the first that all curves hold if None. The function itself,
            where the runs were scored by one that was given.
        side: freeze the `highest` values first, the `lowest`, or `both`; if None, what the first
            run looks at first.
        model: the path of the model, if it was moved.
        data: the path of the data, if they were moved.
        means: the path of the common means, if they were moved.
        trust: run code that a run names, such as a metric of the user's.

    Raises:
        RepairkitError: a run is not finished, or is of another model or judged by other images.
    """
    folders = [runs] if isinstance(runs, str | Path) else runs
    target = None if out is None else Path(out)
    names = metric_names(metric)
    document = overlaying.write_overlay(
        [Path(run) for run in folders],
        target,
        metric=next(iter(names), None),
        side=side,
        places=reopening.places_of(model, data, means, trust=trust, metrics=names),
    )
    return overlaying.Curves(target, document)


def report(
    run: str | Path,
    *,
    out: str | Path | None = None,
    model: str | Path | None = None,
    data: GivenAs | None = None,
    means: str | Path | None = None,
    pictures: bool = True,
    trust: bool = False,
    metric: Metrics | None = None,
) -> reporting.Reported:
    """Write the page of a run folder, and its numbers as JSON, as `repairkit report` does.

    Args:
        run: what `score` wrote.
        out: the page; `report.html` in the folder if None.
        model: the path of the model, if it was moved.
        data: the data, if they were moved or given in memory.
        means: the path of the common means, if they were moved.
        pictures: look at the extreme filters, which takes the model and the data.
        trust: run code that the run names, such as a metric of the user's.
        metric: the functions that the run was scored by, where they were given.

    Raises:
        RepairkitError: the run is not finished, or the model or data are not those of the run.
    """
    return reporting.report_run(
        Path(run),
        out=None if out is None else Path(out),
        places=reopening.places_of(model, data, means, trust=trust, metrics=metric_names(metric)),
        pictures=pictures,
    )


class JsonLines(logging.FileHandler):
    """A log file with one JSON document a line: time, level, logger, message and the event."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self._failed = False

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "event", {}),
        }
        return json.dumps(document, default=str)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (logging's)
        """A failed write, as on a full disk, does not stop the run; the error is reported once."""
        if not self._failed:
            self._failed = True
            error = sys.exc_info()[1]
            sys.stderr.write(f"repairkit: {self.baseFilename}: cannot be written ({error})\n")


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    if path.is_file() or not path.exists():  # a pipe or a terminal needs no check
        destination.check_replaced(path, b'{"time": ', "log of repairkit's")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = JsonLines(path)
    except OSError as error:
        raise errors.RunFolderError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error
    logger = logging.getLogger("repairkit")
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
