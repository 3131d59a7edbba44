"""Refuse a model that contradicts itself before anything is computed from it.

The checks bound the cost of reading a model: the sizes of its tensors against the bytes that are
there, its dimensions, and how large it grows when calls are replaced by the functions' nodes.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import FunctionProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from repairkit.core.errors import ModelError
from repairkit.graph import protos
from repairkit.graph.stored.tensors import is_outside, tensor_bytes

_MOST_ELEMENTS = 1 << 40
_MOST_DIMENSIONS = 64  # of an array of NumPy
_MOST_DENSE_BYTES = 1 << 30
_MOST_NODES = 1_000_000
_LAST_VERSION = 10_000
_MEND = "get the file again from where it came from, or export it anew"


def check_model(path: Path, model: ModelProto) -> None:
    """Check tensors, nodes and functions; external data must have been read.

    Raises:
        ModelError: something contradicts itself or is absurdly large; `path` opens the message.
    """
    try:
        _check_texts(model)
        _check_opsets(model)
        for tensor in protos.stored_tensors(model):
            _check_tensor(tensor)
        for sparse in protos.sparse_tensors(model):
            _check_sparse(sparse)
        _check_functions(model)
        _check_nodes(model)
        for value in (*model.graph.input, *model.graph.output):
            _check_value(value)
        for value in _inner_values(model):
            _check_type(value)
    except ModelError as error:
        raise ModelError(f"{path}: {error}; {_MEND}") from error


def _check_texts(model: ModelProto) -> None:
    """Texts must be UTF-8. Protobuf takes any bytes as text, and then gives bytes to the reader."""
    waiting: list[Message] = [model]
    while waiting:
        for field, value in waiting.pop().ListFields():
            if field.message_type is not None:
                waiting.extend((value,) if isinstance(value, Message) else value)
            elif field.type == field.TYPE_STRING and not _is_text(value):
                raise ModelError(f"it holds text that is not UTF-8, in {field.full_name}")


def _is_text(value: object) -> bool:
    try:
        texts = (value,) if isinstance(value, str | bytes) else tuple(value)  # type: ignore[arg-type]
    except UnicodeDecodeError:
        return False
    return all(isinstance(text, str) for text in texts)


def _check_opsets(model: ModelProto) -> None:
    groups = (model.opset_import, *(f.opset_import for f in model.functions))
    versions = [o.version for group in groups for o in group]
    if not all(0 <= version <= _LAST_VERSION for version in (*versions, model.ir_version)):
        raise ModelError("it names versions of ONNX that cannot be")


def _check_tensor(tensor: TensorProto) -> None:
    name = tensor.name or "without a name"
    if is_outside(tensor):  # then it was measured against its file
        return
    if tensor.HasField("segment") or tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"the tensor {name!r} is not stored in the model or its data files")
    n_elements = math.prod(max(size, 1) for size in tensor.dims)
    if n_elements > _MOST_ELEMENTS or len(tensor.dims) > _MOST_DIMENSIONS:
        raise ModelError(f"the tensor {name!r} has absurd dimensions ({_shape(tensor)})")
    needed = tensor_bytes(tensor)
    if tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
        held, unit = len(tensor.raw_data), "bytes"
    else:
        needed, unit = _entries(tensor, needed), "values"
        held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    if held != needed:
        raise ModelError(
            f"the tensor {name!r} of shape {_shape(tensor)} needs {needed} {unit} and the file "
            f"holds {held}"
        )


def _entries(tensor: TensorProto, n_bytes: int) -> int:
    """How many values the typed field of a tensor must hold."""
    count = math.prod(tensor.dims)
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    packed = tensor.data_type != TensorProto.STRING and n_bytes < count * dtype.itemsize
    # Six bits are packed as raw bytes alone.
    six = TensorProto.DataType.Name(tensor.data_type).startswith("FLOAT6")
    return n_bytes if packed and not six else count


def _shape(tensor: TensorProto) -> str:
    shown = " x ".join(str(size) for size in tensor.dims[:8])
    return shown + (" x ..." if len(tensor.dims) > 8 else "") or "a single number"


def _check_sparse(sparse: SparseTensorProto) -> None:
    dense = TensorProto(data_type=sparse.values.data_type, dims=sparse.dims)
    if tensor_bytes(dense) > _MOST_DENSE_BYTES:
        raise ModelError(
            f"the sparse tensor {sparse.values.name!r} has absurd dimensions ({_shape(dense)})"
        )


def _inner_values(model: ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """The types given for tensors inside the graph, and inside the graphs in its nodes."""
    yield from model.graph.value_info
    for node in protos.all_nodes(model.graph):
        for body in protos.subgraphs(node):
            yield from (*body.input, *body.output, *body.value_info)


def _check_type(value: onnx.ValueInfoProto, *, known: bool = False) -> None:
    """Refuse a type that does not exist, and a missing type where it must be `known`."""
    kind = value.type.tensor_type.elem_type
    if kind not in TensorProto.DataType.values() or (known and kind == 0):
        raise ModelError(f"{value.name!r} is of no type that repairkit knows ({kind})")


def _check_value(value: onnx.ValueInfoProto) -> None:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return
    _check_type(value, known=True)
    sizes = [d.dim_value for d in kind.shape.dim]  # those below one are open
    too_many = len(sizes) > _MOST_DIMENSIONS
    if too_many or math.prod(max(s, 1) for s in sizes) > _MOST_ELEMENTS:
        raise ModelError(f"{value.name!r} has absurd dimensions ({sizes[:8]})")


def _check_nodes(model: ModelProto) -> None:
    _check_each(protos.all_nodes(model.graph), model.opset_import, model.ir_version)
    for function in model.functions:
        _check_each(list(function.node), function.opset_import, model.ir_version, free=True)


def _check_each(
    nodes: list[NodeProto], opsets: object, ir_version: int, *, free: bool = False
) -> None:
    """Hold each node against its operator's definition, as ONNX Runtime does.

    Nodes with a body inside are not checked: that would need the names around them. Nor are
    operators that onnx does not know, because a runtime may know them.
    """
    context = onnx.checker.C.CheckerContext()
    context.ir_version = ir_version
    context.opset_imports = {o.domain: o.version for o in opsets}  # type: ignore[attr-defined]
    for node in nodes:
        if not node.output and not node.input:
            raise ModelError(f"the node {node.name!r} ({node.op_type}) has no inputs or outputs")
        references = free and any(a.ref_attr_name for a in node.attribute)
        if references or protos.subgraphs(node):
            continue
        try:
            onnx.checker.check_node(node, context)
        except onnx.checker.ValidationError as error:
            line = (str(error).strip().splitlines() or ["it is not valid"])[0]
            if "No Op registered" in line:
                continue
            raise ModelError(
                f"the node {node.name or next(iter(node.output), '')!r} ({node.op_type}) is not "
                f"valid: {line}"
            ) from error


def _check_functions(model: ModelProto) -> None:
    """Functions must not call themselves, nor grow beyond a limit when they are inlined."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    for start in functions:
        _measure(start, functions, sizes)
    nodes = protos.all_nodes(model.graph)
    total = sum(sizes.get((n.domain, n.op_type), 1) for n in nodes)
    if total > _MOST_NODES:
        raise ModelError(f"its functions grow to {total} nodes, over {_MOST_NODES}")


def _measure(
    start: tuple[str, str],
    functions: dict[tuple[str, str], FunctionProto],
    sizes: dict[tuple[str, str], int],
) -> None:
    open_calls: set[tuple[str, str]] = set()
    waiting = [start]
    while waiting:
        key = waiting[-1]
        if key in sizes:
            open_calls.discard(waiting.pop())
            continue
        inner = [n for node in functions[key].node for n in (node, *protos.inner_nodes(node))]
        calls = [(n.domain, n.op_type) for n in inner]
        missing = [c for c in dict.fromkeys(calls) if c in functions and c not in sizes]
        if not missing:
            sizes[key] = sum(sizes.get(call, 1) for call in calls)
            continue
        open_calls.add(key)
        if open_calls.intersection(missing):
            raise ModelError(f"the function {key[1]!r} calls itself")
        waiting.extend(missing)
