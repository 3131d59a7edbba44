"""A model for images of another size, where its nodes do not depend on the size.

Whether they do is for the runtime to say, on an image: see `node_in`.
"""

import re

from onnx import ModelProto

from repairkit.graph.protos import copied

_RUNNING = re.compile(r"running (\w+) node\. Name:'([^']*)'")
_LOADING = re.compile(r"Node \(([^)]*)\) Op \((\w+)\)")


def with_image_size(
    model: ModelProto, image: str, axes: tuple[int, int], size: tuple[int, int]
) -> ModelProto:
    """The model with an input of another size; sizes of tensors inside are no longer declared.

    Args:
        model: never modified.
        image: the name of the image input.
        axes: of its height and its width, batch axis included.
        size: (height, width) in pixels.
    """
    result = copied(model)
    del result.graph.value_info[:]
    for value in result.graph.input:
        if value.name == image:
            for axis, pixels in zip(axes, size, strict=True):
                value.type.tensor_type.shape.dim[axis].dim_value = pixels
    return result


def node_in(complaint: str) -> str:
    """The node that the runtime names in a complaint, in words; empty if it names none."""
    running, loading = _RUNNING.search(complaint), _LOADING.search(complaint)
    if running:
        operator, name = running.groups()
    elif loading:
        name, operator = loading.groups()
    else:
        return ""
    return f"node {name!r} ({operator})" if name else f"a {operator} node"
