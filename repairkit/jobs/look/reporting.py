"""Write the report of a run: its page, and its numbers as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters
from repairkit.core.game import Round
from repairkit.core.process.stages import stage
from repairkit.formats import documents, run_file
from repairkit.jobs.look import interpreting
from repairkit.jobs.look.picking import pick_filters
from repairkit.jobs.output.destination import Places, check_replaced
from repairkit.jobs.runs.reopening import Whereabouts, looked_at_again
from repairkit.jobs.runs.run_document import measures_in, sample_histogram
from repairkit.jobs.setup.workbench import Bench
from repairkit.report.page import render_run

SCHEMA = 1
RUN_KIND = "repairkit run report"
_ROWS_EACH = 15
_FILTERS_SHOWN = 16
TOP = 100
_SIZES = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50)
_RANDOM_ORDERS = 3
_MOST_TRIED_IMAGES = 256


@dataclass(frozen=True)
class Reported:
    """Where the report of a run was written, what it says, and what it had to leave out."""

    page: Path
    report_file: Path
    document: dict[str, Any] = field(repr=False)


@stage("writing the page")
def report_run(
    folder: Path,
    *,
    out: Path | None = None,
    places: Whereabouts | None = None,
    pictures: bool = True,
) -> Reported:
    """Write the page of a run folder, and its JSON beside the page.

    Args:
        folder: what `score` wrote.
        out: the page; `report.html` in the folder if None.
        places: of model, data and means, and the code that may run; what the run recorded if None.
        pictures: look at the extreme filters and play the removal curves, which takes the model and
            the data; without, the page shows what the folder holds.

    Raises:
        SettingsError: the run names code that is not trusted, and `pictures` need it.
        RunFolderError: the folder is no finished run, or the page cannot be written.
        RepairkitError: model or data cannot be read, or are not those of the run.
    """
    run_folder = run_file.RunFolder(folder)
    run = run_folder.read_finished()
    page = folder / "report.html" if out is None else out
    report_file = page.with_suffix(".json")
    check_replaced(page, b'content="repairkit"', "page of repairkit's")
    check_replaced(report_file, f'"kind": "{RUN_KIND}"'.encode(), "report of repairkit's")
    if report_file == page:
        raise errors.RunFolderError(
            f"{page}: is the name of the numbers beside the page; give -o a name that ends in .html"
        )
    rows = _read_rows(run_folder)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": RUN_KIND,
        "run": told_run(run),
        "scores": _scores(rows, run.get("known"), less_is_better=_first_lessened(run)),
        "statistics": _statistics(run_folder),
        "spread": None,
        "removal": None,
        "interpretation": None,
        "notes": [],
    }
    shown: Mapping[int, Any] = {}
    if pictures:
        places = replace(places or Whereabouts(), without="use --no-pictures")
        look = partial(_look, document=document, rows=rows)
        shown = looked_at_again(run_folder, run, places, look).pictures
    else:
        document["notes"] = ["model and data were not looked at, as was asked for"]
    document = Places.here().cleaned(document)
    with documents.outputs(page) as drafts:
        drafts.write(report_file, documents.to_json(document).encode())
        drafts.write(page, render_run(document, shown).encode())
    return Reported(page, report_file, document)


def told_run(run: run_file.RunDocument) -> dict[str, Any]:
    """A run with paths as reports show them, and with the facts of its metrics."""
    relative = Places.here().relative
    model, data = run["model"], run["data"]
    return {
        **run,
        "measures": measures_in(run),
        "model": {**model, "path": relative(Path(model["path"]))},
        "data": {**data, "path": relative(Path(data["path"]))},
    }


def _look(
    bench: Bench, *, document: dict[str, Any], rows: list[dict[str, Any]]
) -> interpreting.Interpretation:
    """Look at the extreme filters with model and data, and add the result to the document."""
    metric = bench.metric_names[0]
    values = _values(rows, bench.roster)
    document["spread"] = spread_over_layers(bench, values)
    if "curve" not in document["run"]:
        document["removal"] = removal_curves(bench, values, metric)
    ranked = [row["filter"] for row in rows]
    turned = bool(document["scores"]["less_is_better"])
    picks = pick_filters(ranked, _FILTERS_SHOWN, less_is_better=turned)
    seen = interpreting.interpret(bench, [pick.filter for pick in picks], value=metric)
    by_filter = {row["filter"]: row["value"] for row in rows}
    for entry, pick in zip(seen.document["filters"], picks, strict=True):
        entry["value"] = by_filter[entry["filter"]]
        entry["why"] = [{"of": reason.of, "place": reason.place} for reason in pick.why]
    document["interpretation"] = seen.document
    return seen


def _read_rows(folder: run_file.RunFolder) -> list[dict[str, Any]]:
    """The rows of `scores.csv`; null for what is not finite."""
    rows = [_row(row) for row in folder.read_rows()]
    if not rows:
        raise errors.RunFolderError(f"{folder.scores_file}: holds no scores; score the model again")
    return rows


def _row(row: run_file.ScoreRow) -> dict[str, Any]:
    numbers = {n: row.number(n) for n in ("value", "std_error", "ci_low", "ci_high")}
    return {
        "filter": row.filter,
        **{name: value if np.isfinite(value) else None for name, value in numbers.items()},
        "samples": row.samples,
        "decided": row.decided,
    }


def _first_lessened(run: run_file.RunDocument) -> bool:
    """Whether less is better of the metric that was scored first."""
    names = [*run["metrics"], *run["settings"]["metrics"]]
    return names[0] in run.get("less_is_better", [])


def _scores(
    rows: list[dict[str, Any]], surely: run_file.KnownFacts | None, *, less_is_better: bool
) -> dict[str, Any]:
    """The extremes, how many are surely harmful or helpful, and how often filters were sampled."""
    with_error = [row for row in rows if row["std_error"]]
    known = [row for row in with_error if None not in (row["ci_low"], row["ci_high"])]
    if surely is not None:
        below, above = surely["below"], surely["above"]
    else:
        below = sum(row["ci_high"] < 0 for row in known)
        above = sum(row["ci_low"] > 0 for row in known)
    n_each = min(_ROWS_EACH, max(len(rows) // 2, 1))
    counts = np.array([row["samples"] for row in rows])
    return {
        "n_filters": len(rows),
        "less_is_better": less_is_better,
        "harmful": (above if less_is_better else below) if known else None,
        "helpful": (below if less_is_better else above) if known else None,
        "highest": rows[:n_each],
        "lowest": rows[::-1][:n_each],
        "samples": sample_histogram(counts) if counts.any() else None,
    }


def _values(rows: list[dict[str, Any]], roster: filters.Roster) -> NDArray[np.float64]:
    values = np.full(len(roster), np.nan)
    for row in rows:
        if row["value"] is not None:
            values[roster.column(filters.Filter.parse(row["filter"]))] = row["value"]
    return values


def _statistics(folder: run_file.RunFolder) -> dict[str, Any] | None:
    if not folder.statistics_file.is_file():
        return None
    statistics = documents.read_json(folder.statistics_file, "statistics")
    if not isinstance(statistics, dict):
        raise errors.RunFolderError(f"{folder.statistics_file}: holds no statistics; score again")
    return statistics


@stage("removing filters in order")
def removal_curves(bench: Bench, values: NDArray[np.float64], metric: str) -> dict[str, Any]:
    """V with the first few filters of three orders absent, on at most 256 selection images.

    Args:
        bench: with the model and the images.
        values: shape (n_players,), NaN where a filter was not scored.
        metric: V.
    """
    suite = bench.parts.selection.thinned(_MOST_TRIED_IMAGES)
    n = len(bench.roster)
    sizes = [size for size in _SIZES if size <= max(n - 1, 1)]
    ranked = np.argsort(-np.nan_to_num(values), kind="stable")
    rng = np.random.default_rng(bench.settings.seed)
    orders = [ranked, ranked[::-1], *(rng.permutation(n) for _ in range(_RANDOM_ORDERS))]
    coalitions = np.concatenate([_removed(order, sizes) for order in orders])
    game = bench.working.game(suite, bench.metrics((metric,)))
    figures = game.play(Round(coalitions)).values[:, 0].reshape(len(orders), len(sizes))
    return {
        "metric": metric,
        "suite": suite.name,
        "n_images": len(suite),
        "random_orders": _RANDOM_ORDERS,
        "removed": sizes,
        "top": figures[0].tolist(),
        "bottom": figures[1].tolist(),
        "random": figures[2:].mean(axis=0).tolist(),
    }


def _removed(order: NDArray[np.intp], sizes: Sequence[int]) -> NDArray[np.bool_]:
    rows = np.ones((len(sizes), len(order)), bool)
    for row, size in zip(rows, sizes, strict=True):
        row[order[:size]] = False
    return rows


def spread_over_layers(bench: Bench, values: NDArray[np.float64]) -> dict[str, Any]:
    """How the filters of the hundred highest and the hundred lowest values spread over the sites.

    Of fewer than 200 filters, half each.
    """
    n_each = min(TOP, len(values) // 2 or 1)
    ranked = np.argsort(-np.nan_to_num(values), kind="stable")
    ends = {"highest": set(ranked[:n_each].tolist()), "lowest": set(ranked[-n_each:].tolist())}
    layers = []
    for site in bench.roster.sites:
        columns = range(*bench.roster.slices[site.name].indices(len(values)))
        counts = {name: len(chosen.intersection(columns)) for name, chosen in ends.items()}
        layers.append({"site": site.name, "n_filters": site.n_channels, **counts})
    return {"n_each": n_each, "layers": layers}
