"""Values of filters, estimated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from repairkit.api.job_settings import check_keywords, open_job
from repairkit.api.watching import Unattended
from repairkit.core.errors import SettingsError
from repairkit.core.process.trust import without
from repairkit.core.scores import Budget, Progress
from repairkit.jobs.owners.owned import check_share_place, share
from repairkit.jobs.score import scoring
from repairkit.jobs.score.elsewhere import Cluster, ClusterOptions, find_cluster
from repairkit.jobs.score.methods import ScoreSettings
from repairkit.jobs.score.scored import Scored
from repairkit.jobs.setup.settings import Exclusion, Settings


class ScoreKeywords(TypedDict, total=False):
    """Further arguments of `score`.

    Attributes:
        options: settings of the estimator, such as `{"top_k": 20, "side": "lowest"}`.
        max_evaluations: coalitions tried at the most.
        time_limit: seconds that it may take, reading and preparations included.
        began: the moment of `time.monotonic` from which they count; now if left out.
        resume: go on with the unfinished run in `out`.
        paper: the letter of the paper's Algorithm 1, with the method `tmab`.
        statistics: tell in detail how far the estimate has come (`Scored.details`).
        exclude_top_of: leave out of the ranking the top of this finished run of the same model.
        exclude_share: how much of that run is its top, in (0, 1); 0.2 if left out.
        for_patch: leave out the selection images on which `patch` confirms.
        share_to: also write a run folder that may leave the data's owner.
        ray: `local`, `auto` or the address of a Ray cluster, to evaluate there.
        ray_cores: cores of each worker of that cluster; 1 if left out.
        unattended: logs and figures of a run that nobody watches.
        trust: run code that `repairkit.toml` names; what is named in this call runs anyway.
        accept_preprocessing: go on where images or classes are hardly as the model expects
            (docs/guide/data.md).
    """

    options: Mapping[str, object] | None
    max_evaluations: int | None
    time_limit: float | None
    began: float
    resume: bool
    paper: bool
    statistics: bool
    exclude_top_of: str | Path | None
    exclude_share: float
    for_patch: bool
    share_to: str | Path | None
    ray: str | None
    ray_cores: int
    unattended: Unattended | None
    trust: bool
    accept_preprocessing: bool


def score(
    model: str | Path,
    data: str | Path | None = None,
    *,
    metric: str | Sequence[str] | None = None,
    method: str = "auto",
    settings: Settings | None = None,
    out: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **more: Unpack[ScoreKeywords],
) -> Scored:
    """Estimate the value of every filter, as `repairkit score` does.

    Args:
        model: an ONNX file.
        data: a folder of class folders, a manifest or an `.npz`; that of the settings if None.
        metric: one or several, the first of which steers; those of the settings if None.
        method: an estimator's name, a norm's, or `module:object`.
        settings: everything else: groups, preprocessing, parts, sites, device, seed. If None, what
            `repairkit.toml` says, beside the model or in the working folder.
        out: a run folder; nothing is written if None.
        on_progress: called now and then.
        more: see `ScoreKeywords`.

    Raises:
        RepairkitError: anything that the user can mend.
        KeyboardInterrupt: after the run was saved, where `out` is given.
    """
    check_keywords("score", more, ScoreKeywords)
    plan = _plan(method, more)
    names = (metric,) if isinstance(metric, str) else tuple(metric or ())
    subject, job = open_job(
        model,
        data,
        settings,
        trust=more.get("trust", False),
        accept_preprocessing=more.get("accept_preprocessing", False),
    )
    job = replace(job, metrics=names or job.metrics, named_by=without(job.named_by, names))
    place, shared = (None if path is None else Path(path) for path in (out, more.get("share_to")))
    if shared is not None:
        if place is None:
            raise SettingsError("only a run folder can be shared; name one with out")
        check_share_place(shared)
    unattended = more.get("unattended")
    watched = nullcontext(on_progress) if unattended is None else unattended.watch(on_progress)
    with watched as tell:
        scored = scoring.score(
            subject,
            job,
            plan,
            out=place,
            resume=more.get("resume", False),
            on_progress=tell,
            cluster=_cluster(more, job),
        )
    if shared is not None and place is not None:
        share(place, shared)
    return scored


def _plan(method: str, given: ScoreKeywords) -> ScoreSettings:
    run, share = given.get("exclude_top_of"), given.get("exclude_share", 0.2)
    return ScoreSettings(
        method,
        options=dict(given.get("options") or {}),
        budget=Budget(given.get("max_evaluations"), given.get("time_limit")),
        paper=given.get("paper", False),
        statistics=given.get("statistics", False),
        exclude=None if run is None else Exclusion(Path(run), share),
        for_patch=given.get("for_patch", False),
        began=given.get("began", time.monotonic()),
    )


def _cluster(given: ScoreKeywords, job: Settings) -> Cluster | None:
    address = given.get("ray")
    if address is None:
        return None
    options = ClusterOptions(address, workers=job.workers, cores=given.get("ray_cores", 1))
    return find_cluster("ray", options)
