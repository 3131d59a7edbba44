"""Lists for `repairkit list`: metrics, methods, the columns of data, the sites of a model."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repairkit.core import errors, suite
from repairkit.data import tables
from repairkit.data.annotations import LABEL
from repairkit.data.given import Data, GivenData
from repairkit.data.sources import arrays, folder, manifest
from repairkit.graph.kinds.sites import survey
from repairkit.jobs.score.score_settings import METHODS
from repairkit.jobs.setup.workbench import Settings, Subject
from repairkit.metrics import catalogue

SHOWN = 12
"""Values of a column that are listed; the commonest come first."""
_NEEDS = {
    "classes": "classes", "numbers": "a number per image", "groups": "groups",
    "two groups": "two groups", "attack": "images that attack wrote",
    "marks": "a column to_fix of 0 and 1",
}  # fmt: skip
_MEANINGS: Mapping[str, str] = {
    "accuracy": "share of images whose class is right",
    "robustness": "share of attacked images taken for the attack's target, less clean accuracy",
    "robustness_loss": "robustness on a smooth scale, from likelihoods",
    "clean_accuracy": "accuracy on the images that no attack made",
    "attack_success": "share of attacked images that are taken for the attack's target",
    "recall": "share of the images of CLASS that are recognised",
    "equalized_odds_difference": (
        "largest difference between groups in true or in false positive rates (Fairlearn's)"
    ),
    "demographic_parity_difference": (
        "largest difference between groups in the share taken for a class (Fairlearn's)"
    ),
    "equal_opportunity_difference": (
        "largest difference between groups in true positive rates (Fairlearn's)"
    ),
    "equalized_odds_ratio": (
        "least over greatest rate of groups, of true or of false positives (Fairlearn's)"
    ),
    "demographic_parity_ratio": (
        "least over greatest share of a group that is taken for a class (Fairlearn's)"
    ),
    "equal_opportunity_ratio": "least over greatest true positive rate of groups (Fairlearn's)",
    "mean_absolute_error": "mean distance between a regressor's answer and the label",
}
"""What metrics mean whose words name them and do not explain them."""
_METHODS: Mapping[str, tuple[str, str]] = {
    "auto": (
        "Shapley values, by the method that fits; up to 16 filters exactly",
        "a time limit or a number of evaluations sets it",
    ),
    "exact": ("Shapley values without error, of up to 20 filters", "2^n coalitions"),
    "permutation": (
        "Shapley values that add up to the whole",
        "a coalition per filter and walk; 16 walks or more",
    ),
    "tmab": (
        "which filters are the top k, with a stated probability of error (the paper's method)",
        "walks that are cut where accuracy is gone; most where filters are near the top k",
    ),
    "regression": (
        "Shapley values for many metrics at once",
        "many small coalitions; set by the budget",
    ),
    "repair": (
        "what a filter adds where few filters are absent; ranks repairs",
        "coalitions that lack 1 to 5 % of the filters; set by the budget",
    ),
    "marginals": (
        "Shapley values, closest at the filters near the top k",
        "a coalition per contender and star",
    ),
    "stars": (
        "Shapley values, or the loss without each filter alone, from few passes",
        "a share of what all filters on all images would cost",
    ),
    "leave-one-out": ("the loss without each filter alone", "a coalition per filter, and one"),
    "random": ("nothing; a random order to compare with", "no coalition"),
    "weight-norm": ("nothing; the size of each filter's weights", "no coalition"),
    "activation-norm": ("nothing; the size of each filter's activations", "one pass per image"),
}


@dataclass(frozen=True)
class ListedMetric:
    """A metric: its spelling, what it means, which direction is better, its unit and its needs."""

    name: str
    meaning: str
    better: str
    unit: str
    needs: str


def list_metrics() -> tuple[ListedMetric, ...]:
    """Every metric, in the order of the catalogue; the last is one of the user's own."""
    listed = []
    for definition in catalogue.METRICS:
        measure, takes = definition.measure, definition.takes
        listed.append(
            ListedMetric(
                f"{definition.name}:{takes}" if takes else definition.name,
                _MEANINGS.get(definition.name) or measure.words.replace("{}", takes),
                "more" if measure.greater_is_better else "less",
                "per cent" if measure.is_share else "number",
                ", ".join(_NEEDS[need] for need in sorted(definition.needs)),
            )
        )
    yours = (
        "a function of yours: outputs, labels and attributes in, one number or one per image out"
    )
    return (*listed, ListedMetric("module:function", yours, "as it says", "number", ""))


@dataclass(frozen=True)
class ListedMethod:
    """A method of `score`: what it estimates, and what it costs."""

    name: str
    estimates: str
    cost: str


def list_methods() -> tuple[ListedMethod, ...]:
    """Every method; the last is one of the user's own."""
    yours = ListedMethod("module:object", "an estimator of yours", "as it asks")
    return (*(ListedMethod(name, *_METHODS[name]) for name in METHODS), yours)


@dataclass(frozen=True)
class ListedColumn:
    """A column of data.

    Attributes:
        name: as `--group` takes it.
        kind: `text`, `number` or `truth value`.
        n_values: how many different values it holds; missing ones are one.
        values: the commonest values with their counts, at most `SHOWN`.
        use: what repairkit takes it for; empty where it is free, for groups and conditions.
    """

    name: str
    kind: str
    n_values: int
    values: tuple[tuple[str, int], ...]
    use: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "values": dict(self.values)}


def list_columns(data: Data, *, label: str | None = None) -> tuple[ListedColumn, ...]:
    """The columns of data with their commonest values; no image is read.

    Args:
        data: a folder of class folders, a manifest, an `.npz`, or what lies in memory.
        label: the column that holds the labels, if it has another name than the usual.

    Raises:
        DataError: the data cannot be read.
    """
    if isinstance(data, GivenData):
        columns = dict(data.columns)
        usual = "y" if data.table is None else LABEL
    else:
        if not data.exists():
            raise errors.DataError(f"{data}: does not exist; check --data")
        columns = dict(_columns(data))
        usual = "y" if data.suffix.lower() == ".npz" else LABEL
    manifest.named_label(str(data), columns, label, usual=usual)  # refuses a name that is not there
    uses = {"path": "image file", "file_name": "image file", "split": "part"}
    uses[usual if label is None else label] = "label"
    return tuple(
        listed_column(name, values, uses.get(name, "")) for name, values in columns.items()
    )


def _columns(path: Path) -> Iterator[tuple[str, suite.Array]]:
    suffix = path.suffix.lower()
    if path.is_dir():
        yield LABEL, np.array(folder.class_of_each_image(path))
    elif suffix in (*manifest.CSV_SUFFIXES, *manifest.PARQUET_SUFFIXES):
        for name, column in manifest.read_table(path).columns.items():
            yield name, tables.typed_column(tables.clean_column(column))
    elif suffix == ".npz":
        stored = arrays.read_archive(path)
        n_images = len(stored["x"]) if "x" in stored and stored["x"].ndim else None
        for name, array in stored.items():
            if array.ndim == 1 and name != "x" and n_images in (None, len(array)):
                yield name, array
    else:
        raise errors.DataError(
            f"{path}: is of no kind that is read as data; expected a folder with one sub-folder "
            "per class, a .csv or .parquet manifest, or a .npz"
        )


def listed_column(
    name: str, values: suite.Array, use: str, *, at_most: int = SHOWN
) -> ListedColumn:
    """A column of values (n_images,) with at most so many of its values."""
    kind = {"b": "truth value", "f": "number", "i": "number", "u": "number"}
    counts = Counter(tables.as_texts(values))
    return ListedColumn(
        name,
        kind.get(values.dtype.kind, "text"),
        len(counts),
        tuple(sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:at_most]),
        use,
    )


@dataclass(frozen=True)
class ListedSite:
    """A layer whose channels are filters; `layer` is its name in the framework, if known."""

    name: str
    kind: str
    n_filters: int
    layer: str


def list_sites(subject: Subject, settings: Settings) -> tuple[ListedSite, ...]:
    """The sites of a model, in the order in which it computes them.

    Raises:
        SettingsError: unknown `sites_at` or `include`.
    """
    known = survey(
        subject.model, output=settings.output, at=settings.sites_at, include=settings.include
    )
    layers = subject.layer_map
    return tuple(
        ListedSite(
            site.name,
            site.kind,
            site.n_channels,
            "" if layers is None else layers.layer_at(site.name),
        )
        for site in known.sites
    )
