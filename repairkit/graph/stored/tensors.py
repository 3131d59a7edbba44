"""One stored tensor: its element type, its bytes, and where they lie.

NumPy has no bfloat16 and no numbers of 2, 4, 6 or 8 bits with a point. onnx gives such tensors in
types of `ml_dtypes`, which neither `np.iinfo` nor `np.finfo` knows.

A tensor that is *kept outside* stays in its data file: large weights are not read into memory. It
has two more entries in its external data than the file has: the folder of the data file, and the
digest of that file, so that two models are equal where their weights are. Both entries are removed
before a model is written or run.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import (
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    helper,
    numpy_helper,
    shape_inference,
)
from onnx.reference import ReferenceEvaluator

from repairkit.core import errors, suite
from repairkit.graph.protos import STANDARD, copied, plain_tensors

FROZEN_TYPES = ("float16", "float32", "float64")
"""Types in which a layer of floats may hold a constant."""

FOLDER, DIGEST = "repairkit.folder", "repairkit.sha256"
"""Keys of the entries of a tensor that is kept outside."""

# Types that share bytes. Which of them exist depends on the version of onnx.
_PACKED = {
    2: ("INT2", "UINT2"),
    4: ("INT4", "UINT4", "FLOAT4E2M1"),
    6: ("FLOAT6E2M3", "FLOAT6E3M2"),
}
_TYPE_NAMES = TensorProto.DataType.keys()
PACKED_BITS = {
    TensorProto.DataType.Value(name): bits
    for bits, names in _PACKED.items()
    for name in names
    if name in _TYPE_NAMES
}
"""Bits of a number, for element types that are packed."""


# Element types


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
            small: Any = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]  # it has no types
            return int(small.min), int(small.max), True
        except ValueError:
            pass
    if kind.itemsize == 1 and kind.kind in "fV":
        import ml_dtypes

        floats: Any = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]  # it has no types
        return float(floats.min), float(floats.max), False
    raise errors.ModelError(
        f"codes read as {kind.name} cannot be dequantised; if the file holds smaller numbers, a "
        "newer version of onnx reads them"
    )


def holds(values: suite.Array, dtype: DTypeLike) -> bool:
    """Whether a type can hold these numbers after rounding; a type of exponents has no 0."""
    kind = np.dtype(dtype)
    if kind.kind in "OSUc":
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(kind).astype(np.float64)
    return bool(np.isfinite(stored[np.isfinite(values)]).all() and (stored[values == 0] == 0).all())


def bits_of(data_type: int) -> int:
    """The bits that a number of a type takes in a file.

    Raises:
        KeyError, TypeError: there is no such type.
    """
    return PACKED_BITS.get(data_type, 8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def tensor_bytes(tensor: TensorProto) -> int:
    """The bytes that a tensor of this type and shape takes.

    Raises:
        ModelError: the type is unknown, holds no numbers, or a dimension is negative.
    """
    try:
        bits = bits_of(tensor.data_type)
    except (KeyError, TypeError) as error:
        raise errors.ModelError(
            f"the tensor {tensor.name!r} is of no type that repairkit knows ({tensor.data_type})"
        ) from error
    if any(size < 0 for size in tensor.dims):
        raise errors.ModelError(f"the tensor {tensor.name!r} has a negative dimension")
    return -(-math.prod(tensor.dims) * bits // 8)


# Tensors that are kept outside


def external_entry(tensor: TensorProto, key: str) -> str:
    """An entry of a tensor's external data. As in onnx, the last one of a name counts."""
    return next((e.value for e in reversed(tensor.external_data) if e.key == key), "")


def keep_outside(tensor: TensorProto, folder: Path, digest: str) -> None:
    """Mark an external tensor, in place, as one that is not read into memory."""
    tensor.external_data.add(key=FOLDER, value=str(folder.resolve()))
    tensor.external_data.add(key=DIGEST, value=digest)


def forget_marks(tensor: TensorProto, *keys: str) -> None:
    """Remove repairkit's entries from the external data, in place; no file may hold them."""
    gone = keys or (FOLDER, DIGEST)
    kept = [(e.key, e.value) for e in tensor.external_data if e.key not in gone]
    if len(kept) != len(tensor.external_data):
        del tensor.external_data[:]
        for key, value in kept:
            tensor.external_data.add(key=key, value=value)


def is_outside(tensor: TensorProto) -> bool:
    """Whether a tensor's numbers are still in their file."""
    return tensor.data_location == TensorProto.EXTERNAL and bool(external_entry(tensor, FOLDER))


# Contents


def array_of(tensor: TensorProto) -> suite.Array:
    """A tensor's numbers; those of a tensor that is kept outside are mapped from its file.

    Raises:
        ModelError: the file is gone.
    """
    if not is_outside(tensor):
        return numpy_helper.to_array(tensor)
    path = Path(external_entry(tensor, FOLDER)) / external_entry(tensor, "location")
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape, offset = tuple(tensor.dims), int(external_entry(tensor, "offset") or 0)
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    try:
        mapped = np.memmap(path, dtype, "r", offset, shape)
    except (OSError, ValueError) as error:
        raise errors.ModelError(f"{path}: the model's weights cannot be read ({error})") from error
    return np.asarray(mapped)


def dense_array(sparse: SparseTensorProto) -> suite.Array:
    """A sparse tensor's numbers with the zeros between them.

    Raises:
        ModelError: a position lies outside its shape.
    """
    shape = tuple(sparse.dims)
    values = numpy_helper.to_array(sparse.values).reshape(-1)
    places = numpy_helper.to_array(sparse.indices).astype(np.int64)
    try:
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), shape)
        array = np.zeros(math.prod(shape), values.dtype)
        if places.size and places.min() < 0:
            raise IndexError("a position is negative")
        array[places] = values
    except (IndexError, ValueError) as error:
        raise errors.ModelError(
            f"the sparse tensor {sparse.values.name!r} does not fit its shape {shape} ({error})"
        ) from error
    return array.reshape(shape)


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor of a `Constant` node; None where it is written in another form."""
    return next((held.t for held in node.attribute if held.name == "value"), None)


def runs_of(positions: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Flat positions as half-open ranges, in order."""
    ordered = np.unique(positions)
    breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(ordered, breaks)]


def store(tensor: TensorProto, positions: NDArray[np.int64], values: suite.Array) -> bytes:
    """Write elements into a stored tensor, in the field that it uses already.

    Returns:
        The little-endian bytes that were at `runs_of(positions)`.
    """
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    old = b"".join(flat[start:stop].tobytes() for start, stop in runs_of(positions))
    flat[positions] = values
    if tensor.HasField("raw_data"):
        tensor.raw_data = _packed(array, tensor)
    else:
        fresh = numpy_helper.from_array(array, tensor.name)
        typed = helper.make_tensor(
            tensor.name, tensor.data_type, tensor.dims, numpy_helper.to_array(fresh).reshape(-1)
        )
        field = helper.tensor_dtype_to_field(tensor.data_type)
        tensor.ClearField(field)
        getattr(tensor, field).extend(getattr(typed, field))
    return old


def _packed(array: suite.Array, tensor: TensorProto) -> bytes:
    """An array as the raw data of a tensor, several numbers to a byte where its type says so."""
    fresh = bytearray(numpy_helper.from_array(array).raw_data)
    spare = 8 * len(fresh) - array.size * bits_of(tensor.data_type)
    if spare > 0:  # bits that hold no number stay as they were
        mask = 0xFF << (8 - spare) & 0xFF
        fresh[-1] = fresh[-1] & ~mask | tensor.raw_data[-1] & mask
    return bytes(fresh)


# Nodes computed from the file alone


_MOST_BYTES = 1 << 29
# Inputs up to this size are handed to shape inference by value: shapes, repeats, axes.
_MOST_SHAPE_ELEMENTS = 64


def fold(
    node: NodeProto, feeds: Mapping[str, suite.Array], opsets: Iterable[onnx.OperatorSetIdProto]
) -> list[suite.Array]:
    """The outputs of a node without a body, from all its inputs by name.

    Raises:
        ModelError: it cannot be computed, or its result is larger than any weight.
    """
    names = [o for o in node.output if o]
    infos = [helper.make_empty_tensor_value_info(n) for n in (*feeds, *names)]
    graph = helper.make_graph([node], "constant", infos[: len(feeds)], infos[len(feeds) :])
    model = helper.make_model(graph, opset_imports=list(opsets))
    try:
        _check_sizes(model, node, feeds)
        with np.errstate(all="ignore"):
            return [np.asarray(o) for o in ReferenceEvaluator(model).run(None, dict(feeds))]
    except Exception as error:  # the evaluator raises whatever a broken node makes it
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise errors.ModelError(
            f"the constant {names[0] if names else ''!r}, made by {node.op_type}, cannot be "
            f"computed ({line}); fold constants when exporting the model"
        ) from error


def _check_sizes(model: ModelProto, node: NodeProto, feeds: Mapping[str, suite.Array]) -> None:
    if node.op_type in _NEVER_GROWS and node.domain in STANDARD:
        return
    shaped = copied(model)
    del shaped.graph.input[:]
    for name, array in feeds.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        shaped.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        if array.size <= _MOST_SHAPE_ELEMENTS:
            shaped.graph.initializer.append(numpy_helper.from_array(array, name))
    inferred = shape_inference.infer_shapes(shaped, strict_mode=True, data_prop=True)
    values = {v.name: v for v in (*inferred.graph.output, *inferred.graph.value_info)}
    for name in (o for o in node.output if o):
        n_bytes = _bytes(values[name])
        if n_bytes is None:
            raise ValueError("its size is not known beforehand")
        if n_bytes > _MOST_BYTES:
            raise ValueError(f"it would take {n_bytes >> 20} MiB")


_NEVER_GROWS = {
    "Cast", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def _bytes(value: onnx.ValueInfoProto) -> int | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or kind.elem_type == TensorProto.UNDEFINED:
        return None
    if not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    sizes = [dim.dim_value for dim in kind.shape.dim]
    width = max(1, helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize)
    return math.prod(sizes) * width


# Marks of weights that are kept outside the model file


def folder_of(model: ModelProto) -> Path | None:
    """The folder of the weights that are kept outside; None where none are."""
    folders = (external_entry(t, FOLDER) for t in plain_tensors(model) if is_outside(t))
    first = next(folders, None)
    return None if first is None else Path(first)


def as_on_disk(model: ModelProto) -> ModelProto:
    """The model without repairkit's marks; the model itself where it has none."""
    return _without(model, FOLDER, DIGEST)


def wherever_it_lies(model: ModelProto) -> ModelProto:
    """The model without the folder of its weights, to compare it; itself where all are inside."""
    return _without(model, FOLDER)


def _without(model: ModelProto, *keys: str) -> ModelProto:
    if folder_of(model) is None:
        return model
    result = copied(model)
    for tensor in plain_tensors(result):
        forget_marks(tensor, *keys)
    return result


def outside_digests(model: ModelProto) -> dict[str, str]:
    """The SHA-256 of every data file that is kept outside, by its name in the model."""
    return {
        external_entry(t, "location"): external_entry(t, DIGEST)
        for t in plain_tensors(model)
        if is_outside(t)
    }
