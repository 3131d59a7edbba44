"""A model with random copies of layers beside its own: same inputs, the layer's numbers shuffled.

A copy reads what the layer reads, and its weights are the layer's in another order. So it is what
the layer would be if the arrangement of its numbers meant nothing, and where the layer's weights
are independent draws, as in a network that was not trained, layer and copies are exchangeable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from repairkit.core import errors
from repairkit.core.filters import Site
from repairkit.core.suite import Array
from repairkit.graph import protos
from repairkit.graph.kinds.kind import Survey


@dataclass(frozen=True, eq=False)
class RandomCopies:
    """The random copies of a layer.

    `sites` are where they are read, before any normalisation; `signs` (n_channels,) is -1 where
    what follows the layer turns the sign of a channel.
    """

    sites: tuple[Site, ...]
    signs: NDArray[np.float32]


def with_random_layers(
    survey: Survey, n_copies: Mapping[str, int], *, seed: int
) -> tuple[ModelProto, dict[str, RandomCopies]]:
    """A copy of the surveyed model, with random copies of some layers.

    Args:
        survey: of the model.
        n_copies: how many copies of each layer, by the name of its site; no ensembles of trees.
        seed: of the shuffling; each layer has a stream of its own.

    Raises:
        ModelError: a layer's weights cannot be read.
    """
    model = protos.copied(survey.model)
    names = set(survey.index.names)
    copies: dict[str, RandomCopies] = {}
    order = {name: position for position, name in enumerate(survey.layers)}
    for name, n in n_copies.items():
        site = survey.layers[name].site
        node = _node_of(survey, name)
        rng = np.random.default_rng((seed, order[name], 0x5EED))
        sites = []
        for number in range(n):
            fresh = _shuffled(survey, node, names, f"{name}/random{number}", rng)
            output = fresh[0].output[0]
            model.graph.node.append(fresh[0])
            model.graph.initializer.append(fresh[1])
            sites.append(replace(site, name=output, tensor=output))
        copies[name] = RandomCopies(tuple(sites), _signs(survey, site, node))
    return model, copies


def _node_of(survey: Survey, name: str) -> NodeProto:
    made = survey.layers[name].arithmetic()
    assert made is not None  # callers leave out trees
    return survey.index.nodes[survey.index.producers[made[0]]]


def _shuffled(
    survey: Survey, node: NodeProto, names: set[str], wanted: str, rng: np.random.Generator
) -> tuple[NodeProto, TensorProto]:
    """A copy of a node with shuffled weights, and these weights."""
    slot, weights = _weights_of(survey, node, wanted)
    kernel, output = (protos.fresh_name(f"{wanted}/{end}", names) for end in ("kernel", "out"))
    names.update((kernel, output))
    fresh = NodeProto()
    fresh.CopyFrom(node)
    fresh.name = wanted
    fresh.input[slot] = kernel
    del fresh.output[:]
    fresh.output.append(output)
    mixed = rng.permutation(weights.reshape(-1)).reshape(weights.shape)
    return fresh, numpy_helper.from_array(np.ascontiguousarray(mixed), kernel)


def _weights_of(survey: Survey, node: NodeProto, wanted: str) -> tuple[int, Array]:
    """The input slot of a node's weights, the first constant of two axes or more."""
    for slot in range(len(node.input)):
        numbers = survey.constants.numbers(node, slot)
        if numbers is not None and numbers.ndim >= 2:
            return slot, numbers
    raise errors.ModelError(f"{wanted}: the layer's weights cannot be read; leave it out (--sites)")


def _signs(survey: Survey, site: Site, layer: NodeProto) -> NDArray[np.float32]:
    """Which channels are turned over between the layer and its site, by constant factors."""
    signs = np.ones(site.n_channels, np.float32)
    index, tensor = survey.index, site.tensor
    while tensor in index.producers:
        node = index.nodes[index.producers[tensor]]
        if node is layer or list(node.output) == list(layer.output):
            break
        factors = _factors(survey, node)
        if factors is not None and factors.size in (1, site.n_channels):
            signs = signs * np.where(factors.reshape(-1) < 0, -1, 1).astype(np.float32)
        fed = [name for name in node.input if name and name not in index.constant]
        if len(fed) != 1:
            break
        tensor = fed[0]
    return signs


def _factors(survey: Survey, node: NodeProto) -> Array | None:
    if node.op_type == "BatchNormalization":
        return survey.constants.numbers(node, 1)
    if node.op_type == "Mul":
        return next(
            (n for slot in (0, 1) if (n := survey.constants.numbers(node, slot)) is not None), None
        )
    return None


def weights_count(survey: Survey, sites: Sequence[Site]) -> dict[str, int]:
    """How many weights the layer of each site has, by its name."""
    return {
        site.name: _weights_of(survey, _node_of(survey, site.name), site.name)[1].size
        for site in sites
    }
