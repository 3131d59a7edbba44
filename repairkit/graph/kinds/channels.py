"""Sites whose filters are channels: layers on floats, and layers on integer codes.

A frozen filter has a kernel of zero (codes: at the zero point) and its bias at the wanted constant.
Behind a `BatchNormalization` it also gets scale zero, so that the convolution's output is ignored.
With a bias `Add`, the constant stands there, and the convolution's own bias is zero. A filter that
is frozen partly keeps a share of its kernel, `gain`, and its bias moves towards the constant by the
rest.

An input of infinity or NaN times a kernel of zero is NaN; a patched model keeps that NaN where the
instrumented one would not. Finite inputs give the constant exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from repairkit.core import errors, filters, suite
from repairkit.graph.coalitions.masking import mask_channels
from repairkit.graph.kinds import layers
from repairkit.graph.kinds.kind import DENSE_UNITS, MLP_UNITS, Folded, Kind, SiteLayer, SiteSearch
from repairkit.graph.protos import (
    STANDARD,
    ConstantArrays,
    GraphIndex,
    float_attribute,
    is_dequantised,
)
from repairkit.graph.stored.constants import with_dense_tensors


@dataclass(frozen=True, eq=False)
class ChannelLayer:
    """A layer whose filters are the channels of its output; see `SiteLayer`."""

    site: filters.Site
    nodes: layers.LayerNodes
    constants: ConstantArrays

    @property
    def index(self) -> GraphIndex:
        return self.constants.index

    @property
    def node(self) -> NodeProto:
        return self.index.nodes[self.nodes.node]

    @property
    def kernel(self) -> suite.Array:
        return self.constants.array(self.nodes.kernel)

    @property
    def bias_slot(self) -> int | None:
        """The input at which the layer's own node reads a bias; None where it reads none."""
        slot = layers.slots_of(self.node).bias
        has_bias = slot is not None and len(self.node.input) > slot and self.node.input[slot]
        return slot if has_bias else None

    @cached_property
    def add_slot(self) -> int | None:
        """The constant input of the bias `Add`; None without one."""
        if self.nodes.add is None:
            return None
        slot = layers.addend_slot(self.index.nodes[self.nodes.add], self.index)
        assert slot is not None
        return slot

    @property
    def tensors(self) -> set[str]:
        places = (self.nodes.node, self.nodes.add, self.nodes.norm)
        read = (self.index.nodes[place] for place in places if place is not None)
        return {name for node in read for name in node.input if name}

    @property
    def is_exact(self) -> bool:
        return True

    def bias_levels(self) -> NDArray[np.float32]:
        """BatchNorm's beta, else the bias."""
        names = []
        if self.nodes.norm is not None:
            names.append(self.index.nodes[self.nodes.norm].input[2])
        else:
            if self.bias_slot is not None:
                names.append(self.node.input[self.bias_slot])
            if self.nodes.add is not None:
                names.append(self.index.nodes[self.nodes.add].input[self.add_slot or 0])
        level = np.zeros(self.site.n_channels, np.float32)
        for name in names:
            bias = self.constants.array(name).reshape(-1)
            if bias.size not in (1, self.site.n_channels):
                raise errors.ModelError(
                    f"the bias {name!r} of {self.site.name!r} has {bias.size} values for "
                    f"{self.site.n_channels} filters; export the model anew"
                )
            level = level + bias.astype(np.float32)
        return self.nodes.numbers.level(level)

    def nearest(self, levels: suite.Array) -> suite.Array:
        """A quantised bias holds multiples of its scale, and one in half precision 11 bits.

        Behind a ReLU nothing is negative.
        """
        if not np.isfinite(levels).all():
            channel = int(np.flatnonzero(~np.isfinite(levels))[0])
            raise errors.ModelError(
                f"filter {self.site.name}:{channel} yields infinity or NaN on the calibration "
                "images; check the preprocessing (scale, mean, std)"
            )
        wanted = levels.astype(np.float64)
        if self.nodes.activation is not None:
            activation = self.index.nodes[self.nodes.activation]
            wanted = np.clip(wanted, *layers.activation_bounds(activation, self.constants))
        return self.nodes.numbers.nearest(wanted, self._read_back)

    def _read_back(self, levels: NDArray[np.float64]) -> NDArray[np.float32]:
        """The levels as they are read once they are stored."""
        node, slot = self.nodes.node, 2
        if self.nodes.norm is not None:
            node = self.nodes.norm
        elif self.nodes.add is not None:
            node, slot = self.nodes.add, self.add_slot or 0
        inputs = self.index.nodes[node].input
        if len(inputs) <= slot or not inputs[slot]:
            return levels.astype(self.kernel.dtype).astype(np.float32)
        return self.constants.as_stored(inputs[slot], levels).astype(np.float32) + np.float32(0)

    def norms(self) -> NDArray[np.float64]:
        kernel = _weights(self)
        channels = range(self.site.n_channels)
        masks = (layers.kernel_mask(self.node, kernel.shape, channel) for channel in channels)
        return np.array([np.linalg.norm(kernel[mask]) for mask in masks])

    def reaches(self) -> NDArray[np.float64]:
        """See `SiteLayer`; the scale of a normalisation that follows counts."""
        kernel = _weights(self)
        slopes = np.ones(self.site.n_channels)
        if self.nodes.norm is not None:
            norm = self.index.nodes[self.nodes.norm]
            gamma, variance = (
                self.constants.array(norm.input[slot]).astype(np.float64) for slot in (1, 4)
            )
            slopes = np.abs(gamma) / np.sqrt(variance + float_attribute(norm, "epsilon", 1e-5))
        rows = (layers.rows_of(self.node, kernel, c) for c in range(self.site.n_channels))
        stretch = np.array([np.linalg.norm(weights, 2) for weights in rows], np.float64)
        return np.asarray(slopes * stretch)

    def why_not_partly(self) -> str:
        if not self.nodes.numbers.scalable or is_dequantised(self.index, self.nodes.kernel):
            return "their numbers are integer codes, which cannot be scaled exactly"
        if self.nodes.activation is not None:
            return "an activation stands between the layer's numbers and the filters"
        return ""

    def freeze(self, frozen: Sequence[filters.FrozenFilter]) -> list[filters.Change]:
        frozen = sorted(frozen, key=lambda f: f.filter.channel)
        channels = np.array([f.filter.channel for f in frozen])
        every = np.zeros(self.nodes.n_channels)
        every[channels] = [f.constant for f in frozen]
        levels = self.nodes.numbers.bias(every)[channels]
        gains = np.array([f.gain for f in frozen])
        moved = np.where(gains > 0, (1 - gains) * levels, levels)
        return _Freezing(self, channels, gains, moved).changes()

    def holds(self, channel: int, _constant: filters.Constant, /) -> bool | None:
        kernel = self.kernel
        return False if kernel[layers.kernel_mask(self.node, kernel.shape, channel)].any() else None

    def frozen_since(self, before: SiteLayer) -> list[filters.FrozenFilter]:
        assert isinstance(before, ChannelLayer)  # an equal site is of the same kind
        return _frozen_since(before, self)

    def arithmetic(self) -> tuple[str, float]:
        return str(self.node.output[0]), self.kernel.size / self.site.n_channels

    def folded(self) -> Folded | None:
        nodes = self.nodes
        plain = nodes.kind == "Conv" and nodes.dtype == "float32" and nodes.rank == 4
        coded = any(is_dequantised(self.index, name) for name in self.node.input if name)
        return _fold(self) if plain and not coded else None


def _weights(layer: ChannelLayer) -> NDArray[np.float64]:
    """The kernel as the numbers that its codes stand for."""
    codes = layer.kernel.astype(np.float64)
    rest = layers.kernel_rest(layer.node, layer.constants)
    return np.asarray((codes - rest) * layers.kernel_scale(layer.node, layer.constants))


# Freezing


@dataclass(frozen=True)
class _Freezing:
    """Channels of a layer: the share of its numbers that each keeps, and what its bias gains."""

    layer: ChannelLayer
    channels: NDArray[np.intp]
    gains: NDArray[np.float64]
    moved: NDArray[np.float64]

    def changes(self) -> list[filters.Change]:
        nodes, bias_slot = self.layer.nodes, self.layer.bias_slot
        if nodes.norm is not None:
            places = [(nodes.norm, 1, "scale"), (nodes.norm, 2, "bias")]
        elif nodes.add is not None:
            places = [(nodes.add, self.layer.add_slot or 0, "bias")]
            places += [] if bias_slot is None else [(nodes.node, bias_slot, "own_bias")]
        elif bias_slot is not None:
            places = [(nodes.node, bias_slot, "bias")]
        else:
            return [*self._kernel(), self._added_bias()]
        return [*self._kernel(), *(self._kept(*place) for place in places)]

    def _kernel(self) -> list[filters.TensorChange]:
        """A normalisation scales its whole input, so that a channel kept in part keeps its kernel.

        Otherwise the kernel is scaled.
        """
        layer, kernel = self.layer, self.layer.kernel
        gone, partly = np.zeros(kernel.shape, bool), self.gains.any()
        kept = np.zeros(kernel.shape if partly else 0)  # as large as the kernel, in 64 bits
        for channel, gain in zip(self.channels.tolist(), self.gains.tolist(), strict=True):
            if gain and layer.nodes.norm is not None:
                continue
            mask = layers.kernel_mask(layer.node, kernel.shape, channel)
            gone |= mask
            if gain:
                kept[mask] = gain
        if not gone.any():
            return []
        rest = layers.kernel_rest(layer.node, layer.constants)
        values = np.broadcast_to(rest, kernel.shape)[gone]
        if partly:
            scaled = kept[gone] > 0
            values = np.where(scaled, kept[gone] * kernel[gone].astype(np.float64), values)
        return [
            filters.TensorChange(
                node=layer.nodes.node,
                slot=layers.slots_of(layer.node).kernel,
                positions=np.flatnonzero(gone),
                values=values,
                clone=f"{layer.site.name}/kernel",
            )
        ]

    def _kept(self, node: int, slot: int, what: str) -> filters.TensorChange:
        """What is kept of the numbers of these channels at an input of a node.

        A `bias` also gains its share of the constant.
        """
        layer = self.layer
        numbers = layer.constants.array(layer.index.nodes[node].input[slot])
        flat = np.broadcast_to(numbers.reshape(-1), (layer.nodes.n_channels,))
        some = self.gains > 0  # where nothing is kept, the number may be infinite
        kept = np.zeros(len(self.channels))
        kept[some] = self.gains[some] * flat[self.channels][some].astype(np.float64)
        return filters.TensorChange(
            node=node,
            slot=slot,
            positions=self.channels,
            values=self.moved + kept if what == "bias" else kept,
            clone=f"{layer.site.name}/{what}",
        )

    def _added_bias(self) -> filters.AddedTensor:
        nodes = self.layer.nodes
        bias = np.zeros(nodes.n_channels, nodes.numbers.bias_type or self.layer.kernel.dtype)
        bias[self.channels] = self.moved
        slot, name = layers.slots_of(self.layer.node).bias or 0, f"{self.layer.site.name}/bias"
        return filters.AddedTensor(node=nodes.node, slot=slot, array=bias, name=name)


# What was frozen


def _frozen_since(before: ChannelLayer, after: ChannelLayer) -> list[filters.FrozenFilter]:
    old, new = _reading(before), _reading(after)
    if old[0].shape != new[0].shape:
        return []
    levels = after.nodes.numbers.held(after.bias_levels().astype(np.float64)).astype(np.float32)
    frozen = []
    for channel in range(after.site.n_channels):
        mask = layers.kernel_mask(after.node, new[0].shape, channel)
        if new[0][mask].any() or (new[1] is not None and new[1][channel] != 0):
            continue
        alike = old[0][mask].tobytes() == new[0][mask].tobytes()
        for a, b in zip(old[1:], new[1:], strict=True):
            alike &= a is None or b is None or a[channel].tobytes() == b[channel].tobytes()
        if not alike:
            frozen.append(
                filters.FrozenFilter(
                    filters.Filter(after.site.name, channel), float(levels[channel])
                )
            )
    return frozen


def _reading(layer: ChannelLayer) -> tuple[suite.Array, suite.Array | None, NDArray[np.float32]]:
    """Kernel, scale of the normalisation if there is one, and bias; the last two per channel."""
    kernel, constants = layer.kernel, layer.constants
    rest = layers.kernel_rest(layer.node, constants)
    kernel = kernel - rest if rest.any() else kernel
    scale = None
    if layer.nodes.norm is not None:
        scale = constants.array(layer.index.nodes[layer.nodes.norm].input[1]).reshape(-1)
    return kernel, scale, layer.bias_levels()


# Folding


def _fold(layer: ChannelLayer) -> Folded:
    """Computed in 64 bits."""
    constants, nodes = layer.constants, layer.nodes
    kernel = layer.kernel.astype(np.float64)
    bias = np.zeros(nodes.n_channels)
    if layer.bias_slot is not None:
        stored = constants.array(layer.node.input[layer.bias_slot])
        bias = bias + stored.reshape(-1).astype(np.float64)
    if nodes.add is not None:
        added = layer.index.nodes[nodes.add].input[layer.add_slot or 0]
        bias = bias + constants.array(added).reshape(-1)
    if nodes.norm is not None:
        norm = layer.index.nodes[nodes.norm]
        gamma, beta, mean, variance = (
            constants.array(name).astype(np.float64) for name in norm.input[1:5]
        )
        scale = gamma / np.sqrt(variance + float_attribute(norm, "epsilon", 1e-5))
        kernel = kernel * scale[:, None, None, None]
        bias = (bias - mean) * scale + beta
    tail = tuple(place for place in (nodes.add, nodes.norm) if place is not None)
    return Folded(
        node=nodes.node,
        tail=tail,
        kernel=kernel.astype(np.float32),
        bias=bias.astype(np.float32),
        makes_site=nodes.activation is None,
    )


# Finding


def _find(search: SiteSearch, position: int) -> ChannelLayer | str:
    reason = _why_not(search, position)
    if position in search.last_layers:
        reason = "it makes the model's output"
    if reason:
        return reason
    return layer_at(search, position)


def layer_at(search: SiteSearch, position: int) -> ChannelLayer | str:
    """The layer at a node wherever it stands, or why its filters cannot be frozen."""
    nodes = layers.read_layer(
        position, search.constants, search.ranks, behind_activation=search.behind_activation
    )
    if isinstance(nodes, str):
        return nodes
    site = filters.Site(
        name=search.names[position],
        kind=nodes.kind,
        tensor=nodes.tensor(search.index),
        node=search.index.nodes[position].name,
        channel_axis=nodes.channel_axis,
        n_channels=nodes.n_channels,
        rank=nodes.rank,
        dtype=nodes.dtype,
        scale=nodes.numbers.scale,
        zero=nodes.numbers.zero,
    )
    return ChannelLayer(site, nodes, search.constants)


def _why_not(search: SiteSearch, position: int) -> str:
    """Why a layer is no site, as far as its place in the graph tells; empty where it may be one."""
    node, index = search.index.nodes[position], search.index
    if node.domain not in STANDARD:
        return f"{node.domain}.{node.op_type} is not an operator of the ONNX standard"
    if not any(o in index.fed for o in node.output):
        return "it does not depend on the image"
    if not any(o in search.judged for o in node.output):
        return "it does not lead to the output that is judged"
    if node.op_type in layers.DENSE and DENSE_UNITS not in search.include:
        if all(name in index.fed for name in node.input[:2]):
            return "a product of two activations has no filters"
        if MLP_UNITS not in search.include:
            return "dense units are sites only with --include dense"
        if not layers.is_hidden(position, index):
            return "no activation and no further dense layer follows, so it is no hidden layer"
    return ""


def _mask(
    model: ModelProto, sites: Sequence[filters.Site], means: filters.FilterMeans
) -> ModelProto:
    return mask_channels(with_dense_tensors(model), sites, means)


CHANNELS = Kind(operators=frozenset({*layers.ON_FLOATS, *layers.ON_CODES}), find=_find, mask=_mask)
