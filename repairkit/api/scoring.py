"""Values of filters: estimated, and added up over owners of data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repairkit.api.jobs import open_job
from repairkit.core.process.trust import without
from repairkit.core.scores import Budget
from repairkit.formats.means_file import CommonMeans
from repairkit.jobs.output.progress import Progress
from repairkit.jobs.owners import merging
from repairkit.jobs.owners.measuring import compute_means, write_means
from repairkit.jobs.score import scoring
from repairkit.jobs.score.clusters import ClusterOptions, find_cluster
from repairkit.jobs.score.excluding import Exclusion
from repairkit.jobs.score.methods import ScoreSettings
from repairkit.jobs.score.scored import Scored
from repairkit.jobs.setup.settings import Settings


def score(
    model: str | Path,
    data: str | Path | None = None,
    *,
    metric: str | Sequence[str] | None = None,
    method: str = "auto",
    options: Mapping[str, Any] | None = None,
    max_evaluations: int | None = None,
    time_limit: float | None = None,
    settings: Settings | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    paper: bool = False,
    statistics: bool = False,
    exclude_top_of: str | Path | None = None,
    exclude_share: float = 0.2,
    on_progress: Callable[[Progress], None] | None = None,
    ray: str | None = None,
    trust: bool = False,
    accept_preprocessing: bool = False,
) -> Scored:
    """Estimate the value of every filter, as `repairkit score` does.

    Args:
        model: an ONNX file.
        data: a folder of class folders, a manifest or an `.npz`; that of the settings if None.
        metric: one or several, the first of which steers; those of the settings if None.
        method: an estimator's name, a norm's, or `module:object`.
        options: settings of the estimator, such as `{"top_k": 20, "side": "lowest"}`.
        max_evaluations: coalitions tried at the most.
        time_limit: seconds that it may take, reading and preparations included.
        settings: everything else: groups, preprocessing, parts, sites, device, seed. If None, what
            `repairkit.toml` says, beside the model or in the working folder.
        out: a run folder; nothing is written if None.
        resume: go on with the unfinished run in `out`.
        paper: the letter of the paper's Algorithm 1, with the method `tmab`.
        statistics: tell in detail how far the estimate has come (`Scored.details`).
        exclude_top_of: leave out of the ranking the top of this finished run of the same model.
        exclude_share: how much of that run is its top, in (0, 1).
        on_progress: called now and then.
        ray: `local`, `auto` or the address of a Ray cluster, to evaluate there.
        trust: run code that `repairkit.toml` names; what is named in this call runs anyway.
        accept_preprocessing: go on where images or classes are hardly as the model expects
            (docs/guide/data.md).

    Raises:
        RepairkitError: anything that the user can mend.
    """
    began = time.monotonic()
    names = (metric,) if isinstance(metric, str) else tuple(metric or ())
    subject, job = open_job(
        model, data, settings, trust=trust, accept_preprocessing=accept_preprocessing
    )
    job = replace(job, metrics=names or job.metrics, named_by=without(job.named_by, names))
    budget = Budget(max_evaluations, time_limit)
    how = ScoreSettings(
        method,
        dict(options or {}),
        budget,
        paper=paper,
        statistics=statistics,
        began=began,
        exclude=None if exclude_top_of is None else Exclusion(Path(exclude_top_of), exclude_share),
    )
    place = None if out is None else Path(out)
    cluster = None if ray is None else find_cluster("ray", ClusterOptions(ray, job.workers))
    return scoring.score(
        subject, job, how, out=place, resume=resume, on_progress=on_progress, cluster=cluster
    )


def means(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    settings: Settings | None = None,
) -> CommonMeans:
    """Compute what absent filters yield over all images, as `repairkit means` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: a file that `Settings.means` can name.
        settings: preprocessing, sites, device; see `score`.

    Raises:
        RepairkitError: anything that the user can mend.
    """
    found = compute_means(*open_job(model, data, settings))
    write_means(Path(out), found)
    return found


def merge(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    by: merging.By = "images",
    weights: Sequence[float] | None = None,
) -> merging.Merged:
    """Add up values over data that could not leave its owners; see `jobs.owners.merging.merge`.

    Raises:
        RepairkitError: the runs do not add up, or cannot be read.
    """
    place = None if out is None else Path(out)
    return merging.merge([Path(run) for run in runs], out=place, by=by, weights=weights)
