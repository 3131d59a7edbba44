"""The instrumented model with every mask as one multiply and add, for runs of many coalitions.

`Where` with a mask row per image takes longer on a CPU than the convolutions around it. Images and
channels together are the channels of one image to `BatchNormalization`, whose scale and offset are
then those of each image's own filters: 1 and 0 where a filter is present, 0 and its level where it
is absent. Numbers come out the same but for the sign of a zero, and for infinities, which times
zero are no number.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repairkit.core.filters import Site
from repairkit.graph.coalitions.instrument import mask_name

SCALE, OFFSET, ZEROS, ONES = "scale", "offset", "zeros", "ones"


def affine_input(site: Site, what: str) -> str:
    """The name of an input of `with_affine_masks`, shape (n_images * n_channels,)."""
    return f"{mask_name(site)}/{what}"


def with_affine_masks(model: ModelProto, sites: tuple[Site, ...]) -> ModelProto | None:
    """A copy of the instrumented model with four inputs per site in place of its mask.

    `ZEROS` and `ONES` stand for what a normalisation would take away and divide by.

    Returns:
        None where a site is of another kind than 32-bit channels along axis 1.
    """
    plain = [s.dtype == "float32" and s.channel_axis == 1 and s.n_values is None for s in sites]
    if not all(plain):
        return None
    masked = {mask_name(site): site for site in sites}
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        site = masked.get(node.input[0]) if node.op_type == "Where" else None
        nodes += [node] if site is None else _affine(node, site)
    inputs = [i for i in model.graph.input if i.name not in masked]
    for site in sites:
        for what in (SCALE, OFFSET, ZEROS, ONES):
            name = affine_input(site, what)
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]))
        for shape, numbers in _shapes(site).items():
            graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), shape))
    del graph.node[:], graph.input[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    return result


def _shapes(site: Site) -> dict[str, list[int]]:
    """Shapes to reshape to by name; 0 keeps an axis."""
    rest = [0] * (site.rank - 2)
    together, apart = _names(site)
    return {together: [1, -1, *rest], apart: [-1, site.n_channels, *rest]}


def _names(site: Site) -> tuple[str, str]:
    return f"{mask_name(site)}/together", f"{mask_name(site)}/apart"


def _affine(node: NodeProto, site: Site) -> list[NodeProto]:
    together, apart = _names(site)
    joined, masked = (f"{mask_name(site)}/{what}" for what in ("joined", "masked"))
    facts = [affine_input(site, what) for what in (SCALE, OFFSET, ZEROS, ONES)]
    return [
        helper.make_node("Reshape", [node.input[1], together], [joined], f"{joined}/Reshape"),
        helper.make_node(
            "BatchNormalization", [joined, *facts], [masked], f"{masked}/Affine", epsilon=0.0
        ),
        helper.make_node("Reshape", [masked, apart], [node.output[0]], node.name),
    ]
