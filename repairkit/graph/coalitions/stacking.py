"""Let a slice of a graph answer several coalitions in one run, one behind another in the batch."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.graph.coalitions.cones import Shape

COUNT = "stack/count"


def stack_inputs(model: ModelProto, names: tuple[str, ...], shapes: dict[str, Shape]) -> ModelProto:
    """A copy that repeats some inputs along their first axis, as often as the input `COUNT` says.

    Args:
        model: of a slice; never modified.
        names: inputs that hold one batch of images.
        shapes: of one image.

    Raises:
        ModelError: the first axis of an input is not that of the images.
    """
    result = ModelProto()
    result.CopyFrom(model)
    tiles = []
    for name in names:
        dims = shapes[name].dims
        if not dims or dims[0] != 1:
            raise ModelError(f"the first axis of {name!r} is not that of the images")
        ones, repeats, base = (f"{name}/stack_{part}" for part in ("ones", "repeats", "base"))
        once = numpy_helper.from_array(np.ones(len(dims) - 1, np.int64), ones)
        result.graph.initializer.append(once)
        tiles.append(helper.make_node("Concat", [COUNT, ones], [repeats], axis=0))
        tiles.append(helper.make_node("Tile", [base, repeats], [name]))
        next(i for i in result.graph.input if i.name == name).name = base
    nodes = list(model.graph.node)
    del result.graph.node[:]
    result.graph.node.extend([*tiles, *nodes])
    count = helper.make_tensor_value_info(
        COUNT, helper.np_dtype_to_tensor_dtype(np.dtype("i8")), [1]
    )
    result.graph.input.append(count)
    return result


def base_name(name: str) -> str:
    """What an input that is repeated is called."""
    return f"{name}/stack_base"
