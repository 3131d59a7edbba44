"""What a patch changes in the model, in words, from its claim in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairkit.report.facts.numbers import count

_HEADS = {"bias": "class biases", "last-layer": "weights"}


def act(document: Mapping[str, Any]) -> str:
    """The subject of a sentence: `Freezing 3 of 208 filters and changing the weights of fc`."""
    claim = document["patch"]
    told = []
    if claim["frozen"] or not claim.get("head"):
        total = (document.get("scoring") or {}).get("n_filters")
        n = len(claim["frozen"])
        what = count(n, "filter") if total is None else f"{n:,} of {count(total, 'filter')}"
        n_partly = len(claim.get("gains", {}))
        told.append(f"freezing {what}{f' ({n_partly} of them partly)' if n_partly else ''}")
    head = claim.get("head")
    if head:
        told.append(f"changing the {_HEADS[head['kind']]} of the last layer")
    sentence = " and ".join(told)
    return sentence[0].upper() + sentence[1:]


def head_in_words(document: Mapping[str, Any]) -> str:
    """What became of the last layer; empty where it stays."""
    head = document["patch"].get("head")
    if not head:
        return ""
    if head["kind"] == "bias":
        return f"New class biases in the last layer, {head['layer']}"
    return f"Weights of the last layer, {head['layer']}, refitted on the selection images"
