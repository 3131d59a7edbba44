"""A run folder: `run.json`, `scores.csv`, `checkpoint` and maybe `statistics.json` of a scoring.

`run.json` is a `RunDocument`. What is declared without `NotRequired` stands in the file of every
version; an entry that came later is missing in older files.
"""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, framework
from repairkit.core.filters import Filter, Roster
from repairkit.core.metric import MeasureFacts
from repairkit.core.process.nouns import TREE, layers_of, learn
from repairkit.core.process.text import from_cell, plain_cell
from repairkit.core.process.writing import is_draft
from repairkit.core.scores import ErrorsOver, Scores
from repairkit.formats import rows_file
from repairkit.formats.curve_file import CURVE_FILE, Collapse, CurveDocument
from repairkit.formats.documents import fault_of, outputs, read_json, to_json, write_json
from repairkit.formats.score_size import Ends, ScoreSize, with_sizes

SCHEMA = 1
KIND = "repairkit run"
LOCK = "lock"


class ModelPlace(TypedDict):
    """The model that was scored; the path is empty in a shared run."""

    path: str
    digest: str


class DataPlace(TypedDict):
    """The data that the model was scored on; the path is empty in a shared or merged run."""

    path: str
    digest: str
    n_images: NotRequired[int]


class RunSettings(TypedDict):
    """The settings of a run; what each of them affects is declared with the setting."""

    method: str
    estimator: dict[str, Any]
    budget: NotRequired[dict[str, Any]]
    metrics: list[str]
    groups: list[str]
    class_names: NotRequired[list[str]]
    features: NotRequired[list[str]]
    preprocessing: dict[str, Any]
    parts: dict[str, Any] | None
    output: str | None
    columns: NotRequired[list[int] | None]
    threshold: NotRequired[float | None]
    outputs_are: NotRequired[str | None]
    sites: NotRequired[list[str]]
    sites_at: str
    include: list[str]
    absent: str
    batch_size: NotRequired[int]
    tf32: NotRequired[bool]
    half: NotRequired[bool]
    seed: int
    image_input: NotRequired[str]
    label: NotRequired[str]
    corruptions: NotRequired[list[str]]
    inputs: NotRequired[dict[str, str]]


class RunParts(TypedDict):
    """How many images each part holds, and how the images were shared out."""

    how: NotRequired[str]
    overlaps: NotRequired[list[list[str]]]
    digest: NotRequired[str]
    calibration: NotRequired[int]
    selection: NotRequired[int]
    test: NotRequired[int]


class RunCounts(TypedDict):
    """How many images the values of each metric are about, and how many each group has."""

    metrics: dict[str, int | None]
    groups: dict[str, int]


class ScoredOn(TypedDict):
    """The images that were scored: of which part, and how many."""

    part: str
    n_images: int


class TakenMethod(TypedDict):
    """The method that `auto` took, or the one that was named, and why."""

    method: str
    options: dict[str, Any]
    why: str


class KnownFacts(TypedDict):
    """What holds for all filters together, with one confidence, and what another run repeats.

    `settled_highest` and `settled_lowest` are each k up to 100 for which the k filters of highest,
    or lowest, value are surely those. `expected_overlap` is how many of the `top_k` highest
    another run of the same cost would have among its own: with another seed on the same images,
    or, where `errors_over` is `images`, on as many others. `times_the_budget`, or as many times the
    images, would settle them; null where that cannot be told.
    """

    confidence: float
    above: int
    below: int
    settled_highest: list[int]
    settled_lowest: list[int]
    top_k: int
    expected_overlap: float
    times_the_budget: float | None
    errors_over: NotRequired[ErrorsOver]


class ExcludedFilters(TypedDict):
    """Filters that `scores.csv` leaves out, and the run of which they are the top."""

    run: NotRequired[str]
    key: NotRequired[str]
    metric: NotRequired[str]
    share: NotRequired[float]
    filters: NotRequired[list[str]]


class OwnersShare(TypedDict):
    """One of the runs that were merged, and its weight in the values of each metric."""

    data: list[str]
    images: int
    weights: dict[str, float]


class RunDocument(TypedDict):
    """All that a result depends on, and the result."""

    schema: int
    kind: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    key: str
    model: ModelPlace
    data: DataPlace
    settings: RunSettings
    means: NotRequired[str]
    counts: NotRequired[RunCounts]
    merged: NotRequired[list[OwnersShare]]
    shared: NotRequired[str]
    parts: RunParts
    batching: NotRequired[str]
    agreement: NotRequired[str]
    engine: NotRequired[str]
    device: NotRequired[str]
    precision: NotRequired[Literal["float32", "tf32", "float16"]]
    n_filters: int
    n_sites: NotRequired[int]
    unit: NotRequired[str]
    layers: NotRequired[dict[str, Any]]
    less_is_better: NotRequired[list[str]]
    measures: NotRequired[dict[str, MeasureFacts]]
    read: NotRequired[dict[str, Any]]
    notes: NotRequired[list[str]]
    metrics: dict[str, Ends]
    excluded: NotRequired[ExcludedFilters]
    auxiliary: NotRequired[list[str]]
    scored_on: NotRequired[ScoredOn]
    score_size: NotRequired[ScoreSize]
    taken: NotRequired[TakenMethod]
    again: NotRequired[dict[str, Any]]
    rows: NotRequired[rows_file.KeptCounts]
    asked: NotRequired[rows_file.AskedOf]
    finished: bool
    decided: NotRequired[bool]
    n_undecided: NotRequired[int]
    known: NotRequired[KnownFacts]
    reason: NotRequired[str]
    confidence: NotRequired[float]
    interval: NotRequired[str]
    adds_up: NotRequired[bool]
    sum_of_values: NotRequired[float]
    evaluations: NotRequired[int]
    image_passes: NotRequired[int]
    rounds: NotRequired[int]
    seconds: NotRequired[float]
    statistics: NotRequired[dict[str, Any]]
    rewards_collapse: NotRequired[Collapse]
    curve: NotRequired[CurveDocument]


class _PartsInTheEnd(TypedDict):
    calibration: int
    selection: int
    test: int


class _InTheEnd(TypedDict):
    """What only a finished run has."""

    parts: _PartsInTheEnd
    interval: str
    confidence: float
    adds_up: bool
    decided: bool
    n_undecided: int
    reason: str
    evaluations: float
    image_passes: float
    seconds: float


# The rows of `scores.csv`: a filter each, in rank order

FURTHER = "value:"
ERROR_OF = "std_error:"
_NUMBERS = ("value", "std_error", "ci_low", "ci_high", "samples")
_COLUMNS = ("filter", "site", "channel", *_NUMBERS, "decided")


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A filter's values as written; `further` are those of further metrics and `errors` theirs."""

    filter: str
    value: float
    std_error: float
    ci_low: float
    ci_high: float
    samples: int
    decided: bool
    further: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)

    def number(self, column: str) -> float:
        """The number in a column of the table, such as `ci_low` or `value:loss`.

        Raises:
            KeyError: it holds none.
        """
        if column.startswith(FURTHER):
            return self.further[column.removeprefix(FURTHER)]
        if column not in _NUMBERS:
            raise KeyError(column)
        return float(getattr(self, column))


def read_scores(path: Path) -> list[ScoreRow]:
    """The rows of a table in its own order.

    Raises:
        RunFolderError: the file is missing or broken.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_row(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise unreadable(path, error) from error


def _row(row: Mapping[str, str]) -> ScoreRow:
    return ScoreRow(
        filter=from_cell(row["filter"]),
        value=float(row["value"]),
        std_error=float(row["std_error"]),
        ci_low=float(row["ci_low"]),
        ci_high=float(row["ci_high"]),
        samples=int(row["samples"]),
        decided=row["decided"] == "true",
        further=_cells(row, FURTHER),
        errors=_cells(row, ERROR_OF),
    )


def _cells(row: Mapping[str, str], prefix: str) -> dict[str, float]:
    return {n.removeprefix(prefix): float(c) for n, c in row.items() if n.startswith(prefix)}


def unreadable(path: Path, error: Exception) -> errors.RunFolderError:
    """The error for scores that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else error
    return errors.RunFolderError(
        f"{path}: cannot be read as scores ({reason}); score the model again"
    )


def scores_table(
    scores: Scores,
    filters: Sequence[Filter],
    layers: framework.LayerMap | None = None,
    *,
    without: Collection[int] = (),
) -> list[dict[str, Any]]:
    """A row for each player but some; the last column names layers, if they are known."""
    rows = []
    for player in (p for p in scores.ranking().tolist() if p not in without):
        row: dict[str, Any] = {
            "filter": filters[player].id,
            "site": filters[player].site,
            "channel": filters[player].channel,
            "value": float(scores.values[player, 0]),
            "std_error": float(scores.std_errors[player, 0]),
            "ci_low": float(scores.ci_low[player, 0]),
            "ci_high": float(scores.ci_high[player, 0]),
            "samples": int(scores.samples[player]),
            "decided": bool(scores.decided[player]),
        }
        for column, metric in enumerate(scores.metrics[1:], start=1):
            row[f"{FURTHER}{metric}"] = float(scores.values[player, column])
            row[f"{ERROR_OF}{metric}"] = float(scores.std_errors[player, column])
        if layers is not None:
            row["layer"] = str(layers.origin(filters[player]) or "")
        rows.append(row)
    return rows


def scores_csv(
    scores: Scores,
    filters: Sequence[Filter],
    layers: framework.LayerMap | None = None,
    *,
    without: Collection[int] = (),
    score_size: ScoreSize | None = None,
) -> str:
    """The table as text: numbers in their shortest exact form, names never a formula."""
    text = io.StringIO()
    rows = with_sizes(scores_table(scores, filters, layers, without=without), score_size)
    names = ("filter", "site") if layers is None else ("filter", "site", "layer")
    further = [f"{kind}{m}" for m in scores.metrics[1:] for kind in (FURTHER, ERROR_OF)]
    extra = [*further, *names[2:], *([] if score_size is None else ["size"])]
    # csv.writer does not quote a carriage return, and readers take it for a line end.
    broken = any("\r" in row[name] for row in rows for name in names)
    quoting: Literal[0, 1] = csv.QUOTE_ALL if broken else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(text, [*_COLUMNS, *extra], lineterminator="\n", quoting=quoting)
    writer.writeheader()
    for row in rows:
        plain = {name: plain_cell(row[name]) for name in names}
        writer.writerow({**row, **plain, "decided": "true" if row["decided"] else "false"})
    return text.getvalue()


@dataclass(frozen=True)
class RunFolder:
    """Where one scoring keeps its files."""

    path: Path

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.csv"

    @property
    def statistics_file(self) -> Path:
        return self.path / "statistics.json"

    @property
    def heartbeat_file(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    def is_free(self) -> bool:
        """Whether nothing is there but a lock and what a killed process left of its first file."""
        return self.path.is_dir() and all(
            is_draft(path) or path.name == LOCK for path in self.path.iterdir()
        )

    def read(self) -> RunDocument:
        """The contents of `run.json`.

        Raises:
            RunFolderError: it is missing or not what this version writes.
        """
        if self.path.exists() and not self.run_file.is_file():
            raise errors.RunFolderError(
                f"{self.path}: is no run folder, for it holds no {self.run_file.name}; give a "
                "folder that score wrote"
            )
        document = read_json(self.run_file, "a run")
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise errors.RunFolderError(
                f"{self.run_file}: is not a run of this version (schema {SCHEMA} was expected)"
            )
        fault = fault_of(document, RunDocument)
        if not fault and document["finished"]:
            fault = fault_of(document, _InTheEnd)
        if not fault and not document["settings"]["metrics"]:
            fault = "settings.metrics names no metric"
        if fault:
            raise errors.RunFolderError(
                f"{self.run_file}: cannot be read as a run ({fault}); score the model again"
            )
        learn(of_trees=document.get("unit") == TREE, layers=layers_of(document))
        return cast(RunDocument, document)

    def read_finished(self) -> RunDocument:
        """The contents of `run.json` of a run that has its scores.

        Raises:
            RunFolderError: the run is broken, or not finished.
        """
        run = self.read()
        if not run["finished"]:
            raise errors.RunFolderError(f"{self.path}: is not finished; go on with score --resume")
        return run

    def read_metrics(self) -> list[str]:
        """The metrics that were scored, the one that steered first."""
        return list(self.read()["settings"]["metrics"])

    def write(self, document: RunDocument) -> None:
        write_json(self.run_file, document)

    def write_result(
        self,
        document: RunDocument,
        scores: Scores,
        roster: Roster,
        layers: framework.LayerMap | None = None,
        *,
        without: Collection[int] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what a finished run leaves, together, and remove the table of an earlier curve."""
        (self.path / CURVE_FILE).unlink(missing_ok=True)
        score_size = document.get("score_size")
        table = scores_csv(scores, roster.filters, layers, without=without, score_size=score_size)
        with outputs(self.path) as drafts:
            drafts.write(self.scores_file, table.encode())
            if details:
                drafts.write(self.statistics_file, to_json(dict(details)).encode())
            drafts.write(self.run_file, to_json(document).encode())

    def read_rows(self) -> list[ScoreRow]:
        """The rows of `scores.csv` in rank order.

        Raises:
            RunFolderError: the file is missing or broken, or lacks filters that were ranked.
        """
        run = self.read()
        rows = read_scores(self.scores_file)
        left_out = run["excluded"].get("filters", []) if "excluded" in run else []
        expected, n_known = run["n_filters"] - len(left_out), len({row.filter for row in rows})
        if not len(rows) == n_known == expected:
            raise errors.RunFolderError(
                f"{self.scores_file}: has {len(rows)} rows about {n_known} filters, and "
                f"{expected} were ranked; score the model again"
            )
        return rows

    def read_values(self, roster: Roster, column: str = "value") -> NDArray[np.float64]:
        """A column (the first metric's value) for every filter; NaN where it was not scored.

        Raises:
            RunFolderError: the file is missing or broken.
            SettingsError: it names a filter that the model does not have.
        """
        values = np.full(len(roster), np.nan)
        for row in self.read_rows():
            values[roster.column(Filter.parse(row.filter))] = row.number(column)
        return values

    def read_metric_values(self) -> dict[str, dict[str, float]]:
        """The values of every metric by filter id; the metric that steered comes first.

        Raises:
            RunFolderError: the run or its scores are missing or broken.
        """
        run, rows = self.read(), self.read_rows()
        others = list(rows[0].further) if rows else []
        # A pattern such as recall:* stands for the first metric that it matches.
        spelt = [*run["metrics"], *run["settings"]["metrics"]]
        steering = next((name for name in spelt if name not in others), None)
        if steering is None:
            raise unreadable(self.scores_file, ValueError("no metric is left for the first column"))
        return {
            steering: {row.filter: row.value for row in rows},
            **{name: {row.filter: row.further[name] for row in rows} for name in others},
        }
