"""Whether and by what two models differ, in one word and a few sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from repairkit.core.process.text import counted
from repairkit.jobs.diff.frozen_filters import FrozenFilters, PatchVerdict
from repairkit.jobs.diff.graph_changes import GraphChanges


def verdict_on(
    document: Mapping[str, Any],
    changes: GraphChanges,
    frozen: FrozenFilters,
    patched: PatchVerdict | None,
    same: bool,
) -> dict[str, Any]:
    """Whether and by what the models differ, in one word and one sentence."""
    aside = any(document[name] for name in ("header", "metadata", "storage", "inputs", "outputs"))
    differs = aside or changes.any_node or changes.any_number or changes.any_name
    if document["a"]["digest"] == document["b"]["digest"]:
        level, sentence = "identical", "Both files are the same, to the byte."
    elif not differs:
        level = "equal"
        sentence = (
            "Nothing differs but how the bytes are laid out, or remarks that compute nothing."
        )
    elif same:
        level = "same computation"
        sentence = f"Both compute the same; {_listed(_aspects(document, changes))}."
    else:
        level = "other graph" if changes.any_node or not _ports_alike(document) else "other numbers"
        sentence = f"{_listed([*_numbers(document), *_aspects(document, changes)])}."
        sentence = sentence[:1].upper() + sentence[1:]
    if differs:
        sentence = f"{_about_patch(patched)}{sentence}{_about_filters(frozen)}"
    return {
        "differs": bool(differs),
        "level": level,
        "same_computation": same,
        "sentence": sentence,
    }


def _ports_alike(document: Mapping[str, Any]) -> bool:
    return not any(row["computes"] for row in (*document["inputs"], *document["outputs"]))


def _numbers(document: Mapping[str, Any]) -> Iterator[str]:
    """What differs of nodes, tensors and ports, in words."""
    for key, noun, verb in (
        ("nodes_changed", "node", "differ"),
        ("nodes_added", "node", "only in B"),
        ("nodes_removed", "node", "only in A"),
        ("tensors_changed", "tensor", "differ"),
        ("tensors_added", "tensor", "only in B"),
        ("tensors_removed", "tensor", "only in A"),
    ):
        n = len(document[key])
        if n:
            yield f"{counted(n, noun)} {_agreed(verb, n)}"
    n_trees = sum(
        len(row["changed"]) + len(row["added"]) + len(row["removed"]) for row in document["trees"]
    )
    if n_trees:
        yield f"{counted(n_trees, 'tree')} {_agreed('differ', n_trees)}"
    n_ports = sum(row["computes"] for row in (*document["inputs"], *document["outputs"]))
    if n_ports:
        yield f"{counted(n_ports, 'input or output')} {_agreed('differ', n_ports)}".replace(
            "input or outputs", "inputs or outputs"
        )


def _agreed(verb: str, n: int) -> str:
    if verb == "differ":
        return "differs" if n == 1 else "differ"
    return f"{'is' if n == 1 else 'are'} {verb}"


def _aspects(document: Mapping[str, Any], changes: GraphChanges) -> Iterator[str]:
    """What differs and computes nothing, in words."""
    named = any(changes.entries[n] for n in ("nodes_renamed", "values_renamed", "tensors_renamed"))
    named = named or any(
        row["a"] != row["b"] for row in (*document["inputs"], *document["outputs"])
    )
    for differs, words in (
        (named, "names differ"),
        (changes.entries["order"], "the order of nodes differs"),
        (document["header"], "the header differs"),
        (document["metadata"], "metadata differ"),
        (document["storage"] or changes.entries["tensors_moved"], "tensors are stored elsewhere"),
    ):
        if differs:
            yield words


def _about_filters(frozen: FrozenFilters) -> str:
    parts = [
        f"{counted(len(filters), 'filter')} {'is' if len(filters) == 1 else 'are'} frozen in {side}"
        for filters, side in ((frozen.in_a, "A"), (frozen.in_b, "B"))
        if filters
    ]
    return f" {_listed(parts)}." if parts else ""


def _about_patch(patched: PatchVerdict | None) -> str:
    if patched is None:
        return ""
    name = "the patch that the model names" if patched.file is None else patched.file.name
    one, other = ("A", "B") if patched.turned else ("B", "A")
    if patched.exactly:
        return f"{one} is exactly {other} with {name}. "
    return f"{one} is not just {other} with {name}. "


def _listed(parts: Sequence[str] | Iterator[str]) -> str:
    every = list(parts)
    if len(every) < 2:
        return every[0] if every else "other things differ"
    return f"{', '.join(every[:-1])} and {every[-1]}"
