"""The removal curve of a scoring that was just made, and of a run folder."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters
from repairkit.core.process.stages import Deadline
from repairkit.core.scores import Run
from repairkit.formats.curve_file import CURVE_FILE, HIGHEST, CurveDocument, curve_csv
from repairkit.formats.documents import outputs, to_json
from repairkit.formats.run_file import RunDocument, RunFolder
from repairkit.jobs.curve.removing import CurveLimits, RankedFilters, allowance_of_run, draw_curve
from repairkit.jobs.score.collapse import collapse_on_curve
from repairkit.jobs.score.scored import Scored
from repairkit.jobs.setup.workbench import Bench


def with_curve(scored: Scored, deadline: Deadline | None) -> Scored:
    """A scoring with its removal curve, which is written into its folder too.

    A scoring without a curve is whole, so whatever stands against a curve is only noted.

    Args:
        scored: finished; its folder is locked by the caller.
        deadline: of the command; None without a time limit.
    """
    passes = allowance_of_run(scored.bench, int(scored.document.get("image_passes", 0)))
    document = scored.document.copy()
    try:
        ranking = _ranking_of(scored)
        document["curve"] = draw_curve(
            in_full_precision(scored.bench), ranking, CurveLimits(passes, deadline)
        )
        broken = collapse_on_curve(document["curve"])
        document["notes"] = [*document["notes"], *([broken] if broken else [])]
    except errors.RepairkitError as error:
        folder = "RUN" if scored.folder is None else str(scored.folder)
        note = f"no removal curve was drawn: {error}; repairkit curve {folder} draws it"
        document["notes"] = [*document["notes"], note]
    done = replace(scored, document=document)
    if scored.folder is not None:
        _write(RunFolder(scored.folder), done.document)
    return done


def _write(folder: RunFolder, document: RunDocument) -> None:
    """Write a finished run again, with the table of its curve if it has one."""
    with outputs(folder.path) as drafts:
        if "curve" in document:
            drafts.write(folder.path / CURVE_FILE, curve_csv(document["curve"]).encode())
        drafts.write(folder.run_file, to_json(document).encode())


def _ranking_of(scored: Scored) -> RankedFilters:
    ranked = [p for p in scored.scores.ranking().tolist() if p not in scored.excluded]
    run = None if scored.evidence is None else scored.evidence.run
    return RankedFilters(
        players=np.array(ranked, np.intp),
        method=scored.document["settings"]["method"],
        side=side_of(scored.document),
        alone=_alone(run),
    )


def _alone(run: Run | None) -> NDArray[np.float64] | None:
    """What the model loses with each filter alone, if the run found that out beside its values."""
    known: NDArray[np.float64] | None = getattr(run, "alone", None)
    return None if known is None else known[:, 0]


def side_of(run: RunDocument) -> str:
    """The side of the ranking that a run looked at."""
    estimator: object = run["settings"]["estimator"]  # of a user's own, it may be a text
    side = estimator.get("side") if isinstance(estimator, dict) else None
    return side if isinstance(side, str) else HIGHEST


def curve_of_run(bench: Bench, folder: RunFolder) -> CurveDocument:
    """The removal curve of a run folder, on all images that may judge it.

    Args:
        bench: with the run's own model and data.
        folder: of a finished run.

    Raises:
        RepairkitError: a row names no filter of the model, or there are no figures.
    """
    run = folder.read_finished()
    ids = [filters.Filter.parse(row.filter) for row in folder.read_rows()]
    ranking = RankedFilters(
        players=np.array([bench.roster.column(each) for each in ids], np.intp),
        method=run["settings"]["method"],
        side=side_of(run),
    )
    return draw_curve(in_full_precision(bench), ranking)


def in_full_precision(bench: Bench) -> Bench:
    """The bench, whose model computes in 32 bits: figures are never those of fewer."""
    working = bench.working
    if not (working.effort.half or working.effort.tf32):
        return bench
    levels = working.levels
    effort = replace(working.effort, half=False, tf32=False)
    return replace(bench, working=replace(working, effort=effort, settle_levels=lambda _: levels))
