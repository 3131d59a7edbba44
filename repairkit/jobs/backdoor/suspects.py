"""Channels that look like a backdoor's, by their weights or by how little they do on clean images.

A backdoor needs channels that answer a small change of the image by a large one, so they stand out
among the channels of their layer (channel Lipschitzness pruning: Zheng et al., "Data-free backdoor
removal based on channel Lipschitzness", ECCV 2022). Or it sits in channels that clean images leave
alone (the pruning half of fine-pruning: Liu, Dolan-Gavitt & Garg, RAID 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import filters
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import survey
from repairkit.jobs.repair.objective import figures_of
from repairkit.jobs.setup.workbench import Bench, Settings, Subject

OUTLIER = 3.0
"""Standard deviations above a layer's mean from which a channel is pruned; `u` in the paper."""
N_TRIED = 12
"""Channels that a repair tries because of their weights."""
_FEWEST = 4

PlayerValues = NDArray[np.float64]
"""Shape (n_players,)."""


@dataclass(frozen=True)
class Suspect:
    """A channel, its bound, and how many standard deviations that lies above its layer's mean."""

    filter: filters.Filter
    bound: float
    deviations: float

    def to_json(self) -> dict[str, Any]:
        """As `inspect --suspect --json` tells it."""
        return {
            "filter": self.filter.id,
            "bound": self.bound,
            "deviations": self.deviations,
            "outlier": self.deviations > OUTLIER,
        }


def suspects_of(subject: Subject, settings: Settings) -> tuple[Suspect, ...]:
    """See `suspects`; of the sites that the settings ask for."""
    output, at, include = settings.output, settings.sites_at, settings.include
    return suspects(survey(subject.model, output=output, at=at, include=include))


def suspects(surveyed: Survey) -> tuple[Suspect, ...]:
    """All channels whose bound is known, the furthest above their layer's mean first."""
    found = []
    for name, layer in surveyed.layers.items():
        bounds = layer.reaches()
        if np.isnan(bounds).any():
            continue
        rows = zip(bounds.tolist(), deviations(bounds).tolist(), strict=True)
        found += [
            Suspect(filters.Filter(name, channel), bound, away)
            for channel, (bound, away) in enumerate(rows)
        ]
    return tuple(sorted(found, key=lambda one: -one.deviations))


def deviations(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many standard deviations each bound lies above the mean of all.

    0 for a layer of fewer than four channels, or of equal ones.
    """
    spread = bounds.std()
    if len(bounds) < _FEWEST or not spread > 1e-9 * np.abs(bounds).max():
        return np.zeros(len(bounds))
    away: NDArray[np.float64] = (bounds - bounds.mean()) / spread
    return away


def suspicion(bench: Bench) -> PlayerValues:
    """The deviations of all players; -inf where no bound is known."""
    known = {one.filter: one.deviations for one in suspects(bench.original)}
    return np.array([known.get(each, -np.inf) for each in bench.roster.filters])


def most_suspect(bench: Bench, most: int = N_TRIED) -> tuple[int, ...]:
    """The players that lie furthest above their layer's mean, `most` of those above it."""
    away = suspicion(bench)
    ranked = np.argsort(-away, kind="stable")[:most]
    return tuple(int(player) for player in ranked if away[player] > 0)


@dataclass(frozen=True, eq=False)
class Pruning:
    """A pruning of the literature: its name, what it does, and the players that it freezes."""

    method: str
    note: str
    players: NDArray[np.intp]


def prunings(bench: Bench, most_drop: float) -> tuple[Pruning, ...]:
    """Channel Lipschitzness pruning and fine-pruning, chosen by weights and by selection images.

    Args:
        bench: the workbench.
        most_drop: accuracy that fine-pruning may cost on the clean selection images.
    """
    return (
        Pruning(
            "channel Lipschitzness",
            f"freezes all whose bound lies over {OUTLIER:g} standard deviations above its layer's "
            "mean (CLP), without data",
            np.flatnonzero(suspicion(bench) > OUTLIER),
        ),
        Pruning(
            "fine-pruning",
            "freezes those of the last layer that respond least to clean images, as many as the "
            "limit on accuracy allows; no training follows",
            _pruned_while_accurate(bench, most_drop),
        ),
    )


def _pruned_while_accurate(bench: Bench, most_drop: float) -> NDArray[np.intp]:
    """The players of the last layer, the quietest first, until accuracy falls too far."""
    last = bench.roster.sites[-1].name
    players = np.array([p for p, f in enumerate(bench.roster.filters) if f.site == last], np.intp)
    mean, size = (
        np.asarray(bench.working.measure(bench.parts.calibration, magnitude=each)[last], np.float64)
        for each in (False, True)
    )
    # The mean of what a ReLU passes on: half the sum of the mean and the mean size.
    order = players[np.argsort(mean + size, kind="stable")]
    metrics, selection = bench.metrics((bench.accuracy,)), bench.parts.selection
    game = bench.working.game(selection, metrics)
    present = np.ones(len(bench.roster), bool)

    def accuracy() -> float:
        return figures_of(metrics, game.outputs(present), selection.annotations)[bench.accuracy]

    before = accuracy()
    for n_pruned, player in enumerate(order[:-1]):
        present[player] = False
        if before - accuracy() > most_drop + 1e-12:
            return order[:n_pruned]
    return order[:-1]
