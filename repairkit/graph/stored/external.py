"""External data: weights in files beside a model, which must never lie anywhere else.

A model file is not to be trusted: what it says of places and sizes is checked against the folder
and the files before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import GraphProto, ModelProto, TensorProto, helper
from onnx.external_data_helper import uses_external_data

from repairkit.core.errors import ModelError
from repairkit.graph.index import all_nodes, subgraphs
from repairkit.graph.stored import outside
from repairkit.graph.stored.outside import forget_marks

# Tied weights may be claimed twice or thrice; a thousand claims of one gigabyte are an attack.
_MOST_TIMES = 4
_SLACK_BYTES = 64 << 20


def stored_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is stored anywhere in a model."""
    nodes = [*all_nodes(model.graph), *(n for f in model.functions for n in f.node)]
    yield from _initializers(model.graph)
    for node in nodes:
        for found in node.attribute:
            if found.HasField("t"):
                yield found.t
            yield from found.tensors
            sparse = [found.sparse_tensor] if found.HasField("sparse_tensor") else []
            for held in (*sparse, *found.sparse_tensors):
                yield from (held.values, held.indices)
        for graph in subgraphs(node):
            yield from _initializers(graph)


def _initializers(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def external_locations(model: ModelProto) -> list[str]:
    """The files beside the model that its tensors name, sorted."""
    return sorted({_entry(t, "location") for t in stored_tensors(model) if uses_external_data(t)})


def safe_path(model_path: Path, location: str) -> Path:
    """The file that `location` names, in or below the model's folder.

    Raises:
        ModelError: it is absolute, climbs out of the folder, or a link leads out of it.
    """
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    absolute = PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor)
    folder = model_path.parent.resolve()
    path = model_path.parent / location
    if not location or "\0" in location or absolute or ".." in parts or path == model_path:
        raise _outside(model_path, location)
    try:
        inside = path.resolve().is_relative_to(folder)
        path.exists()  # raises where no file can have that name
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise _outside(model_path, location) from error
    if not inside:
        raise _outside(model_path, location)
    return path


def _outside(model_path: Path, location: str) -> ModelError:
    return ModelError(
        f"{model_path}: its external data cannot be read: {location[:200]!r} is no file in the "
        "model's own folder; put the data file there and let the model name it"
    )


def load_external(model_path: Path, model: ModelProto) -> None:
    """Read every external tensor into the model, in place; large weights are left outside.

    Raises:
        ModelError: a place leads out of the folder, a file is missing or too short, or many tensors
            claim the same bytes.
    """
    waiting = [t for t in stored_tensors(model) if uses_external_data(t)]
    for tensor in waiting:
        forget_marks(tensor)
    ranges = _checked_ranges(model_path, waiting)
    n_bytes = sum(length for held in ranges.values() for _, _, length in held)
    if n_bytes > outside.KEPT_OUTSIDE_ABOVE and _can_be_mapped(model, waiting):
        for location, held in ranges.items():
            digest = outside.digest_of_file(safe_path(model_path, location))
            for tensor, _, _ in held:
                outside.keep_outside(tensor, model_path.parent, digest)
        return
    try:
        for location in sorted(ranges):
            with safe_path(model_path, location).open("rb") as file:
                for tensor, offset, length in ranges[location]:
                    file.seek(offset)
                    tensor.raw_data = file.read(length)
                    tensor.ClearField("data_location")
                    tensor.ClearField("external_data")
    except OSError as error:
        raise ModelError(
            f"{model_path}: its external data cannot be read ({error.strerror}); check the files"
        ) from error


def _checked_ranges(
    model_path: Path, tensors: list[TensorProto]
) -> dict[str, list[tuple[TensorProto, int, int]]]:
    ranges: dict[str, list[tuple[TensorProto, int, int]]] = {}
    sizes: dict[str, int] = {}
    for tensor in tensors:
        location = _entry(tensor, "location")
        if location not in sizes:
            path = safe_path(model_path, location)
            if not path.is_file():
                raise ModelError(
                    f"{model_path}: its external data cannot be read: there is no file "
                    f"{location!r} beside it; put the data file into the model's own folder"
                )
            sizes[location] = path.stat().st_size
        found = _range(model_path, tensor, sizes[location])
        ranges.setdefault(location, []).append((tensor, *found))
    asked = sum(length for held in ranges.values() for _, _, length in held)
    if asked > _MOST_TIMES * sum(sizes.values()) + _SLACK_BYTES:
        raise ModelError(
            f"{model_path}: its external data cannot be read: its tensors ask for {asked} bytes of "
            f"files of {sum(sizes.values())} bytes; the same bytes are claimed too often"
        )
    return ranges


def _can_be_mapped(model: ModelProto, tensors: list[TensorProto]) -> bool:
    """Whether no tensor is part of a sparse one, or holds several numbers in a byte."""
    bodies = (node for function in model.functions for node in function.node)
    plain = sum(uses_external_data(t) for t in outside.stored_in(model.graph, bodies))
    return plain == len(tensors) and all(t.data_type not in _BITS for t in tensors)


def _range(model_path: Path, tensor: TensorProto, size: int) -> tuple[int, int]:
    """Where a tensor's bytes lie in a file of `size` bytes: offset and length."""
    needed = tensor_bytes(tensor)
    try:
        offset = int(_entry(tensor, "offset") or 0)
        length = int(_entry(tensor, "length") or needed)
    except ValueError:
        offset = length = -1
    if offset < 0 or length != needed or offset + length > size:
        raise ModelError(
            f"{model_path}: its external data cannot be read: the tensor {tensor.name!r} needs "
            f"{needed} bytes and does not find them in its data file of {size} bytes; get both "
            "files again from where they came from"
        )
    return offset, length


def tensor_bytes(tensor: TensorProto) -> int:
    """The bytes that a tensor's type and shape ask for.

    Raises:
        ModelError: the type is unknown, holds no numbers, or a dimension is negative.
    """
    try:
        bits = bits_of(tensor.data_type)
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"the tensor {tensor.name!r} is of no type that repairkit knows ({tensor.data_type})"
        ) from error
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"the tensor {tensor.name!r} has a negative dimension")
    return -(-math.prod(tensor.dims) * bits // 8)


def bits_of(data_type: int) -> int:
    """The bits that a number of a type takes in a file.

    Raises:
        KeyError, TypeError: there is no such type.
    """
    return _BITS.get(data_type, 8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize)


# Types that share bytes; which of them there are depends on the version of onnx.
_PACKED = {
    2: ("INT2", "UINT2"),
    4: ("INT4", "UINT4", "FLOAT4E2M1"),
    6: ("FLOAT6E2M3", "FLOAT6E3M2"),
}
_BITS = {
    TensorProto.DataType.Value(name): bits
    for bits, kinds in _PACKED.items()
    for name in kinds
    if name in TensorProto.DataType.keys()  # noqa: SIM118 - an enum wrapper, which is no mapping
}


def _entry(tensor: TensorProto, key: str) -> str:
    """The last entry of that name counts, as in onnx itself."""
    return next((e.value for e in reversed(tensor.external_data) if e.key == key), "")
