"""A traced TensorFlow function as ONNX, by tf2onnx."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import onnx

from repairkit.core.arrays import Array
from repairkit.core.errors import ExportError
from repairkit.core.process.writing import write_whole
from repairkit_adapters.keras.keras_runtime import (
    GraphFunction,
    Runtime,
    Tensor,
    load_exporter,
    quiet,
    short_message,
)
from repairkit_adapters.keras.tidying import fold_normalisations, renumber, store_constants

if TYPE_CHECKING:
    from tf2onnx.graph import Graph as OnnxGraph
    from tf2onnx.graph import Node as OnnxNode

_AGAIN = re.compile(r"_\d+$")
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def write_onnx(
    runtime: Runtime,
    function: Callable[[Tensor], Tensor | Sequence[Tensor]],
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
                traced, signature, opset=opset, custom_op_handlers=_operator_handlers(exporter)
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
                f"tf2onnx could not convert the model: {short_message(error)}; replace the "
                "layer, or try another --opset"
            ) from error
    store_constants(model, constants)
    _check_operators(model, layers)
    fold_normalisations(model)
    renumber(model)
    write_whole(path, model.SerializeToString())


def _operator_handlers(exporter: ModuleType) -> dict[str, tuple[Callable[..., None], list[str]]]:
    """Operators that tf2onnx does not know, in the form of its `custom_op_handlers`.

    Keras computes an exact GELU with the complementary error function, CELU with `expm1`, and
    `logaddexp` with `log1p`. ONNX has none of the three, but operators that make them up.

    Args:
        exporter: the module `tf2onnx`.
    """

    def one_like(graph: OnnxGraph, node: OnnxNode) -> str:
        kind = exporter.utils.map_onnx_to_numpy_type(graph.get_dtype(node.input[0]))
        name = exporter.utils.make_name(f"{node.name}/one")
        return str(graph.make_const(name, np.ones((), kind)).output[0])

    def applied(graph: OnnxGraph, node: OnnxNode, operator: str, inputs: list[str]) -> str:
        made = graph.make_node(
            operator,
            inputs,
            name=exporter.utils.make_name(f"{node.name}/{operator.lower()}"),
            shapes=[graph.get_shape(node.input[0])],
            dtypes=[graph.get_dtype(node.input[0])],
        )
        return str(made.output[0])

    def become(graph: OnnxGraph, node: OnnxNode, operator: str, inputs: list[str]) -> None:
        node.type = operator
        graph.replace_inputs(node, inputs)

    # tf2onnx also passes a name and arguments, which are not needed here.
    def erfc(graph: OnnxGraph, node: OnnxNode, *_: object) -> None:
        error = applied(graph, node, "Erf", list(node.input))
        become(graph, node, "Sub", [one_like(graph, node), error])

    def expm1(graph: OnnxGraph, node: OnnxNode, *_: object) -> None:
        power = applied(graph, node, "Exp", list(node.input))
        become(graph, node, "Sub", [power, one_like(graph, node)])

    def log1p(graph: OnnxGraph, node: OnnxNode, *_: object) -> None:
        total = applied(graph, node, "Add", [node.input[0], one_like(graph, node)])
        become(graph, node, "Log", [total])

    return {"Erfc": (erfc, []), "Expm1": (expm1, []), "Log1p": (log1p, [])}


def _captured(tf: ModuleType, function: GraphFunction) -> dict[str, Array]:
    """The constants that a traced function takes from outside, by the name of its input for them.

    Variables are not among them: tf2onnx stores these itself.
    """
    return {
        inside.name: outside.numpy()
        for outside, inside in function.graph.captures
        if inside.dtype not in (tf.resource, tf.variant)
    }


def _check_operators(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Refuse operators of TensorFlow's own, which no runtime knows."""
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
    layers_inside = [
        name for name in map(partial(_without_number, known=ends), scopes) if name in ends
    ]
    return "/".join(layers_inside) or "/".join(scopes) or node


def _without_number(scope: str, known: Collection[str]) -> str:
    """The name of a scope's layer: without the numbers that TensorFlow appended."""
    while scope not in known and _AGAIN.search(scope):
        scope = _AGAIN.sub("", scope)
    return scope
