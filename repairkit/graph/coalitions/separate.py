"""Give every site a kernel and a bias of its own, or a mask: the copy that engines work on.

In weight space an absent filter is a kernel of zero and a bias at its level, as in baking, which
leaves the graph as fast as the original. For that the bias `Add` and the `BatchNormalization`
behind a layer are folded into its convolution here, under names that belong to one site alone. A
site for which this is not understood keeps its layer and gets the `Where` of `instrument`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Site
from repairkit.graph.coalitions.instrument import instrument, mask_name
from repairkit.graph.index import GraphIndex, attribute
from repairkit.graph.kinds.layers import Layer, addend_slot, is_dequantised
from repairkit.graph.kinds.sites import Survey
from repairkit.graph.stored.outside import folder_of
from repairkit.graph.stored.sparse import with_dense_tensors

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Separated:
    """The working copy: its only output is the one that is judged.

    `kernels` and `biases` hold the sites in weight space, by site name, as trained; their
    initializers are `kernel_name` and `bias_name`. The sites of `masked` have mask inputs.
    """

    model: ModelProto
    kernels: dict[str, Floats]
    biases: dict[str, Floats]
    masked: tuple[Site, ...]


def kernel_name(site: str) -> str:
    """The initializer that holds the kernel of a site in weight space."""
    return f"{site}/separate_kernel"


def bias_name(site: str) -> str:
    """The initializer that holds the bias of a site in weight space."""
    return f"{site}/separate_bias"


def separate(
    found: Survey,
    sites: tuple[Site, ...],
    means: FilterMeans,
    *,
    output: str,
    weight_space: bool = True,
) -> Separated:
    """A working copy of a model for the coalitions of `sites`.

    Args:
        found: the survey of the model; never modified.
        sites: the sites of the game.
        means: levels of absent filters, for the sites that need a mask.
        output: the output that is judged.
        weight_space: if false, every site gets a mask.

    Raises:
        ModelError: the weights are kept outside of memory.
    """
    if folder_of(found.index.model) is not None:
        raise ModelError("the model's weights are too large to be folded and kept in memory")
    model = ModelProto()
    model.CopyFrom(with_dense_tensors(found.index.model))
    wanted = {site.name for site in sites}
    kernels: dict[str, Floats] = {}
    biases: dict[str, Floats] = {}
    gone: set[int] = set()
    for site in found.sites:
        layer = found.layers[site.name]
        if not weight_space or not _foldable(found, layer, in_game=site.name in wanted):
            continue
        kernel, bias = _folded(found, layer)
        _rewrite(model, found, layer, site, gone)
        stored = [(kernel, kernel_name(site.name)), (bias, bias_name(site.name))]
        model.graph.initializer.extend(numpy_helper.from_array(a, name) for a, name in stored)
        if site.name in wanted:
            kernels[site.name], biases[site.name] = kernel, bias
    _tidy(model, gone, output)
    masked = tuple(site for site in sites if site.name not in kernels)
    if masked:
        model = instrument(model, masked, means)
        assert all(mask_name(site) in {i.name for i in model.graph.input} for site in masked)
    return Separated(model, kernels, biases, masked)


def _foldable(found: Survey, layer: Layer, *, in_game: bool) -> bool:
    """Whether a layer is a plain 32-bit convolution of floats."""
    if layer.kind != "Conv" or layer.dtype != "float32" or layer.rank != 4:
        return False
    if in_game and layer.activation is not None:
        return False
    index = found.index
    node = index.nodes[layer.node]
    return not any(is_dequantised(index, name) for name in node.input if name)


def _folded(found: Survey, layer: Layer) -> tuple[Floats, Floats]:
    """Kernel and bias that do the work of the layer and what follows it alone; 64-bit inside."""
    constants, nodes = found.constants, found.index.nodes
    node = nodes[layer.node]
    kernel = constants.array(layer.kernel).astype(np.float64)
    bias = np.zeros(layer.n_channels)
    if len(node.input) > 2 and node.input[2]:
        bias = bias + constants.array(node.input[2]).reshape(-1).astype(np.float64)
    if layer.add is not None:
        slot = addend_slot(nodes[layer.add], found.index)
        assert slot is not None
        bias = bias + constants.array(nodes[layer.add].input[slot]).reshape(-1)
    if layer.norm is not None:
        norm = nodes[layer.norm]
        gamma, beta, mean, variance = (
            constants.array(name).astype(np.float64) for name in norm.input[1:5]
        )
        scale = gamma / np.sqrt(variance + _epsilon(norm))
        kernel = kernel * scale[:, None, None, None]
        bias = (bias - mean) * scale + beta
    return kernel.astype(np.float32), bias.astype(np.float32)


def _epsilon(norm: NodeProto) -> float:
    found = attribute(norm, "epsilon")
    return 1e-5 if found is None else float(found.f)


def _rewrite(model: ModelProto, found: Survey, layer: Layer, site: Site, gone: set[int]) -> None:
    """Let the convolution itself make the site's tensor."""
    node = model.graph.node[layer.node]
    inputs = [node.input[0], kernel_name(site.name), bias_name(site.name)]
    tail = [position for position in (layer.add, layer.norm) if position is not None]
    made = found.index.nodes[tail[-1]].output[0] if tail else node.output[0]
    del node.input[:]
    node.input.extend(inputs)
    node.output[0] = made
    gone.update(tail)


def _tidy(model: ModelProto, gone: set[int], output: str) -> None:
    """Drop folded nodes, other outputs, and initializers that nobody reads or that are inputs."""
    graph = model.graph
    outputs = [o for o in graph.output if o.name == output]
    index = GraphIndex(model)
    needed = index.leading_to((output,))
    nodes = [
        node
        for position, node in enumerate(index.nodes)
        if position not in gone and any(o in needed for o in node.output)
    ]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [i for i in graph.input if i.name not in stored]
    read = needed | {output}
    kept = [tensor for name, tensor in stored.items() if name in read]
    # What is taken out of a graph is gone with it: extend a new one, which copies.
    tidy = GraphProto(name=graph.name, value_info=graph.value_info)
    tidy.node.extend(nodes)
    tidy.output.extend(outputs)
    tidy.input.extend(inputs)
    tidy.initializer.extend(kept)
    model.graph.CopyFrom(tidy)
    # An initializer that is no input needs version 4, and only then counts as constant.
    model.ir_version = max(model.ir_version, 4)
