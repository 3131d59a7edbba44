"""A traced TensorFlow function as ONNX, by tf2onnx."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from repairkit.core.errors import ExportError
from repairkit.core.writing import write_whole
from repairkit_adapters.keras_folding import fold_normalisations
from repairkit_adapters.keras_runtime import Runtime, load_exporter, quiet, told

_NUMBERED = re.compile(r"(?P<before>.*)__(?P<number>\d+)(?P<after>(:\d+)?(/kernel|/bias)?)")
_GRAPH = onnx.AttributeProto.GRAPH
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def write_onnx(
    runtime: Runtime,
    function: Callable[[Any], Any],
    path: Path,
    *,
    input_name: str,
    input_shape: tuple[int, ...],
    opset: int | None,
) -> None:
    """Write a function of a batch of images as ONNX; the batch size stays free.

    Raises:
        AdapterError: tf2onnx is missing.
        ExportError: an operation cannot be said in ONNX.
    """
    tf = runtime.tensorflow
    exporter = load_exporter()
    name = input_name if _NAME.fullmatch(input_name) else "images"
    signature = [tf.TensorSpec((None, *input_shape), tf.float32, name=name)]
    with quiet():
        try:
            model, _ = exporter.convert.from_function(
                tf.function(function, input_signature=signature), signature, opset=opset
            )
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
            tf.errors.OpError,
        ) as error:
            raise ExportError(
                f"tf2onnx could not convert the model: {told(error)}; replace the layer, or try "
                "another --opset"
            ) from error
    _check_operators(model)
    fold_normalisations(model)
    _renumber(model)
    write_whole(path, model.SerializeToString())


def _renumber(model: onnx.ModelProto) -> None:
    """Number what tf2onnx inserted from 1 on, in order, and list constants as they are read.

    It counts on from conversion to conversion, and names and lists constants in any order.

    The graph's inputs and outputs keep their names. Loops and branches are left as they are.
    """
    graph = model.graph
    graph.doc_string = ""
    if any(attribute.type == _GRAPH for node in graph.node for attribute in node.attribute):
        return
    kept = {one.name for one in (*graph.input, *graph.output)}
    stored = {tensor.name for tensor in graph.initializer}
    numbers: dict[str, int] = {}
    constants: dict[str, int] = {}

    def renamed(name: str) -> str:
        found = _NUMBERED.fullmatch(name)
        if found is None or name in kept:
            return name
        if name in stored:
            return f"inserted_constant__{constants.setdefault(name, len(constants) + 1)}"
        number = numbers.setdefault(found["number"], len(numbers) + 1)
        return f"{found['before']}__{number}{found['after']}"

    order: dict[str, int] = {}
    for name in (name for node in graph.node for name in node.input):
        order.setdefault(name, len(order))
    ordered = sorted(graph.initializer, key=lambda tensor: order.get(tensor.name, len(order)))
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    for node in graph.node:
        node.name = renamed(node.name)
        for names in (node.input, node.output):
            names[:] = [renamed(name) for name in names]
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for known in graph.value_info:
        known.name = renamed(known.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = renamed(size.dim_param)


def _check_operators(model: onnx.ModelProto) -> None:
    """Raise where TensorFlow's own operators were left, which no runtime knows."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx"):
            known = onnx.defs.has(node.op_type, versions.get("", 1), "")
        else:
            known = node.domain.startswith(("ai.onnx", "com.microsoft"))
        if not known:
            raise ExportError(
                f"the operation {node.op_type} of layer {_layer_of(node.name)} cannot be said in "
                "ONNX; replace the layer with one that can"
            )


def _layer_of(node: str) -> str:
    """The layer in a node's name, which is `model/layer/.../operation`."""
    scopes = [part for part in node.split("/")[:-1] if not part.endswith("PartitionedCall")]
    return "/".join(scopes[1:] or scopes or [node])
