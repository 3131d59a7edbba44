"""Which node of one graph is which of another: by what nodes compute, by names, by neighbours.

Rules are tried in turn, the surest first, and each pairs only what is left:

1. the same computation up to here, numbers and all;
2. the same outline of everything before and behind;
3. the same operator with the same numbers of its own, where just one node on each side has them;
4. the same outline before, or behind;
5. the same name, operator and shapes;
6. the same place: between nodes that are paired;
7. the same name and operator; then the longest common sequence of operators in the graphs' order;
8. the same name, or the same place, with another operator.

Every rule takes both graphs alike, and the one that needs an order orders the graphs by their
digests first, so that the pairs do not depend on which graph comes first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from repairkit.jobs.diff.graph_view import Digests, GraphView, domain_of, mark

_MOST_STEPS = 2_000_000  # of the longest common sequence


@dataclass(frozen=True, eq=False)
class Side:
    """A graph and its digests."""

    view: GraphView
    digests: Digests


Key = Callable[[Side, int], object]
"""What two nodes must have in common: of a graph and the position of its node."""


@dataclass(frozen=True, eq=False)
class NodePairs:
    """Positions of nodes that are the same; `forth` leads from the first graph to the second."""

    forth: dict[int, int]
    back: dict[int, int]


def match_nodes(a: Side, b: Side, inputs: Mapping[str, str]) -> NodePairs:
    """Pair the nodes of two graphs.

    Args:
        a: the one.
        b: the other.
        inputs: inputs of `a` to those of `b`.
    """
    if _order(a) > _order(b):
        turned = match_nodes(b, a, {theirs: ours for ours, theirs in inputs.items()})
        return NodePairs(turned.back, turned.forth)
    search = _Search(a, b, inputs)
    search.by_key(lambda s: s.digests.nodes, uneven=True)
    search.by_key(lambda s: list(zip(s.digests.forward, s.digests.backward, strict=True)))
    search.by_key(lambda s: s.digests.contents, alone=True)
    search.by_key(lambda s: s.digests.forward)
    search.by_key(lambda s: s.digests.backward)
    search.by_name(_alone)
    search.by_place(_alone)
    search.by_name(_operator)
    search.by_place(_operator)
    _by_sequence(search)
    search.by_place(_operator)
    search.by_name(_any)
    _in_place_of(search)
    return NodePairs(search.forth, search.back)


def _order(side: Side) -> tuple[str, str]:
    return mark(sorted(side.digests.nodes)), mark(side.view.names)


@dataclass(eq=False)
class _Search:
    """Pairs that were made so far."""

    a: Side
    b: Side
    inputs: Mapping[str, str]
    forth: dict[int, int] = field(default_factory=dict)
    back: dict[int, int] = field(default_factory=dict)

    def pair(self, one: int, other: int) -> None:
        self.forth[one], self.back[other] = other, one

    def open_in_a(self) -> list[int]:
        return [n for n in range(len(self.a.view.nodes)) if n not in self.forth]

    def open_in_b(self) -> list[int]:
        return [n for n in range(len(self.b.view.nodes)) if n not in self.back]

    def by_key(
        self,
        keys: Callable[[Side], Sequence[object]],
        *,
        uneven: bool = False,
        alone: bool = False,
    ) -> None:
        """Pair nodes of equal keys.

        Args:
            keys: of every node of a graph; an empty key is none.
            uneven: also where the graphs have several such nodes, and not equally many.
            alone: only where each graph has just one such node.
        """
        ours, theirs = keys(self.a), keys(self.b)
        groups = _grouped(self.open_in_a(), ours), _grouped(self.open_in_b(), theirs)
        for key, left in groups[0].items():
            right = groups[1].get(key, [])
            if not key or not right or (alone and len(left) + len(right) > 2):
                continue
            if uneven or len(left) == len(right):
                self._pair_up(left, right)

    def _pair_up(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Pair nodes that a key does not tell apart: by numbers, by names, then in order."""
        for tell in (_contents, _name):
            known = {tell(self.b, n): n for n in reversed(right) if n not in self.back}
            for one in left:
                other = known.get(tell(self.a, one))
                if not tell(self.a, one) or one in self.forth or other is None:
                    continue
                if other not in self.back:
                    self.pair(one, other)
        rest = [n for n in left if n not in self.forth], [n for n in right if n not in self.back]
        for one, other in zip(*rest, strict=False):
            self.pair(one, other)

    def by_name(self, key: Key) -> None:
        """Pair nodes of equal names that no other node has, where `key` agrees too."""
        ours, theirs = self.a.view.names, self.b.view.names
        groups = _grouped(self.open_in_a(), ours), _grouped(self.open_in_b(), theirs)
        for name, left in groups[0].items():
            right = groups[1].get(name, [])
            if (
                name
                and len(left) == len(right) == 1
                and key(self.a, left[0]) == key(self.b, right[0])
            ):
                self.pair(left[0], right[0])

    def by_place(self, key: Key) -> None:
        """Pair what reads, and what makes, the same values as nodes that are paired."""
        waiting = [*self.forth.items()]
        for ours, theirs in self._ends():
            self._readers(ours, theirs, key, waiting)
            self._producers(ours, theirs, key, waiting)
        while waiting:
            one, other = waiting.pop()
            made = zip(self.a.view.nodes[one].output, self.b.view.nodes[other].output, strict=False)
            for ours, theirs in made:
                if ours and theirs:
                    self._readers(str(ours), str(theirs), key, waiting)
            read = zip(self.a.view.sources[one], self.b.view.sources[other], strict=False)
            for ours, theirs in read:
                self._producers(ours, theirs, key, waiting)

    def _ends(self) -> Iterable[tuple[str, str]]:
        """Values of both graphs that are the same from the outside."""
        yield from self.inputs.items()
        for ours, theirs in zip(self.a.view.outputs, self.b.view.outputs, strict=False):
            yield self.a.view.source(ours), self.b.view.source(theirs)

    def _readers(
        self,
        ours: str,
        theirs: str,
        key: Key,
        waiting: list[tuple[int, int]],
    ) -> None:
        left = _reading(self.a, ours, self.forth, key)
        right = _reading(self.b, theirs, self.back, key)
        for group, nodes in left.items():
            others = right.get(group, [])
            if len(nodes) == len(others) == 1:
                self._add(nodes[0], others[0], waiting)

    def _producers(
        self,
        ours: str,
        theirs: str,
        key: Key,
        waiting: list[tuple[int, int]],
    ) -> None:
        made, also = self.a.view.producers.get(ours), self.b.view.producers.get(theirs)
        if made is None or also is None or made[1] != also[1]:
            return
        if key(self.a, made[0]) == key(self.b, also[0]):
            self._add(made[0], also[0], waiting)

    def _add(self, one: int, other: int, waiting: list[tuple[int, int]]) -> None:
        if one not in self.forth and other not in self.back:
            self.pair(one, other)
            waiting.append((one, other))


def _by_sequence(search: _Search) -> None:
    """Pair the longest common sequence of operators among what is left."""
    left, right = search.open_in_a(), search.open_in_b()
    if len(left) * len(right) > _MOST_STEPS:
        return
    ours = [_operator(search.a, n) for n in left]
    theirs = [_operator(search.b, n) for n in right]
    for one, other in _common_sequence(ours, theirs):
        search.pair(left[one], right[other])


def _in_place_of(search: _Search) -> None:
    """Pair nodes of different operators that stand between the same nodes."""
    for one in search.open_in_a():
        for other in search.open_in_b():
            if _stand_alike(search, one, other):
                search.pair(one, other)
                break


def _stand_alike(search: _Search, one: int, other: int) -> bool:
    ours, theirs = search.a.view, search.b.view
    before = ours.sources[one][:1], theirs.sources[other][:1]
    if not all(before) or not _same_value(search, before[0][0], before[1][0]):
        return False
    behind = [
        {r for name in view.nodes[n].output for r in view.readers.get(str(name), ())}
        for view, n in ((ours, one), (theirs, other))
    ]
    moved = {(search.forth.get(n, -1), slot) for n, slot in behind[0]}
    return bool(moved) and moved == behind[1]


def _same_value(search: _Search, ours: str, theirs: str) -> bool:
    made, also = search.a.view.producers.get(ours), search.b.view.producers.get(theirs)
    if made is None or also is None:
        return made is also and search.inputs.get(ours) == theirs
    return search.forth.get(made[0]) == also[0] and made[1] == also[1]


def _any(side: Side, position: int) -> str:  # noqa: ARG001 (as all keys)
    return "any node"


def _operator(side: Side, position: int) -> tuple[str, str]:
    node = side.view.nodes[position]
    return domain_of(node), str(node.op_type)


def _alone(side: Side, position: int) -> str:
    return side.digests.alone[position]


def _contents(side: Side, position: int) -> str:
    return side.digests.contents[position]


def _name(side: Side, position: int) -> str:
    return side.view.names[position]


def _reading(
    side: Side, value: str, done: Mapping[int, int], key: Key
) -> dict[tuple[int, object], list[int]]:
    """The nodes that read a value and are not paired yet, by slot and key."""
    groups: dict[tuple[int, object], list[int]] = defaultdict(list)
    for position, slot in side.view.readers.get(value, ()):
        if position not in done:
            groups[slot, key(side, position)].append(position)
    return groups


def _grouped(members: Iterable[int], keys: Sequence[object]) -> dict[object, list[int]]:
    """Positions by their keys."""
    groups: dict[object, list[int]] = defaultdict(list)
    for member in members:
        groups[keys[member]].append(member)
    return groups


def _common_sequence(ours: Sequence[object], theirs: Sequence[object]) -> list[tuple[int, int]]:
    """Positions of a longest common sequence, in order."""
    lengths = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i in range(len(ours) - 1, -1, -1):
        row, below = lengths[i], lengths[i + 1]
        for j in range(len(theirs) - 1, -1, -1):
            same = ours[i] == theirs[j]
            row[j] = below[j + 1] + 1 if same else max(below[j], row[j + 1])
    pairs, i, j = [], 0, 0
    while i < len(ours) and j < len(theirs):
        if ours[i] == theirs[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs
