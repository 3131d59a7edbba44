"""Rank filters by neuron conductance, through the framework that the model came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Attributing, FrameworkModel
from repairkit.core.layer_map import LayerMap
from repairkit.jobs.repair.objective import Objective, plain_values
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.setup.bench import Bench

_MOST_IMAGES = 512
_PROOF_IMAGES = 8
_RELATIVE = 1e-3

Values = NDArray[np.float64]
"""Shape (n_players,)."""


@dataclass(frozen=True)
class Ranking:
    """A way to rank filters; those with the lowest values are frozen.

    Attributes:
        method: as shown.
        note: what it does, in words.
        values: of all filters on a workbench whose settings name `metrics`; NaN where unknown.
        metrics: whose values are estimated; empty where the method asks for none.
    """

    method: str
    note: str
    values: Callable[[Bench], Values]
    metrics: tuple[str, ...] = ()


def conductance_ranking(how: PatchSettings, objective: Objective) -> Ranking:
    """By the mean conductance for the true class, images weighted as the objective does."""
    return Ranking(
        "conductance",
        "freezes those through which the least of the true class's score flows (Captum), by "
        f"{plain_values(objective)[0]}'s weights of at most {_MOST_IMAGES} selection images",
        lambda bench: _values(bench, how, plain_values(objective)[0]),
    )


def _values(bench: Bench, how: PatchSettings, weighed_as: str) -> Values:
    """Mean conductance of every filter.

    Raises:
        AdapterError: the source is missing, is another model, or cannot tell of conductance.
    """
    assert how.attacks.source is not None
    source, model = how.attacks.source
    layers = bench.subject.layer_map
    if layers is None:
        raise AdapterError(
            f"{bench.subject.file.path} has no map of layers; make it with repairkit export"
        )
    if not isinstance(model, Attributing):
        raise AdapterError(f"the adapter of {model.framework} cannot tell of conductance")
    suite = bench.parts.selection
    rng = np.random.default_rng(bench.settings.seed)
    few = suite.take(rng.permutation(len(suite))[:_MOST_IMAGES])
    check_same(bench, model, source)
    found = model.conductance(few.batch(np.arange(len(few))), few.annotations.labels)
    (metric,) = bench.metrics((weighed_as,))
    weights = metric.weights(few.annotations)
    return by_filter(bench, layers, {name: weights @ each for name, each in found.items()})


def by_filter(bench: Bench, layers: LayerMap, means: Mapping[str, Values]) -> Values:
    """Means by layer as values by player; NaN where a filter's layer has none, or is unproven."""
    values = np.full(len(bench.roster), np.nan)
    for player, found in enumerate(bench.roster.filters):
        origin = layers.origin(found)
        if origin is not None and origin.proven and origin.layer in means:
            values[player] = means[origin.layer][origin.channel]
    return values


def check_same(bench: Bench, model: FrameworkModel, source: str) -> None:
    """Refuse a framework's model that does not compute what the bench's does.

    Raises:
        AdapterError: their outputs differ.
    """
    images = bench.parts.selection.batch(np.arange(min(_PROOF_IMAGES, len(bench.parts.selection))))
    ours = bench.working.run_plain(bench.parts.selection.take(np.arange(len(images))))
    theirs = model.outputs(images).reshape(ours.shape)
    scale = float(np.abs(ours).max()) or 1.0
    if not np.allclose(theirs, ours, rtol=_RELATIVE, atol=_RELATIVE * scale):
        raise AdapterError(
            f"{source} does not compute what {bench.subject.file.path} does; name the source and "
            "the --weights that it was exported from"
        )
