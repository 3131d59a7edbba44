"""What differs between the tensors that two graphs store; the entries of a comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto

from repairkit.jobs.diff.graph_view import Stored
from repairkit.jobs.diff.matching import Side
from repairkit.jobs.diff.tensor_numbers import compare_numbers

_LAST_AXIS = {"MatMul", "MatMulInteger", "QLinearMatMul"}

Readings = dict[tuple[str, str], list[tuple[str, int | None]]]
"""A tensor of each graph to the nodes that read both, with the axis of the channels there."""

KINDS = (
    "nodes_changed", "nodes_added", "nodes_removed", "nodes_renamed", "values_renamed", "order",
    "tensors_changed", "tensors_added", "tensors_removed", "tensors_renamed", "tensors_moved",
    "trees", "functions",
)  # fmt: skip
"""Names of the lists of `Entries.lists`."""


@dataclass(frozen=True, eq=False)
class Entries:
    """What differs, an entry as JSON has it for each difference, in lists by kind."""

    lists: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {name: [] for name in KINDS}
    )

    def add(self, kind: str, where: str, **facts: Any) -> None:
        """Add an entry; `where` names a body or a function, and is empty in the main graph."""
        self.lists[kind].append({"where": where, **facts})


@dataclass(frozen=True, eq=False)
class TwoGraphs:
    """Two graphs, and values of the one to the same ones of the other."""

    a: Side
    b: Side
    values: Mapping[str, str]
    where: str

    def is_same(self, ours: str, theirs: str) -> bool:
        """Whether two values are the same, or are computed alike."""
        if self.values.get(ours, None if ours else "") == theirs:
            return True
        known = self.a.digests.values.get(ours), self.b.digests.values.get(theirs)
        if known[0] is not None and known[0] == known[1]:
            return True
        return ours in self.a.view.stored and theirs in self.b.view.stored


def compare_stored(pair: TwoGraphs, read: Readings, entries: Entries) -> int:
    """Compare the tensors of two graphs; returns how many hold the same numbers.

    Args:
        pair: the graphs.
        read: the pairs of tensors that nodes of both graphs read.
        entries: gets an entry for each difference.
    """
    n_same = 0
    pairs = dict(read)
    ours = [n for n in pair.a.view.stored if n not in {x for x, _ in pairs}]
    theirs = [n for n in pair.b.view.stored if n not in {y for _, y in pairs}]
    for x, y in _unread(pair, ours, theirs):
        pairs[x, y] = []
    used_a, used_b = {x for x, _ in pairs}, {y for _, y in pairs}
    for (x, y), readers in pairs.items():
        n_same += _compare(pair, (pair.a.view.stored[x], pair.b.view.stored[y]), readers, entries)
    for kind, view, used in (
        ("tensors_removed", pair.a.view, used_a),
        ("tensors_added", pair.b.view, used_b),
    ):
        for name, tensor in view.stored.items():
            if name not in used:
                facts = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
                entries.add(kind, pair.where, name=name, **facts)
    return n_same


def _compare(
    pair: TwoGraphs,
    both: tuple[Stored, Stored],
    readers: Sequence[tuple[str, int | None]],
    entries: Entries,
) -> bool:
    """Whether two tensors hold the same numbers; an entry says how they differ."""
    a, b = both
    names = {"a": a.name, "b": b.name}
    if a.digest == b.digest:
        if a.name != b.name and a.name not in pair.b.view.stored:
            entries.add("tensors_renamed", pair.where, **names)
        if a.kind != b.kind:
            entries.add("tensors_moved", pair.where, **names, places=[a.kind, b.kind])
        return True
    axis = next((axis for _, axis in readers if axis is not None), 0)
    numbers = compare_numbers(a, b, axis)
    entries.add(
        "tensors_changed",
        pair.where,
        **names,
        read_by=[name for name, _ in readers],
        dtype=[a.dtype, b.dtype],
        shape=[list(a.shape), list(b.shape)],
        channel_axis=axis,
        **({} if numbers is None else numbers.to_json()),
    )
    return False


def _unread(pair: TwoGraphs, ours: list[str], theirs: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of tensors that no paired nodes read: by name, then by content."""
    named = [n for n in {**dict.fromkeys(ours), **dict.fromkeys(theirs)} if in_both(pair, n)]
    yield from ((name, name) for name in named)
    contents: dict[str, list[str]] = defaultdict(list)
    for name in theirs:
        if name not in named:
            contents[pair.b.view.stored[name].digest].append(name)
    for name in ours:
        alike = [] if name in named else contents[pair.a.view.stored[name].digest]
        if alike:
            yield name, alike.pop(0)


def in_both(pair: TwoGraphs, name: str) -> bool:
    """Whether both graphs store a tensor of that name."""
    return name in pair.a.view.stored and name in pair.b.view.stored


def channel_axis(node: NodeProto, slot: int, tensor: Stored) -> int | None:
    """The axis of a tensor along which a layer has its channels; None where it is not known."""
    operator, rank = node.op_type, len(tensor.shape)
    if operator == "ConvTranspose" and slot == 1:
        return 1 if rank > 1 else 0
    if operator == "Gemm" and slot == 1 and rank == 2:
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        return 0 if turned else 1
    if operator in _LAST_AXIS and rank > 0:
        return rank - 1
    if operator in ("Add", "Sub", "Mul", "Div") and rank > 1:
        return max(range(rank), key=lambda axis: tensor.shape[axis])
    return 0 if rank else None
