"""Runtime values: who owns their memory, and how long it must live.

A value made from an array shares the array's memory, and only the value's Python object keeps the
array. Before ONNX Runtime 1.30 a binding that the value is bound to keeps neither: whoever binds a
value must keep it until the last run. There, what a binding hands out are references into the
binding, which end when it is cleared; `owned_outputs` makes them values of their own.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from repairkit.core.suite import Array
from repairkit.engine.ort.runtime import load_runtime


def as_value(array: Array, device: str = "cpu") -> Any:
    """A runtime value that shares the memory of a contiguous array; on another device, a copy."""
    return load_runtime().OrtValue.ortvalue_from_numpy(array, device, 0)


def owned_outputs(binding: Any) -> list[Any]:
    """The outputs of a binding's last run, as values that outlive it and own their memory."""
    held = binding.get_outputs_as_ortvaluevector()
    make = load_runtime().OrtValue
    # By position: an iterator yields references, in releases before 1.30.
    return [make(held[position]) for position in range(len(held))]


def memory_of(value: Any) -> Array:
    """The memory of a value on the CPU as an array that can be written to."""
    array: Array = value.numpy()
    if _numpy_shares() or not array.size:
        return array
    # Before 1.19 `numpy` copies.
    buffer = (ctypes.c_char * array.nbytes).from_address(value.data_ptr())
    buffer.owner = value  # type: ignore[attr-defined]  # the value lives as long as the array
    return np.frombuffer(memoryview(buffer), array.dtype).reshape(array.shape)


@cache
def _numpy_shares() -> bool:
    """Whether `OrtValue.numpy` shows the value's own memory in this release."""
    value = as_value(np.zeros(1, np.float32))
    return bool(value.numpy().ctypes.data == value.data_ptr())
