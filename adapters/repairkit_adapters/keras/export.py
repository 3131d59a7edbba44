"""A traced TensorFlow function as ONNX, by tf2onnx."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from repairkit.core.errors import ExportError
from repairkit.core.process.writing import write_whole
from repairkit_adapters.keras.folding import fold_normalisations
from repairkit_adapters.keras.operators import operator_handlers
from repairkit_adapters.keras.runtime import Runtime, load_exporter, quiet, told

_NUMBERED = re.compile(r"(?P<before>.*)__(?P<number>\d+)(?P<after>(:\d+)?(/kernel|/bias)?)")
_GRAPH = onnx.AttributeProto.GRAPH
_AGAIN = re.compile(r"_\d+$")
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def write_onnx(
    runtime: Runtime,
    function: Callable[[Any], Any],
    path: Path,
    *,
    input_name: str,
    input_shape: tuple[int, ...],
    opset: int | None,
    layers: Collection[str] = (),
) -> None:
    """Write a function of a batch of images as ONNX; the batch size stays free.

    Args:
        runtime: Keras and TensorFlow.
        function: takes images, shape (n_images, *input_shape), float32.
        path: of the ONNX file.
        input_name: of the images, where ONNX allows it.
        input_shape: of one image.
        opset: of the ONNX file; tf2onnx's own choice if None.
        layers: the names of the model's layers, for messages; none where they are not known.

    Raises:
        AdapterError: tf2onnx is missing.
        ExportError: ONNX, or ONNX Runtime, has no such operation.
    """
    tf = runtime.tensorflow
    exporter = load_exporter()
    name = input_name if _NAME.fullmatch(input_name) else "images"
    signature = [tf.TensorSpec((None, *input_shape), tf.float32, name=name)]
    traced = tf.function(function, input_signature=signature)
    with quiet():
        try:
            model, _ = exporter.convert.from_function(
                traced, signature, opset=opset, custom_op_handlers=operator_handlers(exporter)
            )
            constants = _captured(tf, traced.get_concrete_function(*signature))
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
    _store(model, constants)
    _check_operators(model, layers)
    fold_normalisations(model)
    _renumber(model)
    write_whole(path, model.SerializeToString())


def _captured(tf: Any, function: Any) -> dict[str, Any]:
    """The constants that a traced function takes from outside, by the name of its input for them.

    Variables are not among them: tf2onnx stores these itself.
    """
    return {
        inside.name: outside.numpy()
        for outside, inside in function.graph.captures
        if inside.dtype not in (tf.resource, tf.variant)
    }


def _store(model: onnx.ModelProto, constants: dict[str, Any]) -> None:
    """Turn inputs whose value is known into initializers."""
    graph = model.graph
    free = [value for value in graph.input if value.name not in constants]
    for value in graph.input:
        if value.name in constants:
            graph.initializer.append(
                onnx.numpy_helper.from_array(constants[value.name], value.name)
            )
    del graph.input[:]
    graph.input.extend(free)


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


def _check_operators(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Raise where TensorFlow's own operators were left, which no runtime knows."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx"):
            known = onnx.defs.has(node.op_type, versions.get("", 1), "")
        else:
            known = node.domain.startswith(("ai.onnx", "com.microsoft"))
        if not known:
            raise ExportError(
                f"layer {_layer_of(node.name, layers)!r} uses TensorFlow's {node.op_type}, for "
                "which ONNX has no operator; replace the layer with one that ONNX can express"
            )


def _layer_of(node: str, layers: Collection[str]) -> str:
    """The layer in a node's name, which is `model/layer/.../operation`.

    TensorFlow appends a number to a name that it uses again: `conv_1` may be the layer `conv`.
    """
    scopes = [part for part in node.split("/")[:-1] if not part.endswith("PartitionedCall")]
    if scopes[1:]:
        scopes = scopes[1:]
    ends = {name.rpartition("/")[2] for name in layers}
    found = [name for name in map(partial(_without_number, known=ends), scopes) if name in ends]
    if found:
        return "/".join(found)
    return "/".join(scopes) or node


def _without_number(scope: str, known: Collection[str]) -> str:
    """A scope as the layer is called: without the numbers that TensorFlow appended."""
    while scope not in known and _AGAIN.search(scope):
        scope = _AGAIN.sub("", scope)
    return scope
