"""The report's `selection`: how filters were chosen, step by step, and what confirmed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from repairkit.core.filters import Roster
from repairkit.core.metric import Metric
from repairkit.core.suite import Annotations
from repairkit.repairs import Frozen, Step


def told_steps(
    steps: Sequence[Step], roster: Roster, figures: Mapping[frozenset[int], Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Every step with the filter that it is about.

    `score` is the smooth figure that was searched by, `gain` what the step is worth on images that
    did not choose it, with its lower bound; `figures` are of the images that choose.
    """

    def name(player: int | None) -> str | None:
        return None if player is None else roster.filters[player].id

    return [
        {
            "n_frozen": len(step.frozen),
            "added": name(step.added),
            "dropped": name(step.dropped),
            "score": step.figure,
            "gain": None if step.gain is None else asdict(step.gain),
            "figures": dict(figures.get(frozenset(step.frozen), {})),
            "kept": step.kept,
            "reason": step.reason,
        }
        for step in steps
    ]


def told_trade_off(
    sets: Sequence[Frozen],
    kept: Sequence[Frozen],
    roster: Roster,
    figures: Mapping[frozenset[int], Mapping[str, float]],
) -> list[dict[str, Any]]:
    """The figures of every set on the way, the model as it is among them."""
    return [
        {
            "n_frozen": len(frozen),
            "filters": [roster.filters[player].id for player in frozen],
            "kept": frozen in kept,
            **figures[frozenset(frozen)],
        }
        for frozen in sets
    ]


def figures_of(metrics: Sequence[Metric], outputs: Any, about: Annotations) -> dict[str, float]:
    """Every metric of a model's outputs."""
    found = {}
    for metric in metrics:
        scores = metric.score(outputs, about)
        found[metric.name] = float(scores @ metric.weights(about) if metric.per_image else scores)
    return found
