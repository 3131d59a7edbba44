"""The part of a model that leads to some of its tensors, as a model of its own."""

from collections.abc import Sequence

from onnx import ModelProto, helper

from repairkit.graph import protos


def cut_at(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A model that gives `tensors` and holds nothing that they do not depend on.

    Args:
        model: never modified.
        tensors: names of tensors of the main graph; they become the outputs, in this order.
    """
    index = protos.GraphIndex(model)
    needed = index.leading_to(tuple(tensors))
    result = ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if isinstance(value, int | str):
            setattr(result, field.name, value)
        else:
            getattr(result, field.name).extend(value)
    graph = result.graph
    graph.name = model.graph.name or "prefix"
    graph.node.extend(n for n in model.graph.node if any(o in needed for o in n.output if o))
    graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    graph.sparse_initializer.extend(
        t for t in model.graph.sparse_initializer if t.values.name in needed
    )
    graph.input.extend(i for i in model.graph.input if i.name in needed)
    graph.quantization_annotation.extend(
        q for q in model.graph.quantization_annotation if q.tensor_name in needed
    )
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    return result


def with_open_image(model: ModelProto, image: str) -> ModelProto:
    """A copy whose input `image` leaves every size open, and no other size is recorded.

    Whether the graph runs at another size, and means the same there, is for the caller to prove.
    """
    result = protos.copied(model)
    value = next(i for i in result.graph.input if i.name == image)
    for number, dim in enumerate(value.type.tensor_type.shape.dim):
        dim.dim_param = f"free_{number}"
    del result.graph.value_info[:]
    return result
