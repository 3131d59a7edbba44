"""The same graph with its 32-bit numbers in another width, and with the same inputs and outputs.

Every 32-bit tensor that depends on the image gets a twin in the other width, and every operator
that the standard defines for that width works on twins. The other operators keep 32 bits. So do
numbers computed only from shapes and constants: they may be counts, which 16 bits would round.
Casts convert where one width reads what the other made.
"""

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.graph import protos

Width = Literal["float16", "float64"]

_FLOAT = TensorProto.FLOAT
_TYPES = {"float16": "tensor(float16)", "float64": "tensor(double)"}
_SHAPES_ONLY = {"Shape", "Size"}


def recast(model: ModelProto, width: Width) -> ModelProto:
    """A copy that computes in another width; its inputs and outputs keep their types.

    Constants beyond the range of 16 bits become the largest number of that range.

    Raises:
        ModelError: the standard's shape inference fails on the model.
    """
    return _Recasting(model, width).result()


class _Recasting:
    """The copy of one model while it is written."""

    def __init__(self, model: ModelProto, width: Width) -> None:
        self._model, self._width = model, width
        self._index = protos.GraphIndex(model)
        self._floats = _float_tensors(model)
        self._live = _live_tensors(self._index)
        self._versions = {_domain(o.domain): o.version for o in model.opset_import}
        self._suffix = f"/{width}"
        while any(name + self._suffix in self._index.names for name in self._floats):
            self._suffix += "_"
        self._kind = helper.np_dtype_to_tensor_dtype(np.dtype(width))
        self._nodes: list[NodeProto] = []
        self._twins: list[TensorProto] = []
        # The names of a tensor: its original name for 32 bits, another one for the other widths.
        self._there = {*self._index.initializers, *(i.name for i in model.graph.input)}

    def result(self) -> ModelProto:
        for node in self._index.nodes:
            copy = self._moved(node)
            if copy is None:
                copy = node
                for name in (*node.input, *sorted(protos.outer_names(node))):
                    self._wide(name)
            self._there.update(copy.output)
            self._nodes.append(copy)
        for name in self._index.outputs:
            self._wide(name)
        result = protos.copied(self._model)
        graph = result.graph
        del graph.value_info[:]
        protos.refill(graph.node, self._nodes)
        read = {name for node in self._nodes for name in (*node.input, *protos.outer_names(node))}
        kept = [t for t in self._model.graph.initializer if t.name in read | {*self._index.outputs}]
        inputs = [i for i in self._model.graph.input if i.name not in self._index.initializers]
        protos.refill(graph.initializer, [*kept, *self._twins])
        protos.refill(graph.input, inputs)
        result.ir_version = max(result.ir_version, protos.DEFAULTS_SINCE)
        return result

    def _moved(self, node: NodeProto) -> NodeProto | None:
        """The node on twins; None where it must keep 32 bits."""
        if protos.subgraphs(node) or not any(name in self._live for name in node.output):
            return None
        try:
            domain = _domain(node.domain)
            schema = onnx.defs.get_schema(node.op_type, self._versions[domain], domain)
        except (KeyError, onnx.defs.SchemaError):
            return None  # the standard does not define its domain
        variables = {constraint.type_param_str for constraint in schema.type_constraints}
        moved = NodeProto()
        moved.CopyFrom(node)
        for names, formals in ((moved.input, schema.inputs), (moved.output, schema.outputs)):
            for slot, name in enumerate(names):
                formal = formals[min(slot, len(formals) - 1)]
                if name not in self._floats or formal.type_str not in variables:
                    continue
                if _TYPES[self._width] not in formal.types:
                    return None
                names[slot] = self._twin_name(name)
        for written in moved.attribute:
            if written.name in ("to", "dtype") and written.i == _FLOAT:
                written.i = self._kind
        for slot, name in enumerate(node.input):
            if name and moved.input[slot] == name:
                self._wide(name)
            elif name:
                self._narrow(name)
        return moved

    def _twin_name(self, name: str) -> str:
        return name + self._suffix

    def _narrow(self, name: str) -> None:
        """Make a tensor's twin."""
        twin = self._twin_name(name)
        if twin in self._there:
            return
        self._there.add(twin)
        if name in self._index.initializers:
            array = numpy_helper.to_array(self._index.initializers[name])
            self._twins.append(numpy_helper.from_array(_converted(array, self._width), twin))
        else:
            self._nodes.append(helper.make_node("Cast", [name], [twin], twin, to=self._kind))

    def _wide(self, name: str) -> None:
        """Make a tensor of which only the twin exists."""
        twin = self._twin_name(name)
        if name not in self._there and twin in self._there:
            self._there.add(name)
            back = f"{twin}/back"
            self._nodes.append(helper.make_node("Cast", [twin], [name], back, to=_FLOAT))


def _domain(name: str) -> str:
    """One name for the standard's domain, which has two."""
    return "" if name == "ai.onnx" else name


def _float_tensors(model: ModelProto) -> set[str]:
    """The 32-bit tensors of the main graph, as far as the standard knows."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"the types of the model's tensors cannot be inferred ({first})"
        ) from error
    values = (*graph.value_info, *graph.input, *graph.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == _FLOAT}
    return floats | {t.name for t in graph.initializer if t.data_type == _FLOAT}


def _live_tensors(index: protos.GraphIndex) -> set[str]:
    """Tensors whose numbers, and not only their shapes, depend on an input."""
    live = set(index.inputs)
    for node in index.nodes:
        reads = (*node.input, *protos.outer_names(node))
        if node.op_type not in _SHAPES_ONLY and any(name in live for name in reads):
            live.update(name for name in node.output if name)
    return live


def _converted(array: NDArray[np.float32], width: Width) -> NDArray[np.floating]:
    limits = np.finfo(width)
    finite = np.isfinite(array)
    low, high = (max(float(limits.min), -3e38), min(float(limits.max), 3e38))
    return np.where(finite, np.clip(array, low, high), array).astype(width)
