"""Commands about runs, from `score` to `atlas`; `means` and `merge` for several owners."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import typer

from repairkit.cli import options, stage_display, streams
from repairkit.cli.option_groups import argument, flag, only, option
from repairkit.cli.options import PREPARATION, AnswerOptions, JobOptions, SearchOptions
from repairkit.core.errors import Interruption, SettingsError, Terminated
from repairkit.core.process.trust import TRUST_HELP


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """What to do with the values, and how to continue a run."""

    of_estimate: ClassVar = (
        "resume", "paper", "statistics", "keep_rows", "exclude_top_of", "for_patch", "curve",
        "share_to",
    )  # fmt: skip
    method: str = option(options.METHOD_HELP, default="auto", autocompletion=options.offer_methods)
    out: Path | None = option("Run folder; runs/MODEL-METRIC-METHOD.", "-o", "--out")
    share_to: Path | None = option(
        "Also write a run folder that may leave the data's owner.", "--share"
    )
    resume: bool = flag("Continue an unfinished run.")
    paper: bool = flag("Follow the paper's Algorithm 1 to the letter (tmab).")
    statistics: bool = flag("Write statistics of convergence: statistics.json.")
    keep_rows: bool = flag("Keep coalitions and outputs in the run folder, for ask.")
    exclude_top_of: Path | None = option(
        "Leave the top filters of this run, or of this metric, out of the ranking."
    )
    exclude_share: float | None = option("Share of its filters that counts as top; 0.2.")
    for_patch: bool = flag("Leave out the images that patch uses to confirm.")
    score_size: str | None = option(
        "Rank on images of this size, measure the ends at full size.", metavar="SIDE|HxW"
    )
    curve: bool = flag(
        "Judge the model on test images as filters are frozen in turn.",
        "--curve/--no-curve",
        default=True,
    )

    def estimate(self) -> dict[str, Any]:
        """The options that `api.score` takes under the same names.

        Raises:
            SettingsError: a share is given without a run.
        """
        if self.exclude_share is not None and self.exclude_top_of is None:
            raise SettingsError("--exclude-share needs a run; name it with --exclude-top-of RUN")
        share = {} if self.exclude_share is None else {"exclude_share": self.exclude_share}
        size = options.read_score_size(self.score_size)
        return {name: getattr(self, name) for name in self.of_estimate} | share | size


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """A cluster that evaluates coalitions."""

    title: ClassVar = "Cluster"
    ray: str | None = option(
        "Evaluate on a Ray cluster: a running one, one at an address, or a new local one.",
        metavar="auto|ADDRESS|local",
    )
    ray_cores: int = option("Cores of each Ray worker.", default=1, min=1)

    def address(self) -> str | None:
        """The cluster to use; `auto` means RAY_ADDRESS where that is set."""
        return os.environ.get("RAY_ADDRESS") or "auto" if self.ray == "auto" else self.ray


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Logs and figures of a run without a terminal."""

    title: ClassVar = "Unattended runs"
    log_json: Path | None = option("Append log lines, one JSON document each, to this file.")
    prometheus_port: int | None = option(
        "Serve figures for Prometheus on this port.", min=1, max=65535
    )
    prometheus_file: Path | None = option("Write figures for Prometheus's textfile collector.")


def score_command(
    context: typer.Context,
    job: JobOptions,
    scoring: ScoringOptions,
    search: SearchOptions,
    cluster: RayOptions,
    watch: WatchOptions,
    answer: AnswerOptions,
) -> None:
    """Estimate the value of every filter with its uncertainty; write a run folder."""
    from repairkit.api import estimating, job_settings
    from repairkit.cli import curve_tables, printing, result_tables

    method = "tmab" if scoring.paper and scoring.method == "auto" else scoring.method
    choices, of_method = scoring.estimate(), search.of_method()
    model, settings = job_settings.find_job(job.model, job.words())
    folder = scoring.out or default_folder(model, settings.metrics[0], method)
    try:
        scored = estimating.score(
            model,
            settings=settings,
            method=method,
            options=of_method,
            max_evaluations=search.max_evaluations,
            time_limit=search.time_limit,
            began=options.began(context),
            out=folder,
            on_progress=stage_display.scoring_progress,
            ray=cluster.address(),
            ray_cores=cluster.ray_cores,
            unattended=estimating.Unattended(**asdict(watch)),
            **choices,
        )
    except KeyboardInterrupt as stop:
        _stopped(stop, folder, answer)
        return

    def tell() -> None:
        result_tables.print_scored(
            scored.table(),
            scored.scores,
            scored.document,
            scored.details,
            ids=[each.id for each in scored.bench.roster],
            excluded=scored.excluded,
        )
        if "curve" in scored.document:
            curve_tables.print_curve(scored.document["curve"])
        printing.say(f"written to {scored.folder}")

    answer.give(scored.to_json, tell)


def _stopped(stop: KeyboardInterrupt, folder: Path, answer: AnswerOptions) -> None:
    """Say that the folder keeps an unfinished run; after SIGTERM this counts as success.

    Raises:
        Interruption: it was Ctrl-C, or nothing is kept.
    """
    kept = (folder / "run.json").is_file()
    if not (kept and isinstance(stop, Terminated)):
        raise Interruption(
            f"interrupted; {folder} keeps what was done, go on with --resume"
            if kept
            else "interrupted before there was anything to keep"
        ) from None
    if not answer.quiet:
        streams.remark(f"stopped by SIGTERM; {folder} keeps what was done, go on with --resume")
    document = {"run": str(folder), "finished": False, "stopped_by": "SIGTERM"}
    answer.give(lambda: document, lambda: None)


def default_folder(model: Path, metric: str, method: str) -> Path:
    """The run folder where no other is named."""
    name = f"{model.stem}-{metric}-{method}"
    return Path("runs") / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


_OF_JOB = (
    "model", "data", "label", "features", "image_input", "inputs", "output", "sites", "sites_at",
    "include", "device", *PREPARATION,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Runs, and what to compare."""

    runs: list[Path] = argument(
        "Run folders of one model, two or more; or one run and a dissection of its model.",
        "RUN...",
        default=...,
    )
    metric: str | None = option("The metric to compare; each run's first if left out.")
    top_k: int = option("Filters at each end of the rankings to compare.", default=20, min=1)


def compare_command(comparing: CompareOptions, answer: AnswerOptions) -> None:
    """Show how far runs agree, or whether the filters that a run values detect concepts."""
    from repairkit.api import concept_jobs, estimating
    from repairkit.cli import concept_tables
    from repairkit.cli.result_tables import print_agreements

    words: Any = {"metric": comparing.metric, "top_k": comparing.top_k}
    if len(comparing.runs) == 2 and concept_jobs.is_dissection(comparing.runs[1]):
        found = concept_jobs.compare_concepts(*comparing.runs, **words)
        answer.give(found.to_json, lambda: concept_tables.print_valued(found.to_json()))
        return
    agreements = estimating.compare(comparing.runs, **words)
    pairs = [agreement.to_json() for agreement in agreements]
    answer.give(
        lambda: {"comparisons": pairs}, lambda: print_agreements(pairs, len(comparing.runs))
    )


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """Runs, what to show of them, and where to draw it."""

    runs: list[Path] = argument("Run folders of one model.", "RUN...", default=...)
    out: Path | None = option("Draw into this file: .svg, .csv or .html.", "-o", "--out")
    metric: str | None = option("The figure to show; the first that all curves hold if left out.")
    side: str | None = option(
        "Freeze the highest values first, the lowest, or both; if left out, what the first run "
        "looks at first.",
        metavar="highest|lowest|both",
    )
    model: Path | None = option("The model, if it was moved.")
    data: Path | None = option("The data, if they were moved.")
    means: Path | None = option("The common means, if they were moved.")
    trust: bool = flag(TRUST_HELP)


def curve_command(drawing: CurveOptions, answer: AnswerOptions) -> None:
    """Show how the model fails as the first filters of each run are frozen in turn."""
    from repairkit.api import estimating
    from repairkit.cli import curve_tables, printing

    curves = estimating.curve(**asdict(drawing))

    def tell() -> None:
        curve_tables.print_overlay(curves.document)
        if curves.out is not None:
            printing.say(f"drawn in {curves.out}")

    answer.give(curves.to_json, tell)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """A run, and where to write its page."""

    run: Path = argument("A run folder that score wrote.", "RUN", default=...)
    out: Path | None = option("The page; report.html in the run folder.", "-o", "--out")
    model: Path | None = option("The model, if it was moved.")
    data: Path | None = option("The data, if they were moved.")
    means: Path | None = option("The common means, if they were moved.")
    pictures: bool = flag(
        "Read model and data for pictures: images, layers, removal.",
        "--pictures/--no-pictures",
        default=True,
    )
    trust: bool = flag(TRUST_HELP)


def report_command(reporting: ReportOptions, answer: AnswerOptions) -> None:
    """Write one self-contained HTML page about a run, and its numbers as JSON."""
    from repairkit.api import estimating
    from repairkit.cli import printing

    reported = estimating.report(**asdict(reporting))

    def tell() -> None:
        printing.say(f"page     {reported.page}")
        printing.say(f"numbers  {reported.report_file}")

    answer.give(lambda: reported.document, tell)


@dataclass(frozen=True, kw_only=True)
class AtlasOptions:
    """A run, and what its page shows."""

    run: Path = argument("A run folder that score wrote.", "RUN", default=...)
    out: Path | None = option("The page; atlas.html in the run folder.", "-o", "--out")
    filters: int = option("How many filters to show.", default=50, min=1)
    dreams: bool = flag(
        "Make an image that excites each filter.", "--dreams/--no-dreams", default=True
    )
    dissection: Path | None = option("Show the concepts that this folder of dissect holds.")
    between: str | None = option(
        "Two classes or groups, comma-separated, whose shared filters are shown; those that "
        "differ most.",
        metavar="A,B",
    )
    model: Path | None = option("The model, if it was moved.")
    data: Path | None = option("The data, if they were moved.")
    means: Path | None = option("The common means, if they were moved.")
    trust: bool = flag(TRUST_HELP)


def atlas_command(drawing: AtlasOptions, answer: AnswerOptions) -> None:
    """Write one self-contained HTML page of the filters that matter, and its numbers as JSON."""
    from repairkit.api.atlases import atlas
    from repairkit.cli import printing

    made = atlas(
        drawing.run,
        out=drawing.out,
        filters=drawing.filters,
        dreams=drawing.dreams,
        dissection=drawing.dissection,
        between=options.split_names(drawing.between) or (),
        model=drawing.model,
        data=drawing.data,
        means=drawing.means,
        trust=drawing.trust,
    )

    def tell() -> None:
        printing.say(f"page     {made.page}")
        printing.say(f"numbers  {made.atlas_file}")

    answer.give(lambda: dict(made.document), tell)


@dataclass(frozen=True, kw_only=True)
class MeansOptions:
    """Files of means to add up, and where to write the result."""

    out: Path | None = option("File; MODEL.means.json.", "-o", "--out")
    merge: list[Path] | None = option("Add up this file of means; repeat it for each owner.")


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Runs, their weights, and where to write the result."""

    runs: list[Path] = argument("Run folders of the same model.", "RUN...", default=...)
    out: Path = option("Run folder of the result.", "-o", "--out", default=...)
    by: str = option("Weight runs by images, or by whole groups.", default="images")
    weights: str | None = option("One number per run, comma-separated.")


def means_command(
    job: Annotated[JobOptions, only(*_OF_JOB)], choice: MeansOptions, answer: AnswerOptions
) -> None:
    """Compute the mean of every filter over all images, or add up the sums of several owners."""
    from repairkit.api import estimating, job_settings
    from repairkit.cli.result_tables import print_means

    if choice.merge:
        if choice.out is None and job.model is None and job.data.data is None:
            raise SettingsError("--merge needs a file to write; name it with -o")
        place = choice.out or Path()
        means = estimating.means(job.model, job.data.data, merge=choice.merge, out=place)
    else:
        model, settings = job_settings.find_job(job.model, job.words())
        place = choice.out or model.with_suffix(".means.json")
        means = estimating.means(model, settings=settings, out=place)
    answer.give(
        lambda: {k: v for k, v in means.to_json().items() if k != "sites"},
        lambda: print_means(means, place),
    )


def merge_command(merging: MergeOptions, answer: AnswerOptions) -> None:
    """Add up values over data that may not leave its owners; needs only run folders."""
    from repairkit.api import estimating
    from repairkit.cli.result_tables import print_merged

    merged = estimating.merge(
        merging.runs,
        out=merging.out,
        by=cast(Literal["images", "groups"], merging.by),  # `merge` refuses other words
        weights=_numbers(merging.weights),
    )
    metric = merged.scores.metrics[0]
    answer.give(
        merged.to_json,
        lambda: print_merged(merged.table(), merged.document, metric, merging.out),
    )


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"--weights {text!r} are no numbers; give one per run, separated by commas"
        ) from None
