"""A traced TensorFlow function as ONNX, by tf2onnx."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from repairkit.core.errors import ExportError
from repairkit_adapters.keras_folding import fold_normalisations
from repairkit_adapters.keras_runtime import Runtime, load_exporter, quiet, told

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
        # It numbers what it inserts through all of a process; one model is to give one file.
        exporter.utils.INTERNAL_NAME = 1
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
    path.write_bytes(model.SerializeToString())


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
