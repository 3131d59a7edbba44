"""Sites whose filters are the heads of an attention (Vaswani et al. 2017, section 3.2).

A head passes on its values, weighted by its attention: `softmax(Q K') V`. The weights of a position
sum to 1. So where all values of a head are one vector, the head yields that vector at each
position. A frozen head has a value projection of zero with the constant in its bias: one change of
stored tensors, as of a dense layer. Sums of weights differ from 1 by rounding, and so does what a
frozen head yields.

Which units of the projection are the values of which head is followed through the nodes between
them: numbers of units are moved as the nodes would move the units.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from repairkit.core import filters, suite
from repairkit.graph.kinds import layers
from repairkit.graph.kinds.kind import HEADS, Kind, Mask, SiteLayer, SiteSearch
from repairkit.graph.protos import GraphIndex, int_attribute, ints_attribute

ATTENTION_HEADS = "AttentionHeads"
"""The kind of the sites; not an operator."""
_HEAD_AXIS, _TOKEN_AXIS, _VALUE_AXIS = 1, 2, 3
_RANK = 4
_PASSING = ("Identity", "Cast", "Dropout")
_SHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
Units = NDArray[np.intp]
LayerAt = Callable[[SiteSearch, int], SiteLayer | str]


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """One attention, whose filters are its heads; see `SiteLayer`.

    Attributes:
        site: its tensor is what the heads yield, (images, heads, positions, values).
        projection: the layer that makes the values.
        units: of the projection, (n_heads, n_values).
    """

    site: filters.Site
    projection: SiteLayer
    units: Units

    @property
    def tensors(self) -> set[str]:
        return self.projection.tensors

    @property
    def is_exact(self) -> bool:
        """False: weights sum to 1 but for rounding."""
        return False

    def _by_head(self, of_units: suite.Array) -> suite.Array:
        return np.asarray(of_units[self.units])

    def _by_unit(self, of_heads: suite.Array) -> suite.Array:
        every = np.zeros(self.projection.site.n_channels, of_heads.dtype)
        every[self.units] = of_heads
        return every

    def bias_levels(self) -> suite.Array:
        """The bias of the projection."""
        return self._by_head(self.projection.bias_levels())

    def nearest(self, levels: suite.Array) -> suite.Array:
        """As of the projection."""
        return self._by_head(self.projection.nearest(self._by_unit(levels)))

    def reaches(self) -> NDArray[np.float64]:
        """See `SiteLayer`: what a head yields depends on all tokens by a softmax."""
        return np.full(self.site.n_channels, np.nan)

    def norms(self) -> NDArray[np.float64]:
        squares = self._by_head(self.projection.norms()) ** 2
        return np.asarray(np.sqrt(squares.sum(axis=1)))

    def why_not_partly(self) -> str:
        return "a head yields many numbers, and they are frozen together"

    def freeze(self, frozen: Sequence[filters.FrozenFilter]) -> list[filters.Change]:
        return self.projection.freeze(
            [
                filters.FrozenFilter(filters.Filter(self.projection.site.name, unit), number)
                for each in frozen
                for unit, number in zip(
                    self.units[each.filter.channel].tolist(),
                    np.atleast_1d(each.constant).tolist(),
                    strict=True,
                )
            ]
        )

    def holds(self, channel: int, constant: filters.Constant, /) -> bool | None:
        numbers = np.atleast_1d(constant).tolist()
        units = zip(self.units[channel].tolist(), numbers, strict=True)
        held = [self.projection.holds(unit, number) for unit, number in units]
        return False if False in held else None if None in held else True

    def frozen_since(self, before: SiteLayer) -> list[filters.FrozenFilter]:
        assert isinstance(before, AttentionLayer)  # an equal site is of the same kind
        now = {f.filter.channel: f for f in self.projection.frozen_since(before.projection)}
        return [
            filters.FrozenFilter(
                filters.Filter(self.site.name, head),
                filters.constant_of([now[unit].constant for unit in units]),
            )
            for head, units in enumerate(self.units.tolist())
            if now.keys() >= set(units)
        ]

    def arithmetic(self) -> None:
        """None: what a head multiplies depends on the number of positions."""

    def folded(self) -> None:
        """None: an attention is no convolution."""


# Finding


def attentions(layer_at: LayerAt, mask: Mask) -> Kind:
    """The kind whose filters are heads.

    Args:
        layer_at: the dense layer at a node, or why its units cannot be frozen.
        mask: of sites that lie in their tensors.
    """
    find = partial(_find, layer_at=layer_at)
    return Kind(operators=frozenset({"MatMul"}), named=ATTENTION_HEADS, find=find, mask=mask)


def _find(search: SiteSearch, position: int, *, layer_at: LayerAt) -> AttentionLayer | str | None:
    """The heads whose values are summed at a node; None where they are none, or are no sites."""
    node, index = search.index.nodes[position], search.index
    if HEADS not in search.include or not _is_weighted_sum(node, index):
        return None
    if not any(o in search.judged for o in node.output):
        return "it does not lead to the output that is judged"
    tensor = str(node.output[0])
    if len(search.sizes.get(tensor, ())) != _RANK:
        return (
            "its heads are no axis of their own, or the sizes of its tensors are not known; export "
            "the model with images of a fixed size"
        )
    traced = _Tracing(search, layer_at).units(str(node.input[1]))
    if isinstance(traced, str):
        return traced
    projection, units = traced
    if units.ndim != _RANK:
        return f"its values have {units.ndim} axes; {_RANK} were expected"
    by_head = units[0, :, 0, :]
    if (units != by_head[None, :, None, :]).any() or len(np.unique(by_head)) != by_head.size:
        return "the values of a head are not units of one layer, the same at each position"
    site = filters.Site(
        name=search.names[position],
        kind=ATTENTION_HEADS,
        tensor=tensor,
        node=node.name,
        channel_axis=_HEAD_AXIS,
        n_channels=len(by_head),
        rank=_RANK,
        dtype=projection.site.dtype,
        n_values=by_head.shape[1],
        value_axis=_VALUE_AXIS,
    )
    return AttentionLayer(site, projection, by_head)


def _is_weighted_sum(node: NodeProto, index: GraphIndex) -> bool:
    """Whether a node multiplies the rows of a softmax with something."""
    if node.op_type != "MatMul" or any(name not in index.fed for name in node.input):
        return False
    weights = node.input[0]
    while weights in index.producers:
        made_by = index.nodes[index.producers[weights]]
        if made_by.op_type == "Softmax":
            return int_attribute(made_by, "axis", -1) in (-1, _RANK - 1)
        if made_by.op_type not in _PASSING:
            return False
        weights = made_by.input[0]
    return False


@dataclass(frozen=True)
class _Tracing:
    """Which unit of a dense layer each number of a tensor is."""

    search: SiteSearch
    layer_at: LayerAt

    def units(self, tensor: str) -> tuple[SiteLayer, Units] | str:
        """The layer, and an array of the tensor's shape; or why that cannot be told."""
        index = self.search.index
        if tensor not in index.producers:
            return "its values come from no dense layer"
        position = index.producers[tensor]
        node = index.nodes[position]
        layer = self._layer(tensor, position)
        if layer is not None:
            return layer if isinstance(layer, str) else self._all_units(layer, tensor)
        move = _MOVES.get(node.op_type)
        if move is None:
            return f"{node.op_type} stands between its values and their projection"
        before = self.units(str(node.input[0]))
        if isinstance(before, str):
            return before
        moved = move(self, node, before[1], tensor)
        if moved is None:
            return f"what {node.op_type} does to its values is computed at run time"
        return before[0], moved

    def _layer(self, tensor: str, position: int) -> SiteLayer | str | None:
        """The dense layer that makes a tensor, or why its units cannot be frozen."""
        index = self.search.index
        start = position
        if layers.addend_slot(index.nodes[position], index) is not None:
            fed = next(name for name in index.nodes[position].input if name in index.fed)
            start = index.producers.get(fed, position)
        if index.nodes[start].op_type not in layers.DENSE:
            return None
        layer = self.layer_at(self.search, start)
        if not isinstance(layer, str) and layer.site.tensor != tensor:
            return "its values are not all that their projection makes"
        return layer

    def _all_units(self, layer: SiteLayer, tensor: str) -> tuple[SiteLayer, Units] | str:
        shape, n_units = self.shape(tensor), layer.site.n_channels
        if shape is None or shape[-1] != n_units:
            return "the sizes of its tensors are not known; export with images of a fixed size"
        return layer, np.broadcast_to(np.arange(n_units, dtype=np.intp), shape)

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """The sizes of a tensor for a batch of a few images; None where one is not known."""
        sizes = self.search.sizes.get(tensor)
        return None if sizes is None or None in sizes else tuple(n for n in sizes if n is not None)

    def numbers(self, node: NodeProto, slot: int) -> NDArray[np.int64] | None:
        """What a node reads at `slot`, if that is constant."""
        return self.search.constants.numbers(node, slot)


def _passed(_t: _Tracing, _n: NodeProto, units: Units, _o: str) -> Units | None:
    return units


def _shaped(tracing: _Tracing, _node: NodeProto, units: Units, tensor: str) -> Units | None:
    shape = tracing.shape(tensor)
    return None if shape is None or np.prod(shape) != units.size else units.reshape(shape)


def _transposed(_t: _Tracing, node: NodeProto, units: Units, _o: str) -> Units | None:
    return units.transpose(ints_attribute(node, "perm") or None)


def _split(tracing: _Tracing, node: NodeProto, units: Units, tensor: str) -> Units | None:
    axis, start = int_attribute(node, "axis", 0), 0
    for output in node.output:
        shape = tracing.shape(output)
        if shape is None:
            return None
        if output == tensor:
            return units.take(np.arange(start, start + shape[axis]), axis)
        start += shape[axis]
    return None


def _sliced(tracing: _Tracing, node: NodeProto, units: Units, _o: str) -> Units | None:
    given = [
        tracing.numbers(node, slot) if len(node.input) > slot and node.input[slot] else None
        for slot in range(1, 5)
    ]
    starts, ends, axes, steps = (None if each is None else each.reshape(-1) for each in given)
    if starts is None or ends is None:
        return None  # also the oldest form, with attributes
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    cut = [slice(None)] * units.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[int(axis)] = slice(int(start), int(end), int(step))
    return units[tuple(cut)]


def _gathered(tracing: _Tracing, node: NodeProto, units: Units, _o: str) -> Units | None:
    indices = tracing.numbers(node, 1)
    return None if indices is None else units.take(indices, int_attribute(node, "axis", 0))


_MOVES: Mapping[str, Callable[[_Tracing, NodeProto, Units, str], Units | None]] = {
    **dict.fromkeys(_PASSING, _passed),
    **dict.fromkeys(_SHAPING, _shaped),
    "Transpose": _transposed,
    "Split": _split,
    "Slice": _sliced,
    "Gather": _gathered,
}
