"""What the numbers that a model gives mean: probabilities, logits, or plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite

LOG_FLOOR = math.log(1e-7)
"""The least log-probability: one certain mistake must not outweigh all other images."""

# A softmax that was quantised to 8 bits adds up to 255 or 256, give or take what rounding loses.
_UINT8_SUM, _UINT8_SLACK = 255.5, 13.0
# Half precision rounds this much, whatever type its numbers are converted to later.
_SLACK, _SUM_SLACK = 1e-3, 1e-2
_LEAST_SUM, _HALF = 1e-12, 0.5

FORMS = ("logits", "probabilities", "log-probabilities")
"""What a user can say that outputs are."""
_SURE_IMAGES = 20
_ASK = "say what the outputs are with --outputs-are logits or --outputs-are probabilities"


@dataclass(frozen=True)
class OutputEvidence:
    """What is known of a model's outputs besides their numbers.

    Attributes:
        said: by the user, one of `FORMS`; None where nothing was said.
        ending: `softmax`, `sigmoid`, `log-softmax` or `linear`, as the graph ends; None where it
            is not known.
        operator: the one that shows it, for messages.
        ask: refuse ambiguous numbers instead of choosing the likelier reading.
    """

    said: str | None = None
    ending: str | None = None
    operator: str = ""
    ask: bool = False


_NOTHING = OutputEvidence()


@dataclass(frozen=True)
class OutputForm:
    """How raw outputs are read.

    `kind` is `probabilities`, `separate-probabilities` (which need not add up to 1) or `logits`
    (one column per class), `binary-probability` or `binary-logit` (one column: class 1), or
    `values` (one column: a regressor's answer). Logarithms of probabilities are logits. Raw
    outputs have shape (n, K), (n,) or these with further axes of length one, as (n, K, 1, 1).
    `columns` are the first of those K that counts and the one after the last; all if None.
    `threshold` is the least number of a single column that means class 1; if None, 0.5 for a
    probability and 0 for a logit. `reading` says in words why they are read so.

    Outputs that are not finite raise no error: they are wrong predictions.
    """

    kind: str
    columns: tuple[int, int] | None = None
    threshold: float | None = None
    reading: str = field(default="", compare=False)

    @classmethod
    def detect(
        cls,
        outputs: suite.Array,
        *,
        regression: bool = False,
        columns: tuple[int, int] | None = None,
        threshold: float | None = None,
        evidence: OutputEvidence = _NOTHING,
    ) -> OutputForm:
        """The form of `outputs`, which the whole model gave for real images.

        What the user said decides, then how the graph ends, then the numbers of all these images:
        rows that add up to 1 within 1e-2, without negative numbers, are probabilities, and so are
        integer rows that all add up to 255 or so (a quantised softmax); other rows are logits. A
        single column within [0, 1], but for rounding, is a probability.

        Raises:
            SettingsError: The outputs are of no form that the built-in metrics can judge, or have
                no such columns, or the threshold fits no single column, or they could be logits as
                well as probabilities.
            DataError: There are no outputs, or none that are finite.
        """
        table = _columns(outputs, columns)
        _check_width(table.shape[1], regression=regression, threshold=threshold)
        if regression:
            return cls("values", columns, reading="outputs are a regressor's answers")
        single = table.shape[1] == 1
        kind, reading = _said_kind(evidence, single=single, part=columns is not None)
        if kind and not (single and table.dtype.kind in "iu" and threshold is None):
            return cls(kind, columns, threshold, reading + _doubt(evidence.said, table))
        rows = table[np.isfinite(table).all(axis=1)].astype(np.float64)
        if not len(rows):
            raise errors.DataError(
                f"none of the {len(table)} outputs looked at is finite; check the preprocessing "
                f"(scale, mean, std) and that the model works as it is"
            )
        judge = _kind_of_column if single else _kind_of_rows
        kind_of_rows, why = judge(rows, table.dtype, threshold, ask=evidence.ask)
        return cls(kind_of_rows, columns, threshold, f"{_WORDS[kind_of_rows]}: {why}")

    @property
    def in_probabilities(self) -> bool:
        """Whether outputs are probabilities, of every class or of class 1 alone."""
        return self.kind.endswith(("probabilities", "probability"))

    def n_classes(self, outputs: suite.Array) -> int:
        """K; 2 for the binary kinds, 1 for `values`."""
        if self.kind.startswith("binary"):
            return 2
        return int(_columns(outputs, self.columns).shape[1])

    def class_scores(self, outputs: suite.Array) -> NDArray[np.float64]:
        """Shape (n, K): probabilities or logits, the greater the likelier; (n, 1) for `values`.

        The binary kinds are expanded to [1 - p, p] and [0, logit]; integer and separate
        probabilities are divided by their row's sum.
        """
        raw = _columns(outputs, self.columns)
        columns = raw.astype(np.float64)
        if self.kind == "binary-probability":
            return np.hstack([1.0 - columns, columns])
        if self.kind == "binary-logit":
            return np.hstack([np.zeros_like(columns), columns])
        if not self.kind.endswith("probabilities"):
            return columns
        if raw.dtype.kind in "iub":
            lowest = np.iinfo(raw.dtype).min if raw.dtype.kind == "i" else 0
            columns = columns - lowest if (columns < 0).any() else columns
            columns /= np.maximum(columns.sum(axis=1, keepdims=True), 1.0)
        elif self.kind == "separate-probabilities":
            columns /= np.maximum(columns.sum(axis=1, keepdims=True), _LEAST_SUM)
        return columns

    def log_probabilities(self, outputs: suite.Array) -> NDArray[np.float64]:
        """Shape (n, K), within [LOG_FLOOR, 0]; LOG_FLOOR throughout a row that holds a NaN."""
        scores = self.class_scores(outputs)
        if self.in_probabilities:
            broken = np.isnan(scores).any(axis=1, keepdims=True)
            logs = np.log(np.maximum(scores, math.exp(LOG_FLOOR)))
        else:
            with np.errstate(invalid="ignore", over="ignore"):
                shifted = scores - scores.max(axis=1, keepdims=True)
                logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            broken = np.isnan(logs).any(axis=1, keepdims=True)
        return np.where(broken, LOG_FLOOR, np.clip(logs, LOG_FLOOR, 0.0))

    def predictions(self, outputs: suite.Array) -> NDArray[np.int64]:
        """Shape (n,): the likeliest class, the first of equals; -1 for a row that holds a NaN.

        The binary kinds say class 1 from the threshold on.
        """
        columns = _columns(outputs, self.columns)
        if self.kind.startswith("binary"):
            half = 0.5 if self.kind == "binary-probability" else 0.0
            top = columns[:, 0]
            picked = (top >= (half if self.threshold is None else self.threshold)).astype(np.int64)
        else:
            # argmax takes a NaN for the greatest number, so one look per row finds them all.
            picked = columns.argmax(axis=1).astype(np.int64)
            top = columns[np.arange(len(columns)), picked]
        return np.where(np.isnan(top), -1, picked)


def _check_width(n_columns: int, *, regression: bool, threshold: float | None) -> None:
    """Refuse a threshold, or a regressor, where the model gives more than one number per image."""
    if threshold is not None and (regression or n_columns != 1):
        raise errors.SettingsError(
            f"a threshold is for one number per image that tells two classes apart; the model "
            f"gives {n_columns}{' and is judged as a regressor' if regression else ''}: "
            f"leave --threshold out, or choose one of --columns"
        )
    if regression and n_columns != 1:
        raise errors.SettingsError(
            f"the model gives {n_columns} numbers per image and a regressor is judged by one; "
            f"choose another --output or one of --columns, or give a metric module:function"
        )


def _columns(outputs: suite.Array, wanted: tuple[int, int] | None) -> suite.Array:
    """Shape (n, K), without the axes of length one and the columns that do not count."""
    shape = np.shape(outputs)
    wide = [length for length in shape[1:] if length != 1]
    if not shape or len(wide) > 1 or outputs.dtype.kind not in "fiub":
        raise errors.SettingsError(
            f"the output of shape {shape} and type {outputs.dtype} is neither one number nor one "
            f"row of class scores per image; choose another --output, or give a metric "
            f"module:function, which can judge any output"
        )
    if not shape[0]:
        raise errors.DataError("there are no outputs to judge; give at least one image")
    columns = outputs.reshape(shape[0], wide[0] if wide else 1)
    if wanted is None:
        return columns
    if wanted[1] > columns.shape[1]:
        raise errors.SettingsError(
            f"the output has {columns.shape[1]} columns and those from {wanted[0]} to "
            f"{wanted[1] - 1} were asked for; choose --columns within 0:{columns.shape[1]}"
        )
    return columns[:, wanted[0] : wanted[1]]


_WORDS = {
    "probabilities": "outputs are read as probabilities",
    "separate-probabilities": "outputs are read as probabilities, each for its class alone",
    "logits": "outputs are read as logits",
    "binary-probability": "the output is read as the probability of class 1",
    "binary-logit": "the output is read as the logit of class 1",
}
_KINDS: dict[str, tuple[str, str, str]] = {
    # Of rows, of some columns of rows, of a single column.
    "softmax": ("probabilities", "separate-probabilities", "binary-probability"),
    "sigmoid": ("separate-probabilities", "separate-probabilities", "binary-probability"),
    "log-softmax": ("logits", "logits", ""),
    "linear": ("logits", "logits", "binary-logit"),
    "probabilities": ("separate-probabilities", "separate-probabilities", "binary-probability"),
    "logits": ("logits", "logits", "binary-logit"),
    "log-probabilities": ("logits", "logits", ""),
}


def _said_kind(evidence: OutputEvidence, *, single: bool, part: bool) -> tuple[str, str]:
    """The kind that the user or the graph states, and why; empty where they state none."""
    source = evidence.said or evidence.ending
    if source is None:
        return "", ""
    kind = _KINDS[source][2 if single else 1 if part else 0]
    if not kind and evidence.said:
        raise errors.SettingsError(
            "the model gives one number per image, which is no logarithm of a probability; say "
            "--outputs-are logits or --outputs-are probabilities"
        )
    why = "as you said" if evidence.said else f"the graph ends in {evidence.operator}"
    return kind, f"{_WORDS[kind]}: {why}" if kind else ""


def _doubt(said: str | None, table: suite.Array) -> str:
    """What shows that the numbers are not what the user said; empty where they could be."""
    numbers = table[np.isfinite(table)]
    if said is None or table.dtype.kind != "f" or not numbers.size:
        return ""
    low, high = float(numbers.min()), float(numbers.max())
    fits = {
        "probabilities": low >= -_SLACK and high <= 1.0 + _SLACK,
        "log-probabilities": high <= _SLACK,
    }
    if fits.get(said, True):
        return ""
    return f", although over {len(table)} images there are numbers from {low:.4g} to {high:.4g}"


def _kind_of_column(
    column: NDArray[np.float64], dtype: np.dtype[Any], threshold: float | None, *, ask: bool
) -> tuple[str, str]:
    low, high = float(column.min()), float(column.max())
    integer, n = dtype.kind in "iub", len(column)
    if integer and not (low >= 0.0 and high <= 1.0) and threshold is None:
        raise errors.SettingsError(
            f"the output holds one whole number per image, up to {high:g}: class numbers "
            f"or quantised scores; choose the --output with the class scores, give a --threshold, "
            f"or give a metric module:function"
        )
    slack = 0.0 if integer else _SLACK
    if low < -slack or high > 1.0 + slack:
        return "binary-logit", f"over {n} images it goes from {low:.4g} to {high:.4g}"
    within = f"over {n} images it stays within 0 and 1"
    if ask and not integer and threshold is None and not (n >= _SURE_IMAGES and low < 0.5 <= high):
        raise errors.SettingsError(
            f"{within}, from {low:.4g} to {high:.4g}, so that it could be a logit as well as a "
            f"probability, and the graph does not tell; {_ASK}"
        )
    return "binary-probability", within


def _kind_of_rows(
    rows: NDArray[np.float64], dtype: np.dtype[Any], _: float | None, *, ask: bool
) -> tuple[str, str]:
    n, signed_bytes = len(rows), dtype.kind == "i" and dtype.itemsize == 1
    if signed_bytes:
        rows = rows - np.iinfo(dtype).min
    sums = rows.sum(axis=1)
    quantised = dtype.kind in "iub" and (np.abs(sums - _UINT8_SUM) <= _UINT8_SLACK).all()
    even = (rows >= -_SLACK).all(axis=1) & (np.abs(sums - 1.0) <= _SUM_SLACK) & (not signed_bytes)
    if even.all() or quantised:
        return "probabilities", f"over {n} images they add up to 1"
    if ask and even.mean() > _HALF:
        raise errors.SettingsError(
            f"{even.sum()} of {n} outputs add up to 1 as probabilities do and the others do not, "
            f"and the graph does not tell what they are; {_ASK}"
        )
    return "logits", f"over {n} images they do not add up to 1"


def shift_outputs(
    outputs: suite.Array, form: OutputForm, biases: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Outputs in the same form, with the odds of each class multiplied by exp(bias).

    Args:
        outputs: as the model gives them, for n images.
        form: how they are read; not `values`.
        biases: shape (n_classes,), in log-odds.
    """
    first, behind = form.columns or (0, None)
    shifted = np.asarray(outputs, np.float64).copy()
    rows = shifted.reshape(len(shifted), -1)
    if form.kind == "binary-logit":
        rows[:, first:behind] += biases[1] - biases[0]
    elif not form.in_probabilities:
        rows[:, first:behind] += biases
    else:
        judged = np.asarray(outputs).reshape(len(outputs), -1)[:, first:behind]
        scores = replace(form, columns=None).class_scores(judged)
        weighted = scores * np.exp(biases - biases.max())
        weighted /= np.maximum(weighted.sum(axis=1, keepdims=True), _LEAST_SUM)
        rows[:, first:behind] = weighted[:, 1:] if form.kind == "binary-probability" else weighted
    return shifted
