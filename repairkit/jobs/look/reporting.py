"""Write reports: JSON, page and model card beside a patched model, JSON and page of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters
from repairkit.core.process.stages import stage
from repairkit.formats import documents, means_file, run_file
from repairkit.jobs.look import interpreting
from repairkit.jobs.output.destination import Companions, Places, check_replaced
from repairkit.jobs.runs.run_document import measures_in, restored, sample_histogram
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.settings import named_in
from repairkit.jobs.setup.subject import judging_the_model, read_subject
from repairkit.jobs.setup.workbench import Bench, Settings, Subject, check_metrics
from repairkit.report.model_card import marked_card, model_card
from repairkit.report.page import render_patch, render_run

SCHEMA = 1
RUN_KIND = "repairkit run report"
_ROWS_EACH = 15
_FILTERS_EACH = 6


@dataclass(frozen=True)
class Reported:
    """Where the report of a run was written, what it says, and what it had to leave out."""

    page: Path
    report_file: Path
    document: dict[str, Any]


@stage("writing the page")
def repair_report(
    bench: Bench, report: Mapping[str, Any], patch: filters.Patch, places: Companions
) -> dict[Path, str]:
    """Look at the frozen filters, and make a report, a page and a model card.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    document = {**report, "interpretation": None}
    pictures: Mapping[int, Any] = {}
    if len(bench.parts.selection):
        seen = interpreting.interpret(bench, patch.filters, value=report["objective"])
        document["interpretation"], pictures = seen.document, seen.pictures
    return {
        places.report: documents.to_json(document),
        places.card: marked_card(model_card(document)),
        places.page: render_patch(document, pictures),
    }


@stage("writing the page")
def report_run(
    folder: Path,
    *,
    out: Path | None = None,
    model: Path | None = None,
    data: Path | None = None,
    means: Path | None = None,
    pictures: bool = True,
    trust: bool = False,
) -> Reported:
    """Write the page of a run folder, and its JSON beside the page.

    Args:
        folder: what `score` wrote.
        out: the page; `report.html` in the folder if None.
        model: the path of the model; the one that the run recorded if None.
        data: the path of the data; the one that the run recorded if None.
        means: the path of the common means, if the run used some; the recorded one if None.
        pictures: look at the extreme filters and play the removal curves, which takes the model and
            the data; without, the page shows what the folder holds.
        trust: run code that the run names, such as a metric of the user's; else it is refused.

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
        named_by = named_in(run_folder.run_file, run["settings"]["metrics"])
        settings = restored(
            run,
            data=Path(run["data"]["path"]) if data is None else data,
            means=_means_file(folder, run, means),
        )
        settings = replace(settings, named_by=named_by, trust=trust)
        check_metrics(settings, settings.metrics)
        path = Path(run["model"]["path"]) if model is None else model
        shown = _look_again(path, settings, document, rows, folder).pictures
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


def _look_again(
    path: Path,
    settings: Settings,
    document: dict[str, Any],
    rows: list[dict[str, Any]],
    folder: Path,
) -> interpreting.Interpretation:
    """See `_look`.

    Raises:
        RunFolderError: the model or the data have changed, or do not exist.
    """
    run = document["run"]
    advice = "name where they lie with --model and --data, or use --no-pictures"
    try:
        subject = read_subject(
            path,
            output=settings.output,
            layout=settings.preprocessing.layout,
            image_input=settings.image_input,
        )
        if subject.file.digest != run["model"]["digest"]:
            raise errors.RunFolderError(f"{path}: is not the model that {folder} scored")
        return _look(subject, settings, document, rows)
    except (OSError, errors.RepairkitError) as error:
        raise errors.RunFolderError(f"{folder}: its model or data: {error}; {advice}") from error


@judging_the_model
def _look(
    subject: Subject, settings: Settings, document: dict[str, Any], rows: list[dict[str, Any]]
) -> interpreting.Interpretation:
    """Look at the extreme filters with model and data, and add the result to the document."""
    bench = prepare(subject, settings)
    if bench.dataset.digest != document["run"]["data"]["digest"]:
        raise errors.RunFolderError(f"{settings.data}: are not the data that were scored on")
    metric = bench.metric_names[0]
    values = _values(rows, bench.roster)
    document["spread"] = interpreting.spread_over_layers(bench, values)
    if "curve" not in document["run"]:
        document["removal"] = interpreting.removal_curves(bench, values, metric)
    names = [row["filter"] for row in (*rows[:_FILTERS_EACH], *rows[::-1][:_FILTERS_EACH])]
    chosen = [filters.Filter.parse(name) for name in dict.fromkeys(names)]
    seen = interpreting.interpret(bench, chosen, value=metric)
    by_filter = {row["filter"]: row["value"] for row in rows}
    for entry in seen.document["filters"]:
        entry["value"] = by_filter[entry["filter"]]
    document["interpretation"] = seen.document
    return seen


def _means_file(folder: Path, run: run_file.RunDocument, given: Path | None) -> Path | None:
    """The common means that a run was scored with; None if it measured its own.

    Raises:
        SettingsError: means are given, but the run measured its own.
        RunFolderError: the recorded file does not exist, or now holds other means.
    """
    digest = run.get("means")
    if digest is None:
        if given is not None:
            raise errors.SettingsError(
                f"{folder}: was scored with the means of its calibration part; leave --means out"
            )
        return None
    path = _recorded_means(run) if given is None else given
    advice = "name the file with --means, or use --no-pictures"
    if path is None or not path.is_file():
        place = "the run does not say where they lie" if path is None else f"{path} is no file"
        raise errors.RunFolderError(
            f"{folder}: was scored with common means (digest {digest[:12]}), and {place}; {advice}"
        )
    other = means_file.read_means(path).digest
    if other != digest:
        raise errors.RunFolderError(
            f"{path}: holds other means (digest {other[:12]}) than {folder} was scored with "
            f"({digest[:12]}); {advice}"
        )
    return path


def _recorded_means(run: run_file.RunDocument) -> Path | None:
    """The path of the common means, from the command that scores again."""
    words = iter(run.get("again", {}).get("words", []))
    for word in words:
        name, _, value = word.partition("=")
        if name == "--means":
            return Path(value or next(words, "")).expanduser()
    return None


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
