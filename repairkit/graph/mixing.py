"""Find the nodes that make an image's answer depend on the other images of its batch.

The axis of a batch's images is followed from the input through the graph, node by node. Where a
node is not understood, its outputs are followed no further, unless shape inference still sees the
batch in their shape. What the graph does not show is left to a trial on images.
"""

import onnx
from onnx import ModelProto, NodeProto

from repairkit.graph.following import Mixer, Shapes, Trace
from repairkit.graph.protos import RANDOM, GraphIndex, node_name, with_open_sizes
from repairkit.graph.stored.constants import Constants

_BATCH = "repairkit_images"
_SMALL = 4096  # bytes of a stored tensor that shape inference may need to read


def find_mixers(model: ModelProto, image: str, outputs: tuple[str, ...] = ()) -> tuple[Mixer, ...]:
    """The nodes that work over all images of a batch, in the order of the graph.

    Args:
        model: never modified.
        image: the image input, whose first axis holds the images.
        outputs: only nodes on which these depend count; all outputs if empty.
    """
    index = GraphIndex(model)
    needed = index.leading_to(outputs or index.outputs)
    trace = Trace(Constants(index), _shapes(model, image), _BATCH, {image: 0})
    for node in index.nodes:
        if any(o in needed for o in node.output):
            trace.step(node)
    return tuple(trace.mixers)


def find_random(model: ModelProto, outputs: tuple[str, ...] = ()) -> tuple[Mixer, ...]:
    """The nodes that draw random numbers in every run: random operators, and active dropout."""
    index = GraphIndex(model)
    constants = Constants(index)
    needed = index.leading_to(outputs or index.outputs)
    random = []
    for node in index.nodes:
        if not any(o in needed for o in node.output):
            continue
        if node.op_type in RANDOM:
            random.append(
                Mixer(node_name(node), node.op_type, "draws new random numbers in every run")
            )
        elif node.op_type == "Dropout" and _drops(node, constants):
            why = "is in training mode and drops other units in every run"
            random.append(Mixer(node_name(node), node.op_type, why))
    return tuple(random)


def _drops(node: NodeProto, constants: Constants) -> bool:
    """Whether a dropout is in training mode and drops anything; its ratio may be unknown."""
    training, ratio = constants.numbers(node, 2), constants.numbers(node, 1)
    if training is None or not training.reshape(-1)[0]:
        return False
    return ratio is None or float(ratio.reshape(-1)[0]) != 0


def _shapes(model: ModelProto, image: str) -> Shapes:
    """What shape inference finds, with a name for the size of the batch; empty if it fails."""
    bare = ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        kept = graph.initializer.add(name=tensor.name, data_type=tensor.data_type)
        kept.dims.extend(tensor.dims)
        if tensor.ByteSize() <= _SMALL:
            kept.CopyFrom(tensor)
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name == image and dims:
            dims[0].dim_param = _BATCH
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(with_open_sizes(bare), data_prop=True)
    except Exception:  # noqa: BLE001 (it only helps: ranks stay unknown without it)
        return {}
    shapes: Shapes = {}
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    for value in values:
        tensor_type = value.type.tensor_type
        if tensor_type.HasField("shape"):
            shapes[value.name] = [
                d.dim_value if d.HasField("dim_value") else d.dim_param or None
                for d in tensor_type.shape.dim
            ]
    for stored in model.graph.initializer:
        shapes[stored.name] = list(stored.dims)
    return shapes
