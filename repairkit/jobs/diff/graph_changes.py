"""What differs between two graphs, node by node and tensor by tensor, bodies and functions too."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper

from repairkit.core.process.stages import Tell
from repairkit.graph.kinds.ensembles import is_ensemble
from repairkit.graph.stored import tensors
from repairkit.jobs.diff import graph_view, stored_changes
from repairkit.jobs.diff.matching import NodePairs, Side, match_nodes
from repairkit.jobs.diff.tree_changes import TREE_LISTS, compare_trees

_LONGEST = 200  # characters of a value


@dataclass(frozen=True, eq=False)
class GraphChanges:
    """Lists of what differs, each entry as JSON has it; `where` names a body or a function.

    Attributes:
        pairing: of the nodes of the main graph.
        views: of both main graphs.
        same_computation: whether the outputs are computed in the same way from the same inputs.
        n_nodes: of each main graph.
        n_same: its nodes of which nothing differs but names.
        n_same_tensors: tensors of equal numbers, those of bodies too.
        entries: the lists, by their names in `KINDS`.
    """

    pairing: NodePairs
    views: tuple[graph_view.GraphView, graph_view.GraphView]
    same_computation: bool
    n_nodes: tuple[int, int]
    n_same: int
    n_same_tensors: int
    entries: Mapping[str, list[dict[str, Any]]]

    @property
    def any_node(self) -> bool:
        """Whether a node differs by more than names and tensors."""
        return any(
            self.entries[name]
            for name in ("nodes_changed", "nodes_added", "nodes_removed", "functions")
        )

    @property
    def any_number(self) -> bool:
        return any(
            self.entries[name]
            for name in ("tensors_changed", "tensors_added", "tensors_removed", "trees")
        )

    @property
    def any_name(self) -> bool:
        names = ("nodes_renamed", "values_renamed", "tensors_renamed", "order", "tensors_moved")
        return any(self.entries[name] for name in names)


def compare_graphs(
    a: ModelProto, b: ModelProto, inputs: Mapping[str, str], tell: Tell
) -> GraphChanges:
    """What differs between the graphs of two models.

    Args:
        a: the one.
        b: the other.
        inputs: inputs of `a` to those of `b` that are the same.
        tell: is told how many of the nodes of `a` were compared.
    """
    views = tuple(
        graph_view.view_of_graph(m.graph, graph_view.opsets_of(m.opset_import)) for m in (a, b)
    )
    ours, theirs = views
    digesters = graph_view.Digester(a), graph_view.Digester(b)
    numbered = {name: number for number, name in enumerate(inputs)}
    back = {name: numbered[mine] for mine, name in inputs.items()}
    fed_a: list[object] = [numbered.get(name, ("only", name)) for name in ours.inputs]
    fed_b: list[object] = [back.get(name, ("only", name)) for name in theirs.inputs]
    sides = (
        Side(ours, digesters[0].digests(ours, fed_a)),
        Side(theirs, digesters[1].digests(theirs, fed_b)),
    )
    comparison = _Comparison(digesters, tell)
    pairing = comparison.graphs(*sides, inputs, where="")
    comparison.functions()
    same = [d.of_graph(s.view, s.digests) for d, s in zip(digesters, sides, strict=True)]
    return GraphChanges(
        pairing=pairing,
        views=(ours, theirs),
        same_computation=same[0] == same[1] and ours.opsets == theirs.opsets,
        n_nodes=(len(ours.nodes), len(theirs.nodes)),
        n_same=comparison.n_same,
        n_same_tensors=comparison.n_same_tensors,
        entries=comparison.entries.lists,
    )


@dataclass(eq=False)
class _Comparison:
    """stored_changes.Entries that were made so far."""

    digesters: tuple[graph_view.Digester, graph_view.Digester]
    tell: Tell
    n_same: int = 0
    n_same_tensors: int = 0
    entries: stored_changes.Entries = field(default_factory=stored_changes.Entries)

    def graphs(self, a: Side, b: Side, inputs: Mapping[str, str], *, where: str) -> NodePairs:
        """Compare two graphs; `inputs` are those and, of bodies, the values around them."""
        pairing = match_nodes(a, b, inputs)
        values = dict(inputs)
        for one, other in pairing.forth.items():
            made = zip(a.view.nodes[one].output, b.view.nodes[other].output, strict=False)
            values |= {str(x): str(y) for x, y in made if x and y}
        pair = stored_changes.TwoGraphs(a, b, values, where)
        read: stored_changes.Readings = defaultdict(list)
        for count, one in enumerate(sorted(pairing.forth), start=1):
            self._nodes(pair, one, pairing.forth[one], read)
            if not where:
                self.tell(count)
        for kind, side, paired in (
            ("nodes_removed", a, pairing.forth),
            ("nodes_added", b, pairing.back),
        ):
            for n in range(len(side.view.nodes)):
                if n not in paired:
                    self.entries.add(kind, where, **_described(side, n))
        self._ends(pair)
        self.n_same_tensors += stored_changes.compare_stored(pair, read, self.entries)
        order = [pairing.forth[n] for n in sorted(pairing.forth)]
        n_moved = len(order) - _longest_rising(order)
        if n_moved:
            self.entries.add("order", where, n_nodes=n_moved)
        return pairing

    def functions(self) -> None:
        """Compare the functions of two models."""
        ours, theirs = (digester.functions for digester in self.digesters)
        for key in sorted({*ours, *theirs}):
            name = ".".join(filter(None, key))
            if key not in ours or key not in theirs:
                self.entries.add(
                    "functions", "", name=name, change="added" if key in theirs else "removed"
                )
                continue
            a, b = (Side(*digester.function(key)) for digester in self.digesters)
            inputs = dict(zip(ours[key].input, theirs[key].input, strict=False))
            self.graphs(a, b, inputs, where=f"function {name}")

    # Nodes

    def _nodes(
        self,
        pair: stored_changes.TwoGraphs,
        one: int,
        other: int,
        read: stored_changes.Readings,
    ) -> None:
        a, b, where = pair.a, pair.b, pair.where
        ours, theirs = a.view.nodes[one], b.view.nodes[other]
        changes = [
            *self._attributes(pair, one, other),
            *_inputs(pair, one, other, read),
        ]
        if len(ours.output) != len(theirs.output):
            changes.append(_change("outputs", len(ours.output), len(theirs.output)))
        operators = [_operator(ours), _operator(theirs)]
        if operators[0] != operators[1]:
            changes.insert(0, _change("operator", *operators))
        names = {"a": a.view.names[one], "b": b.view.names[other]}
        if changes:
            self.entries.add("nodes_changed", where, **names, operator=operators, changes=changes)
        elif not where:
            self.n_same += 1
        if ours.name != theirs.name:
            renamed = {"a": ours.name, "b": theirs.name}
            self.entries.add("nodes_renamed", where, **renamed, operator=operators[0])
        for x, y in zip(ours.output, theirs.output, strict=False):
            if x != y:
                self.entries.add("values_renamed", where, a=str(x), b=str(y))

    def _attributes(
        self, pair: stored_changes.TwoGraphs, one: int, other: int
    ) -> list[dict[str, Any]]:
        ours, theirs = pair.a.view.attributes(one), pair.b.view.attributes(other)
        if graph_view.domain_of(pair.a.view.nodes[one]) and is_ensemble(pair.a.view.nodes[one]):
            trees = compare_trees(pair.a.view.nodes[one], pair.b.view.nodes[other])
            if trees is not None:
                if trees.any:
                    names = {"a": pair.a.view.names[one], "b": pair.b.view.names[other]}
                    self.entries.add("trees", pair.where, **names, **trees.to_json())
                ours, theirs = (
                    {n: h for n, h in each.items() if not n.startswith(TREE_LISTS)}
                    for each in (ours, theirs)
                )
        changes = []
        for name in sorted({*ours, *theirs}):
            a, b = ours.get(name), theirs.get(name)
            bodies = [[] if h is None else _bodies(h) for h in (a, b)]
            if bodies[0] and len(bodies[0]) == len(bodies[1]):
                for place, graphs in enumerate(zip(*bodies, strict=True)):
                    at = f"{name}[{place}]" if len(bodies[0]) > 1 else name
                    self._bodies(pair, one, graphs, at)
            elif _value(a) != _value(b):
                changes.append(_change(f"attribute {name}{_count(a, b)}", _text(a), _text(b)))
        return changes

    def _bodies(
        self,
        pair: stored_changes.TwoGraphs,
        one: int,
        graphs: tuple[GraphProto, GraphProto],
        at: str,
    ) -> None:
        """Compare two bodies of nodes that are the same."""
        a, b = (
            Side(*digester.body(graph, side.view.opsets, _around(side, pair.where)))
            for digester, graph, side in zip(self.digesters, graphs, (pair.a, pair.b), strict=True)
        )
        inner = dict(zip(a.view.inputs, b.view.inputs, strict=False))
        known = {**pair.values, **_same_names(pair), **inner}
        where = "/".join(filter(None, (pair.where, pair.a.view.names[one], at)))
        self.graphs(a, b, known, where=where)

    def _ends(self, pair: stored_changes.TwoGraphs) -> None:
        """Outputs of a graph that are computed otherwise than by a node that changed its place."""
        ours, theirs = pair.a.view.outputs, pair.b.view.outputs
        for x, y in zip(ours, theirs, strict=False):
            if not pair.is_same(pair.a.view.source(x), pair.b.view.source(y)):
                made = pair.a.view.source(x), pair.b.view.source(y)
                change = [_change(f"output {x}", *made)]
                names = {"a": x, "b": y, "operator": ["graph", "graph"]}
                self.entries.add("nodes_changed", pair.where, **names, changes=change)


def _inputs(
    pair: stored_changes.TwoGraphs,
    one: int,
    other: int,
    read: stored_changes.Readings,
) -> Iterator[dict[str, Any]]:
    """Inputs of a node that are others; pairs of tensors that are read are added to `read`."""
    a, b = pair.a.view, pair.b.view
    rows = a.sources[one], b.sources[other]
    for slot in range(max(map(len, rows))):
        x, y = (row[slot] if slot < len(row) else "" for row in rows)
        if x in a.stored and y in b.stored:
            axis = stored_changes.channel_axis(a.nodes[one], slot, a.stored[x])
            read[x, y].append((a.names[one], axis))
        elif not pair.is_same(x, y):
            yield _change(f"input {slot}", x or None, y or None)


def _around(side: Side, where: str) -> graph_view.Surroundings:
    return graph_view.Surroundings(values=side.digests.values, depth=where.count("/") + 1)


def _same_names(pair: stored_changes.TwoGraphs) -> dict[str, str]:
    """Tensors around a body that have one name and one content in both graphs."""
    return {name: name for name in pair.a.view.stored if stored_changes.in_both(pair, name)}


def _described(side: Side, n: int) -> dict[str, Any]:
    node = side.view.nodes[n]
    return {
        "name": side.view.names[n],
        "operator": _operator(node),
        "inputs": list(map(str, node.input)),
        "outputs": list(map(str, node.output)),
    }


def _operator(node: NodeProto) -> str:
    return ".".join(filter(None, (graph_view.domain_of(node), str(node.op_type))))


def _change(what: str, a: object, b: object) -> dict[str, Any]:
    return {"what": what, "a": a, "b": b}


def _bodies(held: AttributeProto) -> list[GraphProto]:
    if held.type == AttributeProto.GRAPH:
        return [held.g]
    return list(held.graphs) if held.type == AttributeProto.GRAPHS else []


def _value(held: AttributeProto | None) -> bytes | None:
    """What an attribute holds, as bytes, without its name and remarks."""
    if held is None:
        return None
    plain = AttributeProto()
    plain.CopyFrom(held)
    plain.ClearField("doc_string")
    plain.t.ClearField("name")
    if held.type != AttributeProto.TENSOR:
        plain.ClearField("t")
    value: bytes = plain.SerializeToString(deterministic=True)
    return value


def _count(a: AttributeProto | None, b: AttributeProto | None) -> str:
    """How many numbers differ between two tables of numbers, which are too long to show."""
    if a is None or b is None or _text(a) != _text(b) or a.ref_attr_name or b.ref_attr_name:
        return ""
    ours, theirs = (
        tensors.array_of(h.t) if h.type == AttributeProto.TENSOR else np.array(list(_list(h)))
        for h in (a, b)
    )
    if ours.shape != theirs.shape:
        return ""
    return f": {int((ours != theirs).sum()):,} of {ours.size:,}"


def _list(held: AttributeProto) -> Sequence[object]:
    value: object = helper.get_attribute_value(held)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, bytes) else [value]


def _text(held: AttributeProto | None) -> str | None:
    """An attribute as a reader sees it."""
    if held is None:
        return None
    if held.ref_attr_name:
        return f"@{held.ref_attr_name}"
    if held.type == AttributeProto.TENSOR:
        shape = "x".join(map(str, held.t.dims)) or "a number"
        return f"tensor of {graph_view.type_name(held.t.data_type)}, {shape}"
    if held.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return f"{len(_bodies(held))} bodies"
    value = helper.get_attribute_value(held)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")[:_LONGEST]
    if isinstance(value, int | float):
        return f"{value:.9g}" if isinstance(value, float) else str(value)
    items = [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in value]
    shown = ", ".join(f"{v:.9g}" if isinstance(v, float) else str(v) for v in items[:32])
    more = f", and {len(items) - 32} more" if len(items) > 32 else ""
    return f"{shown[:_LONGEST]}{more}"


def _longest_rising(order: Sequence[int]) -> int:
    """The length of the longest rising subsequence: the nodes that kept their order."""
    ends: list[int] = []
    for position in order:
        at = bisect_left(ends, position)
        ends[at : at + 1] = [position]
    return len(ends)
