"""`repairkit score`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from repairkit.cli.options import options
from repairkit.cli.options.clusters import Ray, RayCores, ray_cluster
from repairkit.cli.options.started import began
from repairkit.cli.options.unattended import LogJson, PrometheusFile, PrometheusPort, unattended
from repairkit.cli.shown import show
from repairkit.cli.shown.classes import ExcludeShare, ExcludeTopOf, exclusion
from repairkit.cli.shown.score_tables import print_scored
from repairkit.core.errors import Interruption, SettingsError
from repairkit.core.scores import Budget
from repairkit.formats.run_file import RunFolder
from repairkit.jobs.output.unattended import Terminated
from repairkit.jobs.owners.owned import check_share_place, share
from repairkit.jobs.score.excluding import Exclusion
from repairkit.jobs.score.methods import METHODS, ScoreSettings
from repairkit.jobs.score.scoring import score

Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="What filters are worth for; may repeat, the first steers."),
]
Method = Annotated[str, typer.Option("--method", help=f"{', '.join(METHODS)}, or module:object.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="How many filters to tell apart.")]
Side = Annotated[str | None, typer.Option("--side", help="highest, lowest or both.")]
Epsilon = Annotated[float | None, typer.Option("--epsilon", help="Tolerance of the top set.")]
Delta = Annotated[float | None, typer.Option("--delta", help="Probability of a wrong top set.")]
TruncateAt = Annotated[
    float | None, typer.Option("--truncate-at", help="Accuracy at which a walk is cut (v_T).")
]
Option = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method; may repeat."),
]
MaxEvaluations = Annotated[
    int | None, typer.Option("--max-evaluations", min=1, help="Coalitions tried at the most.")
]
TimeLimit = Annotated[
    float | None, typer.Option("--time-limit", min=0.0, help="Seconds that the command may take.")
]


def how_to_score(
    method: str,
    *,
    top_k: int | None,
    side: str | None,
    epsilon: float | None,
    delta: float | None,
    truncate_at: float | None,
    max_evaluations: int | None,
    time_limit: float | None,
    further: list[str] | None = None,
    paper: bool = False,
    statistics: bool = False,
    exclude: Exclusion | None = None,
    for_patch: bool = False,
    began: float | None = None,
) -> ScoreSettings:
    """Score settings with only those estimator options that were given.

    Raises:
        SettingsError: a further option is no NAME=VALUE.
    """
    given: dict[str, Any] = {
        "top_k": top_k,
        "side": side,
        "epsilon": epsilon,
        "delta": delta,
        "truncate_at": truncate_at,
    }
    return ScoreSettings(
        method,
        {name: value for name, value in given.items() if value is not None} | _parse(further),
        Budget(max_evaluations, time_limit),
        paper,
        statistics,
        exclude=exclude,
        for_patch=for_patch,
        began=began,
    )


def _parse(further: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE: numbers, true, false and null as in JSON, all else as text."""
    found: dict[str, Any] = {}
    for text in further or ():
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise SettingsError(f"--set {text!r} is no setting; write NAME=VALUE, as in lanes=4")
        try:
            number = json.loads(value)
        except ValueError:
            number = value
        if isinstance(number, float) and not math.isfinite(number):
            raise SettingsError(f"--set {text!r} is not a finite number; give one such as 0.5")
        found[name.replace("-", "_")] = number
    return found


def score_command(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    metric: Metrics = None,
    method: Method = "auto",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Run folder; runs/MODEL-METRIC-METHOD.")
    ] = None,
    share_to: options.Share = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    top_k: TopK = None,
    side: Side = None,
    epsilon: Epsilon = None,
    delta: Delta = None,
    truncate_at: TruncateAt = None,
    option: Option = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The letter of the paper's Algorithm 1 (tmab).")
    ] = False,
    max_evaluations: MaxEvaluations = None,
    time_limit: TimeLimit = None,
    statistics: Annotated[
        bool,
        typer.Option("--statistics", help="Tell how far the estimate has come: statistics.json."),
    ] = False,
    exclude_top_of: ExcludeTopOf = None,
    exclude_share: ExcludeShare = None,
    for_patch: Annotated[
        bool,
        typer.Option("--for-patch", help="Leave out the images on which patch confirms."),
    ] = False,
    group: options.Groups = None,
    classes: options.Classes = None,
    features: options.Features = None,
    image_input: options.ImageInput = None,
    inputs: options.Inputs = None,
    output: options.Output = None,
    columns: options.Columns = None,
    threshold: options.Threshold = None,
    outputs_are: options.OutputsAre = None,
    sites: options.Sites = None,
    sites_at: options.SitesAt = "pre-activation",
    include: options.Include = None,
    absent: options.Absent = "mean",
    means: options.Means = None,
    batch: options.Batch = 128,
    device: options.Device = "auto",
    tf32: options.Tf32 = False,
    half: options.Half = False,
    workers: options.Workers = None,
    cache_memory: options.CacheMemory = None,
    seed: options.Seed = None,
    calibration: options.Calibration = None,
    selection: options.Selection = None,
    test: options.Test = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    color: options.Color = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    layout: options.Layout = None,
    accept_preprocessing: options.AcceptPreprocessing = False,
    trust: options.Trust = False,
    ray: Ray = None,
    ray_cores: RayCores = 1,
    log_json: LogJson = None,
    prometheus_port: PrometheusPort = None,
    prometheus_file: PrometheusFile = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Estimate the value of every filter, with its uncertainty, into a run folder."""
    how = how_to_score(
        "tmab" if paper and method == "auto" else method,
        top_k=top_k,
        side=side,
        epsilon=epsilon,
        delta=delta,
        truncate_at=truncate_at,
        max_evaluations=max_evaluations,
        time_limit=time_limit,
        further=option,
        paper=paper,
        statistics=statistics,
        exclude=exclusion(exclude_top_of, exclude_share),
        for_patch=for_patch,
        began=began(context),
    )
    subject, settings = options.settle_job(context.params)
    folder = out or default_folder(subject.file.path, settings.metrics[0], how.method)
    if share_to is not None:
        check_share_place(share_to)
    try:
        with (
            unattended(
                show.scoring_progress,
                log_json=log_json,
                prometheus_port=prometheus_port,
                prometheus_file=prometheus_file,
            ) as on_progress,
        ):
            scored = score(
                subject,
                settings,
                how,
                out=folder,
                resume=resume,
                on_progress=on_progress,
                cluster=ray_cluster(ray, workers=workers, cores=ray_cores),
            )
    except KeyboardInterrupt as stop:
        kept = RunFolder(folder).run_file.is_file()
        if kept and isinstance(stop, Terminated):
            if not quiet:
                show.remark(
                    f"stopped by SIGTERM; {folder} keeps what was done, go on with --resume"
                )
            if as_json:
                unfinished = {"run": str(folder), "finished": False, "stopped_by": "SIGTERM"}
                show.print_json(unfinished)
            return
        raise Interruption(
            f"interrupted; {folder} keeps what was done, go on with --resume"
            if kept
            else "interrupted before there was anything to keep"
        ) from None
    if share_to is not None:
        share(folder, share_to)
    if as_json:
        show.print_json(scored.to_json())
    elif not quiet:
        print_scored(scored)


def default_folder(model: Path, metric: str, method: str) -> Path:
    """Where a run goes that was not told where to go."""
    name = f"{model.stem}-{metric}-{method}"
    return Path("runs") / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
