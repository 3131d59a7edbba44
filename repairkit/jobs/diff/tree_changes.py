"""Which trees of two ensembles differ: in their branches, thresholds or leaves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, TensorProto, helper, numpy_helper

TREE_LISTS = ("nodes_", "class_", "target_", "leaf_", "tree_roots")
"""How the names of the attributes begin that hold trees."""


@dataclass(frozen=True, kw_only=True)
class TreeChanges:
    """Trees that differ, numbered from 0 in the order of the file."""

    n_trees: tuple[int, int]
    changed: tuple[int, ...]
    added: tuple[int, ...]
    removed: tuple[int, ...]

    @property
    def any(self) -> bool:
        return bool(self.changed or self.added or self.removed)

    def to_json(self) -> dict[str, Any]:
        return {
            "n_trees": list(self.n_trees),
            "changed": list(self.changed),
            "added": list(self.added),
            "removed": list(self.removed),
        }


def compare_trees(a: NodeProto, b: NodeProto) -> TreeChanges | None:
    """The trees that differ between two ensembles; None where their lists cannot be read."""
    ours, theirs = (_trees(a), _trees(b)) if a.op_type == b.op_type else (None, None)
    if ours is None or theirs is None:
        return None
    both = [key for key in ours if key in theirs]
    numbers = [{key: n for n, key in enumerate(trees)} for trees in (ours, theirs)]
    return TreeChanges(
        n_trees=(len(ours), len(theirs)),
        changed=tuple(numbers[0][key] for key in both if ours[key] != theirs[key]),
        added=tuple(n for key, n in numbers[1].items() if key not in ours),
        removed=tuple(n for key, n in numbers[0].items() if key not in theirs),
    )


def _trees(node: NodeProto) -> dict[int, list[object]] | None:
    """Every tree by its number: the rows of the node's lists that belong to it."""
    lists = {a.name: _items(a) for a in node.attribute if a.name.startswith(TREE_LISTS)}
    if node.op_type == "TreeEnsemble":
        return _rooted(lists)
    trees: dict[int, list[object]] = {}
    for prefix in ("nodes_", "class_", "target_"):
        named = {n: held for n, held in lists.items() if n.startswith(prefix)}
        ids = named.get(f"{prefix}treeids")
        if ids is None:
            if named:
                return None
            continue
        columns = [named[name] for name in sorted(named)]
        if any(len(column) != len(ids) for column in columns):
            return None
        for tree, *row in zip(ids, *columns, strict=True):
            trees.setdefault(tree, []).append((prefix, *row))
    return trees


def _items(held: Any) -> list[Any]:
    value = helper.get_attribute_value(held)
    if isinstance(value, TensorProto):
        return [repr(number) for number in numpy_helper.to_array(value).reshape(-1).tolist()]
    items = value if isinstance(value, list | tuple) else list(value)
    return [repr(item) if isinstance(item, float) else item for item in items]


def _rooted(lists: dict[str, list[Any]]) -> dict[int, list[object]] | None:
    """The trees of `TreeEnsemble`, which are led to from their roots."""
    branches, leaves = (
        [lists[name] for name in sorted(lists) if name.startswith(prefix)]
        for prefix in ("nodes_", "leaf_")
    )
    ways = [
        (lists.get(f"nodes_{way}nodeids"), lists.get(f"nodes_{way}leafs"))
        for way in ("true", "false")
    ]
    if any(part is None for way in ways for part in way) or "tree_roots" not in lists:
        return None
    trees: dict[int, list[object]] = defaultdict(list)
    for number, root in enumerate(lists["tree_roots"]):
        waiting, entered = [(root, False, 0)], set()
        while waiting:
            at, is_leaf, above = waiting.pop()
            table = leaves if is_leaf else branches
            if not 0 <= at < min(map(len, table), default=0) or (at in entered and not is_leaf):
                return None
            if not is_leaf:
                entered.add(at)
            skipped = () if is_leaf else _LINKS
            names = sorted(n for n in lists if n.startswith("leaf_" if is_leaf else "nodes_"))
            row = [lists[name][at] for name in names if name not in skipped]
            trees[number].append((is_leaf, above, *row))
            if not is_leaf:
                for ids, leafs in ways:
                    assert ids is not None
                    assert leafs is not None
                    waiting.append((ids[at], bool(leafs[at]), len(trees[number])))
    return trees


_LINKS = ("nodes_truenodeids", "nodes_falsenodeids")
"""Where a branch leads is told by the order in which a tree is walked."""
