"""`repairkit score`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import typer

from repairkit import api
from repairkit.cli.options.answer import Answer
from repairkit.cli.options.groups import flag, option
from repairkit.cli.options.job import Job, settle_job
from repairkit.cli.options.search import METHOD_HELP, Search
from repairkit.cli.options.started import began
from repairkit.core.errors import Interruption, SettingsError


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is done with the values, and how a run goes on."""

    method: str = option(METHOD_HELP, default="auto")
    out: Path | None = option("Run folder; runs/MODEL-METRIC-METHOD.", "-o", "--out")
    share_to: Path | None = option(
        "Also write a run folder that may leave the data's owner.", "--share"
    )
    resume: bool = flag("Go on with an unfinished run.")
    paper: bool = flag("The letter of the paper's Algorithm 1 (tmab).")
    statistics: bool = flag("Tell how far the estimate has come: statistics.json.")
    exclude_top_of: Path | None = option("Leave out of the ranking the top of this run.")
    exclude_share: float | None = option("How much of it is its top; 0.2.")
    for_patch: bool = flag("Leave out the images on which patch confirms.")

    def estimate(self) -> dict[str, Any]:
        """The choices that are arguments of `api.score` too.

        Raises:
            SettingsError: there is a share to exclude, and no run.
        """
        if self.exclude_share is not None and self.exclude_top_of is None:
            raise SettingsError("--exclude-share is of a run; name it with --exclude-top-of RUN")
        share = {} if self.exclude_share is None else {"exclude_share": self.exclude_share}
        return {
            "resume": self.resume,
            "paper": self.paper,
            "statistics": self.statistics,
            "exclude_top_of": self.exclude_top_of,
            "for_patch": self.for_patch,
            "share_to": self.share_to,
            **share,
        }


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where else coalitions are evaluated."""

    title: ClassVar = "Cluster"
    ray: str | None = option(
        "Evaluate on a Ray cluster: the one that runs, one's address, or one started here.",
        metavar="auto|ADDRESS|local",
    )
    ray_cores: int = option("Cores of each worker on the Ray cluster.", default=1, min=1)

    def address(self) -> str | None:
        """The cluster asked for; `auto` is the one of RAY_ADDRESS where that is set."""
        return os.environ.get("RAY_ADDRESS") or "auto" if self.ray == "auto" else self.ray


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a run that nobody watches makes itself known."""

    title: ClassVar = "Unattended runs"
    log_json: Path | None = option("Append a log of one JSON document a line to this file.")
    prometheus_port: int | None = option("Serve figures for Prometheus here.", min=1, max=65535)
    prometheus_file: Path | None = option("Write figures for Prometheus's textfile collector.")


def score_command(
    context: typer.Context,
    job: Job,
    scoring: Scoring,
    search: Search,
    cluster: Cluster,
    watch: Watch,
    answer: Answer,
) -> None:
    """Estimate the value of every filter, with its uncertainty, into a run folder."""
    from repairkit.cli.shown import show
    from repairkit.cli.shown.score_tables import print_scored

    method = "tmab" if scoring.paper and scoring.method == "auto" else scoring.method
    choices, options = scoring.estimate(), search.of_method()
    model, settings = settle_job(job)
    folder = scoring.out or default_folder(model, settings.metrics[0], method)
    try:
        scored = api.score(
            model,
            settings=settings,
            method=method,
            options=options,
            max_evaluations=search.max_evaluations,
            time_limit=search.time_limit,
            began=began(context),
            out=folder,
            on_progress=show.scoring_progress,
            ray=cluster.address(),
            ray_cores=cluster.ray_cores,
            unattended=api.Unattended(**asdict(watch)),
            **choices,
        )
    except KeyboardInterrupt as stop:
        _stopped(stop, folder, answer)
        return
    answer.give(scored.to_json, lambda: print_scored(scored))


def _stopped(stop: KeyboardInterrupt, folder: Path, answer: Answer) -> None:
    """Say that the folder keeps an unfinished run; SIGTERM is then no failure.

    Raises:
        Interruption: it was Ctrl-C, or nothing is kept.
    """
    from repairkit.cli.shown import show

    kept = (folder / "run.json").is_file()
    if not (kept and isinstance(stop, api.Terminated)):
        raise Interruption(
            f"interrupted; {folder} keeps what was done, go on with --resume"
            if kept
            else "interrupted before there was anything to keep"
        ) from None
    if not answer.quiet:
        show.remark(f"stopped by SIGTERM; {folder} keeps what was done, go on with --resume")
    document = {"run": str(folder), "finished": False, "stopped_by": "SIGTERM"}
    answer.give(lambda: document, lambda: None)


def default_folder(model: Path, metric: str, method: str) -> Path:
    """Where a run goes that was not told where to go."""
    name = f"{model.stem}-{metric}-{method}"
    return Path("runs") / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
