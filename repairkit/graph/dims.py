"""Sizes that a model leaves open.

ONNX says so by a name or by nothing at all. Converters also write -1, another negative number, or
0; ONNX Runtime takes negative sizes for open ones and a 0 for the number itself. In repairkit every
size below one is open. A file keeps what it says: only what a session gets is freed.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, ValueInfoProto


def dims_of(value: ValueInfoProto) -> tuple[int | None, ...] | None:
    """The sizes of a tensor, None for each that is open; None where its shape is missing."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(int(d.dim_value) if d.dim_value > 0 else None for d in kind.shape.dim)


def with_open_sizes(model: ModelProto) -> ModelProto:
    """The model without the sizes below one that it names; itself where none is."""
    # An initializer may be listed as an input too, and may be empty.
    stored = {tensor.name for tensor in model.graph.initializer}

    def named(graph: GraphProto) -> Iterator[ValueInfoProto]:
        values = (*graph.input, *graph.output, *graph.value_info)
        return (value for value in values if value.name not in stored)

    if not any(_says_less_than_one(value) for value in named(model.graph)):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    for value in named(result.graph):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")
    return result


def _says_less_than_one(value: ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return any(d.HasField("dim_value") and d.dim_value < 1 for d in dims)
