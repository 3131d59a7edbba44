"""What a kind of site must be able to do, and the nouns of a search for sites.

A kind of site is one way in which a file stores filters: as channels of layers, or as trees. What
differs between kinds is asked of two objects: a `Kind`, before its sites are found, and a
`SiteLayer`, for one site that was found. A new kind is a module that gives these two, and an entry
in the list in `sites`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core import filters, suite
from repairkit.graph.protos import ConstantArrays, GraphIndex

DENSE_UNITS, HEADS, MLP_UNITS = FURTHER = ("dense", "heads", "mlp")
"""Kinds of sites that must be asked for: all dense units; heads of attentions; hidden dense units,
which stand in front of an activation and another dense layer."""

# What a search finds


@dataclass(frozen=True, kw_only=True)
class SiteSearch:
    """A graph in which sites are searched, and what was asked for.

    Attributes:
        constants: of the graph.
        names: the layer name of every node.
        judged: tensors on which the judged outputs depend.
        last_layers: positions of the layers that make the outputs.
        sizes: of tensors for two images at once, as far as they are needed and known.
        include: further kinds of sites that are wanted, some of `FURTHER`.
        behind_activation: whether filters are read behind the activation that follows.
    """

    constants: ConstantArrays
    names: Sequence[str]
    judged: Collection[str]
    last_layers: Collection[int]
    sizes: Mapping[str, Sequence[int | None]]
    include: Collection[str]
    behind_activation: bool

    @property
    def index(self) -> GraphIndex:
        return self.constants.index

    @property
    def ranks(self) -> Mapping[str, int]:
        """The rank of tensors, as far as it is known."""
        return {name: len(sizes) for name, sizes in self.sizes.items()}


class SiteLayer(Protocol):
    """The layer of one site: where the file stores its filters, and what that makes possible."""

    @property
    def site(self) -> filters.Site: ...

    @property
    def tensors(self) -> set[str]:
        """The tensors that the layer's nodes read and that baking may replace."""

    @property
    def is_exact(self) -> bool:
        """Whether a frozen filter yields its constant to the last bit."""

    def bias_levels(self) -> suite.Array:
        """What the filters yield for a response of zero, in the site's `level_shape`."""

    def nearest(self, levels: suite.Array) -> suite.Array:
        """The levels nearest to those wanted at which baking can freeze the filters exactly.

        Raises:
            ModelError: a level cannot be stored at all.
        """

    def norms(self) -> NDArray[np.float64]:
        """The L2 norm of the numbers that each filter has in the file, (n_channels,)."""

    def reaches(self) -> NDArray[np.float64]:
        """How far each filter's response can move with its input, (n_channels,).

        It is the largest singular value of the filter's weights, with a row for each input channel,
        times the slope of what follows linearly: an upper bound of the channel's Lipschitz constant
        up to a factor that all filters of a layer share (Zheng et al., "Data-free backdoor removal
        based on channel Lipschitzness", ECCV 2022, section 4.2). NaN where there is no such bound.
        """

    def why_not_partly(self) -> str:
        """Why a filter can only be frozen wholly; empty where it can be frozen partly."""

    def freeze(self, frozen: Sequence[filters.FrozenFilter]) -> list[filters.Change]:
        """The changes that let filters of the site hold their constants.

        Raises:
            ModelError: a constant cannot be stored.
        """

    def holds(self, channel: int, constant: filters.Constant, /) -> bool | None:
        """Whether a filter holds a constant already; None where only baking tells."""

    def frozen_since(self, before: SiteLayer) -> list[filters.FrozenFilter]:
        """The filters that hold a constant and did not hold it in the same layer before."""

    def arithmetic(self) -> tuple[str, float] | None:
        """The tensor that the layer makes, and the multiplications for each number in it.

        None for a layer that does not multiply.
        """

    def folded(self) -> Folded | None:
        """The layer as one convolution; None where it cannot be one."""


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A layer as one 32-bit convolution, with what follows it alone folded in.

    Attributes:
        node: the position of the convolution.
        tail: positions of the nodes that are folded in.
        kernel: (n_channels, ...).
        bias: (n_channels,).
        makes_site: whether the convolution makes the site's tensor, with no activation between.
    """

    node: int
    tail: tuple[int, ...]
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    makes_site: bool


@dataclass(frozen=True)
class LeftOut:
    """A layer that is no site, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """The sites of a model with their layers, and the layers that are no sites."""

    constants: ConstantArrays
    layers: Mapping[str, SiteLayer]
    left_out: tuple[LeftOut, ...]

    @property
    def index(self) -> GraphIndex:
        return self.constants.index

    @property
    def model(self) -> ModelProto:
        """The model that was searched."""
        return self.constants.index.model

    @cached_property
    def sites(self) -> tuple[filters.Site, ...]:
        """In the order of the graph."""
        return tuple(layer.site for layer in self.layers.values())


# What a kind is

Mask = Callable[[ModelProto, Sequence[filters.Site], filters.FilterMeans], ModelProto]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of site.

    Attributes:
        operators: the operators whose layers it knows, those included that cannot be frozen.
        find: the layer at a node of one of these operators; or the reason why it is no site; or
            None where the node is no layer of this kind after all, and the next kind is asked.
        named: the kind of its sites; empty where that is the operator.
        mask: a copy of a model with a mask input for each of some sites, whose filters yield their
            means where the mask is false.
    """

    operators: frozenset[str]
    find: Callable[[SiteSearch, int], SiteLayer | str | None]
    named: str = ""
    mask: Mask
