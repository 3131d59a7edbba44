"""What the numbers that a model gives mean: probabilities, logits, or plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError, SettingsError

LOG_FLOOR = math.log(1e-7)
"""The least log-probability that counts: one certain mistake must not outweigh all else."""

# A softmax that was quantised to 8 bits adds up to 255 or 256, give or take what rounding loses.
_UINT8_SUM, _UINT8_SLACK = 255.5, 13.0


@dataclass(frozen=True)
class OutputForm:
    """How raw outputs are to be read.

    `kind` is `probabilities` or `logits` (one column per class), `binary-probability` or
    `binary-logit` (one column: class 1), or `values` (one column: a regressor's answer). Raw
    outputs have shape (n, K), (n,) or these with further axes of length one, as (n, K, 1, 1).
    `columns` are the first of those K that counts and the one behind the last; all if None.
    `threshold` is the number from which on a single column says class 1; 0.5 for a probability and
    0 for a logit if None.

    Outputs that are not finite never raise: they are wrong predictions.
    """

    kind: str
    columns: tuple[int, int] | None = None
    threshold: float | None = None

    @classmethod
    def detect(
        cls,
        outputs: NDArray[Any],
        *,
        regression: bool = False,
        columns: tuple[int, int] | None = None,
        threshold: float | None = None,
    ) -> OutputForm:
        """The form of `outputs`, which the whole model gave for some real images.

        Rows that add up to 1 within 1e-3 (1e-2 for float16), without negative numbers, are
        probabilities, and so are integer rows that all add up to 255 or so (a quantised softmax);
        other rows are logits. A single column within [0, 1] is a probability.

        Raises:
            SettingsError: The outputs are of no form that the built-in metrics can judge, or have
                no such columns, or the threshold fits no single column.
            DataError: There are no outputs, or none that are finite.
        """
        table = _columns(outputs, columns)
        single = table.shape[1] == 1
        if threshold is not None and (regression or not single):
            raise SettingsError(
                f"a threshold is for one number per image that tells two classes apart; the model "
                f"gives {table.shape[1]}{' and is judged as a regressor' if regression else ''}: "
                f"leave --threshold out, or choose one of --columns"
            )
        if regression:
            if not single:
                raise SettingsError(
                    f"the model gives {table.shape[1]} numbers per image and a regressor is "
                    f"judged by one; choose another --output or one of --columns, or give a "
                    f"metric module:function"
                )
            return cls("values", columns)
        rows = table[np.isfinite(table).all(axis=1)].astype(np.float64)
        if not len(rows):
            raise DataError(
                f"none of the {len(table)} outputs looked at is finite; check the preprocessing "
                f"(scale, mean, std) and that the model works as it is"
            )
        integer = table.dtype.kind in "iub"
        if single:
            return cls(_kind_of_column(rows, integer, threshold), columns, threshold)
        slack = 1e-2 if table.dtype == np.float16 else 1e-3
        return cls(_kind_of_rows(rows, integer, slack), columns)

    def n_classes(self, outputs: NDArray[Any]) -> int:
        """K; 2 for the binary kinds, 1 for `values`."""
        return (
            2 if self.kind.startswith("binary") else int(_columns(outputs, self.columns).shape[1])
        )

    def class_scores(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Shape (n, K): probabilities, or logits; greater means likelier, and (n, 1) for `values`.

        The binary kinds are expanded to [1 - p, p] and [0, logit]; integer probabilities are
        divided by their row's sum.
        """
        raw = _columns(outputs, self.columns)
        columns = raw.astype(np.float64)
        if self.kind == "binary-probability":
            return np.hstack([1.0 - columns, columns])
        if self.kind == "binary-logit":
            return np.hstack([np.zeros_like(columns), columns])
        if self.kind == "probabilities" and raw.dtype.kind in "iub":
            columns /= np.maximum(columns.sum(axis=1, keepdims=True), 1.0)
        return columns

    def log_probabilities(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Shape (n, K), within [LOG_FLOOR, 0]; LOG_FLOOR throughout a row that holds a NaN."""
        scores = self.class_scores(outputs)
        if self.kind.endswith("probabilities") or self.kind == "binary-probability":
            broken = np.isnan(scores).any(axis=1, keepdims=True)
            logs = np.log(np.maximum(scores, math.exp(LOG_FLOOR)))
        else:
            with np.errstate(invalid="ignore", over="ignore"):
                shifted = scores - scores.max(axis=1, keepdims=True)
                logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            broken = np.isnan(logs).any(axis=1, keepdims=True)
        return np.where(broken, LOG_FLOOR, np.clip(logs, LOG_FLOOR, 0.0))

    def predictions(self, outputs: NDArray[Any]) -> NDArray[np.int64]:
        """Shape (n,): the likeliest class, the first of equals; -1 for a row that holds a NaN.

        The binary kinds say class 1 from the threshold on.
        """
        columns = _columns(outputs, self.columns)
        if self.kind.startswith("binary"):
            top = columns[:, 0]
            picked = (top >= self._from_class_1()).astype(np.int64)
        else:
            # argmax takes a NaN for the greatest number, so one look per row finds them all.
            picked = columns.argmax(axis=1).astype(np.int64)
            top = columns[np.arange(len(columns)), picked]
        return np.where(np.isnan(top), -1, picked)

    def _from_class_1(self) -> float:
        if self.threshold is not None:
            return self.threshold
        return 0.5 if self.kind == "binary-probability" else 0.0


def _columns(outputs: NDArray[Any], wanted: tuple[int, int] | None) -> NDArray[Any]:
    """Shape (n, K), without the axes of length one and the columns that do not count."""
    shape = np.shape(outputs)
    wide = [length for length in shape[1:] if length != 1]
    if not shape or len(wide) > 1 or outputs.dtype.kind not in "fiub":
        raise SettingsError(
            f"the output of shape {shape} and type {outputs.dtype} is neither one number nor one "
            f"row of class scores per image; choose another --output, or give a metric "
            f"module:function, which can judge any output"
        )
    if not shape[0]:
        raise DataError("there are no outputs to judge; give at least one image")
    columns = outputs.reshape(shape[0], wide[0] if wide else 1)
    if wanted is None:
        return columns
    if wanted[1] > columns.shape[1]:
        raise SettingsError(
            f"the output has {columns.shape[1]} columns and those from {wanted[0]} to "
            f"{wanted[1] - 1} were asked for; choose --columns within 0:{columns.shape[1]}"
        )
    return columns[:, wanted[0] : wanted[1]]


def _kind_of_column(column: NDArray[np.float64], integer: bool, threshold: float | None) -> str:
    within = column.min() >= 0.0 and column.max() <= 1.0
    if integer and not within and threshold is None:
        raise SettingsError(
            f"the output holds one whole number per image, up to {column.max():g}: class numbers "
            f"or quantised scores; choose the --output with the class scores, give a --threshold, "
            f"or give a metric module:function"
        )
    return "binary-probability" if within else "binary-logit"


def _kind_of_rows(rows: NDArray[np.float64], integer: bool, slack: float) -> str:
    sums = rows.sum(axis=1)
    if rows.min() < 0.0:
        return "logits"
    normalised = bool((np.abs(sums - 1.0) <= slack).all())
    quantised = integer and bool((np.abs(sums - _UINT8_SUM) <= _UINT8_SLACK).all())
    return "probabilities" if normalised or quantised else "logits"
