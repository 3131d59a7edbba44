"""The removal curves of several runs of one model in one picture.

A curve that a run holds, and that was judged by all of its images, is taken as it is. Any other is
drawn now, with the run's own model and data. All must have been judged by the same images.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repairkit.core import errors
from repairkit.core.process.text import counted, plain_cell
from repairkit.engine.ort import versions
from repairkit.formats import curve_file
from repairkit.formats.documents import write_text
from repairkit.formats.effects import Affects
from repairkit.formats.run_file import RunDocument, RunFolder
from repairkit.jobs.curve.scored_curve import curve_of_run
from repairkit.jobs.output.destination import Places, check_replaced
from repairkit.jobs.runs.reopening import Whereabouts, looked_at_again
from repairkit.jobs.runs.run_document import differing, settings_in
from repairkit.notebook import cells, frames, lines, plots
from repairkit.report.curves import SVG_MARK, overlay_facts, overlay_lines, overlay_svg
from repairkit.report.page import render_overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

SCHEMA = 1
KIND = "repairkit removal curves"
SIDES = (curve_file.HIGHEST, curve_file.LOWEST, "both")


FORMATS = (".svg", ".csv", ".html")
"""How a file of several runs' curves may end."""
_CSV_HEAD = "label,frozen,added,metric,value,low,high,interval"


@dataclass(frozen=True)
class Curves:
    """The removal curves of runs of one model: where they were drawn, and what they say."""

    out: Path | None
    document: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.document

    def __repr__(self) -> str:
        sizes, metric = self.document["sizes"], lines.short(self.document["metric"])
        n_lines, n_runs = (len(self.document[key]) for key in ("lines", "runs"))
        drawn = f"{counted(n_lines, 'line')} of {counted(n_runs, 'run')} for {metric}"
        text = f"Curves: {drawn}, {sizes[0]} to {sizes[-1]} filters frozen"
        return text if self.out is None else f"{text}\ndrawn in {lines.short(self.out)}"

    def _repr_html_(self) -> str:
        """For a notebook: the picture of the curves."""
        facts = overlay_facts(self.document)["verdict"]
        picture = cells.chart(overlay_lines(self.document))
        return cells.cell(cells.sentence(facts["sentence"], facts["word"]), picture)

    def to_pandas(self) -> "DataFrame":
        """A row for each line and number of frozen filters.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.overlay_frame(self.document)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the curves, with bands for the intervals of the first lines.

        Args:
            ax: axes of matplotlib; those of a new figure if None.

        Raises:
            SettingsError: matplotlib is not installed; it comes with `repairkit[plot]`.
        """
        return plots.plot_lines(overlay_lines(self.document), ax)


def write_overlay(
    runs: Sequence[Path],
    out: Path | None,
    *,
    metric: str | None = None,
    side: str | None = None,
    places: Whereabouts | None = None,
) -> dict[str, Any]:
    """The document of `overlay`, which is drawn into a file if one is named.

    Args:
        runs: see `overlay`.
        out: a picture, a table or a page, by its ending; nothing is written if None.
        metric: see `overlay`.
        side: see `overlay`.
        places: see `overlay`.

    Raises:
        RunFolderError: the ending is unknown, or another file is in the way; and see `overlay`.
    """
    if out is not None:
        if out.suffix.lower() not in FORMATS:
            raise errors.RunFolderError(
                f"{out}: curves are written as {', '.join(FORMATS)}; end the name given to -o in "
                "one of these"
            )
        marks = {".svg": SVG_MARK.encode(), ".csv": _CSV_HEAD.encode()}
        mark = marks.get(out.suffix.lower(), b'content="repairkit"')
        check_replaced(out, mark, "file of repairkit curve")
    document = overlay(runs, metric=metric, side=side, places=places)
    if out is not None:
        draw = {".svg": overlay_svg, ".csv": _csv, ".html": render_overlay}
        write_text(out, draw[out.suffix.lower()](document))
    return document


def _csv(document: dict[str, Any]) -> str:
    """A row for each line and size; the columns of `curve.csv`, with the line's label first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_HEAD.split(","))
    for line in document["lines"]:
        known = [figure for figure in line["figures"] if figure is not None]
        of_line: curve_file.CurveLine = {
            "name": line["name"],
            "words": line["label"],
            "filters": line["filters"],
            "figures": {document["metric"]: known},
        }
        if "draws" in line:
            of_line["draws"] = line["draws"]
        for row in curve_file.curve_rows(of_line, document["sizes"][: len(known)]):
            writer.writerow([plain_cell(line["label"]), *list(row.values())[1:]])
    return text.getvalue()


@dataclass(frozen=True, eq=False)
class _OpenedRun:
    path: Path
    document: RunDocument
    curve: curve_file.CurveDocument


def overlay(
    runs: Sequence[Path],
    *,
    metric: str | None = None,
    side: str | None = None,
    places: Whereabouts | None = None,
) -> dict[str, Any]:
    """One document with the curves of all runs.

    Args:
        runs: run folders of one model.
        metric: the figure that is shown; by default the first run's, if all curves have it.
        side: `highest`, `lowest` or `both`; by default what the first run looks at first.
        places: of the model and the data, if they were moved.

    Raises:
        SettingsError: no run, or an unknown side.
        RunFolderError: a run is broken, of another model, was judged by other images, or lacks the
            metric.
    """
    if not runs:
        raise errors.SettingsError("no run was named; give one or more run folders")
    if side is not None and side not in SIDES:
        raise errors.SettingsError(f"--side is {side!r}; expected {', '.join(SIDES)}")
    opened = _opened(runs, places or Whereabouts())
    first = opened[0]
    shown = _metric(opened, metric)
    wanted = first.curve["lead"] if side is None else side
    names = [curve_file.HIGHEST, curve_file.LOWEST] if wanted == "both" else [wanted]
    sizes = sorted({size for run in opened for size in run.curve["sizes"]})
    paths = _labels(opened)
    lines = [
        _line(run, label, name, shown, sizes)
        for name in names
        for run, label in zip(opened, paths, strict=True)
    ]
    lines += _baselines(opened, shown, sizes)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "versions": versions(),
        "model": {
            "path": Places.here().relative(Path(first.document["model"]["path"])),
            "digest": first.document["model"]["digest"],
        },
        "images": first.curve["images"],
        "n_images": first.curve["n_images"],
        "judged": first.curve["judged"],
        "metric": shown,
        "measure": first.curve["measures"][shown],
        "side": wanted,
        "sizes": sizes,
        **({"unit": first.document["unit"]} if "unit" in first.document else {}),
        "runs": [_told(run, label) for run, label in zip(opened, paths, strict=True)],
        "lines": lines,
        "notes": _notes(opened, paths),
    }


def _opened(runs: Sequence[Path], places: Whereabouts) -> list[_OpenedRun]:
    """All runs with their curves; models are compared before any curve is drawn."""
    folders = [RunFolder(path) for path in runs]
    documents = [folder.read_finished() for folder in folders]
    for path, other in zip(runs[1:], documents[1:], strict=True):
        if other["model"]["digest"] != documents[0]["model"]["digest"]:
            raise errors.RunFolderError(
                f"{path}: holds scores of {other['model']['path']} and {runs[0]} of "
                f"{documents[0]['model']['path']}, which is another model; draw runs of one model"
            )
        if other["data"]["digest"] != documents[0]["data"]["digest"]:
            raise errors.RunFolderError(
                f"{path}: was scored on other data ({other['data']['path']}) than {runs[0]} "
                f"({documents[0]['data']['path']}), so that other test images judge it; draw runs "
                "on the same data"
            )
    opened: list[_OpenedRun] = []
    for path, folder, document in zip(runs, folders, documents, strict=True):
        run = _OpenedRun(path, document, _curve(folder, document, places))
        if opened and run.curve["images"] != opened[0].curve["images"]:
            raise errors.RunFolderError(
                f"{path}: is judged by other images ({run.curve['judged']}) than {runs[0]} "
                f"({opened[0].curve['judged']}); score both with the same --test, --group and "
                "--seed"
            )
        opened.append(run)
    return opened


def _curve(
    folder: RunFolder, document: RunDocument, places: Whereabouts
) -> curve_file.CurveDocument:
    stored = document.get("curve")
    if stored is not None and stored["n_images"] == stored["n_part"]:
        return stored
    return looked_at_again(folder, document, places, lambda bench: curve_of_run(bench, folder))


def _metric(opened: Sequence[_OpenedRun], metric: str | None) -> str:
    """The figure that is shown: every curve has it."""
    known = [list(run.curve["measures"]) for run in opened]
    common = [name for name in known[0] if all(name in names for names in known)]
    if metric is None and common:
        return common[0]
    if metric in common:
        assert metric is not None
        return metric
    lacking = next(
        (run, names)
        for run, names in zip(opened, known, strict=True)
        if metric not in names or metric is None
    )
    asked = "a figure that all runs have" if metric is None else metric
    raise errors.RunFolderError(
        f"{lacking[0].path}: its curve does not hold {asked}; it holds {', '.join(lacking[1])}; "
        "score the runs for one metric"
    )


def _labels(opened: Sequence[_OpenedRun]) -> list[str]:
    """The method of each run; with its folder where two runs have the same method."""
    methods = [run.document["settings"]["method"] for run in opened]
    return [
        method if methods.count(method) == 1 else f"{method} ({run.path})"
        for method, run in zip(methods, opened, strict=True)
    ]


def _line(
    run: _OpenedRun, label: str, name: str, metric: str, sizes: Sequence[int]
) -> dict[str, Any]:
    line = curve_file.line_named(run.curve, name)
    if line is None:
        raise errors.RunFolderError(f"{run.path}: its curve has no line {name}; score it again")
    return {
        "label": f"{label}, {line['words']}",
        "run": str(run.path),
        "name": name,
        "filters": line["filters"],
        "figures": _along(line, metric, run.curve["sizes"], sizes),
    }


def _along(
    line: curve_file.CurveLine, metric: str, known: Sequence[int], sizes: Sequence[int]
) -> list[curve_file.CurveFigure | None]:
    """The figures at each of `sizes`; null beyond the filters that the run ranked."""
    figures = dict(zip(known, line["figures"][metric], strict=True))
    return [figures.get(size) for size in sizes]


def _baselines(
    opened: Sequence[_OpenedRun], metric: str, sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Lines that know nothing of values, each from the first run that has it.

    A norm that is one of the runs is left out: its own line is there.
    """
    methods = {run.document["settings"]["method"] for run in opened} - {curve_file.RANDOM}
    lines: dict[str, dict[str, Any]] = {}
    for run in opened:
        for line in run.curve["lines"]:
            name = line["name"]
            if name in (curve_file.HIGHEST, curve_file.LOWEST, *methods, *lines):
                continue
            figures = _along(line, metric, run.curve["sizes"], sizes)
            draws = {"draws": line["draws"]} if "draws" in line else {}
            lines[name] = {
                "label": line["words"],
                "run": None,
                **draws,
                "name": name,
                "filters": line["filters"],
                "figures": figures,
            }
    return list(lines.values())


def _told(run: _OpenedRun, label: str) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "label": label,
        "key": run.document["key"],
        "method": run.document["settings"]["method"],
        "metric": run.curve["metric"],
        "stored": run.document.get("curve") is run.curve,
        "evaluations": run.document["evaluations"],
        "image_passes": run.document["image_passes"],
    }


def _notes(opened: Sequence[_OpenedRun], labels: Sequence[str]) -> list[str]:
    """What the runs do not have in common, and matters to a reader."""
    first, notes = opened[0], []
    for run, label in zip(opened[1:], labels[1:], strict=True):
        if run.curve["metric"] != first.curve["metric"]:
            notes.append(
                f"{label} ranks by {run.curve['metric']}, {labels[0]} by {first.curve['metric']}; "
                "of a figure of which less is better, filters of high value harm"
            )
        others = differing(settings_in(first.document), settings_in(run.document), Affects.FILTERS)
        notes += [
            f"{label} was scored with {setting.name} {setting.second!r}, {labels[0]} with "
            f"{setting.first!r}"
            for setting in others
        ]
        if run.document["n_filters"] != first.document["n_filters"]:
            notes.append(
                f"{label} ranks {run.document['n_filters']} filters, {labels[0]} "
                f"{first.document['n_filters']}"
            )
    return notes
