"""Element types: what each can hold.

NumPy has no numbers of 2, 4, 6 or 8 bits with a point and no bfloat16: onnx gives such tensors in
types of `ml_dtypes`, of which neither `np.iinfo` nor `np.finfo` knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError

FROZEN_TYPES = ("float16", "float32", "float64")
"""Types in which a layer of floats may hold a constant."""


def code_limits(dtype: DTypeLike) -> tuple[float, float, bool]:
    """The least and the greatest number of a type of codes, and whether they are whole numbers.

    Raises:
        ModelError: numbers of that type are no codes.
    """
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        whole = np.iinfo(kind)
        return whole.min, whole.max, True
    if kind.kind not in "biufcOSUmM":
        import ml_dtypes  # comes with the onnx that gives its types

        try:
            small: Any = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]  # it is not typed
            return int(small.min), int(small.max), True
        except ValueError:
            pass
    if kind.itemsize == 1 and kind.kind in "fV":
        import ml_dtypes

        floats: Any = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]  # it is not typed
        return float(floats.min), float(floats.max), False
    raise ModelError(
        f"codes read as {kind.name} cannot be dequantised; if the file holds smaller numbers, a "
        "newer version of onnx reads them"
    )


def holds(values: Array, dtype: DTypeLike) -> bool:
    """Whether a type holds these numbers, rounded at most; the 8 bits of an exponent lack a 0."""
    kind = np.dtype(dtype)
    if kind.kind in "OSUc":
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(kind).astype(np.float64)
    return bool(np.isfinite(stored[np.isfinite(values)]).all() and (stored[values == 0] == 0).all())
