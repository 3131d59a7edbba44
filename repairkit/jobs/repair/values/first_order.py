"""Values of filters by gradients: one backward pass per image, through the model's framework.

The change of an image's log-likelihood with one filter alone at its mean, to first order, stands
for what the filter is worth to the image. It screens for a search that looks at the true outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError, SettingsError
from repairkit.core.framework import Differentiating, FrameworkModel
from repairkit.core.metric import Metric
from repairkit.core.process.stages import stage
from repairkit.core.scores import Scores
from repairkit.core.suite import Indices, Suite
from repairkit.jobs.repair.judge.conductance import check_same
from repairkit.jobs.setup.bench import Bench
from repairkit.metrics.definition import Surprises

GRADIENT = "gradient"
_PASSES = 3  # that a backward pass takes, with its forward pass


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """What each image loses with each filter alone, (n_images, n_players); NaN where unknown."""

    changes: NDArray[np.float32]
    suite: Suite
    metrics: Sequence[Metric]

    def on(self, positions: Indices) -> Scores:
        """The values that the images at `positions` of the suite tell."""
        about, own = self.suite.annotations.take(positions), self.changes[positions]
        values, errors = [], []
        for metric in self.metrics:
            weights = metric.weights(about)
            mean = weights @ own
            values.append(mean)
            errors.append(np.sqrt(weights**2 @ (own - mean) ** 2))
        names = tuple(metric.name for metric in self.metrics)
        return Scores.plain(names, np.stack(values, axis=1), np.stack(errors, axis=1))


@stage("scoring by gradients")
def first_order(
    bench: Bench, source: tuple[str, FrameworkModel] | None, suite: Suite
) -> tuple[FirstOrder, dict[str, Any]]:
    """The values, and what the report tells of them.

    Raises:
        SettingsError: there is no source, or the values are not those of a loss.
        AdapterError: the source is another model, or gives no gradients.
    """
    if source is None:
        raise SettingsError("--method gradient needs the framework's model; name it with --source")
    metrics = bench.metrics(bench.metric_names)
    for metric in metrics:
        if not isinstance(metric.scorer, Surprises):
            raise SettingsError(
                f"--method gradient tells of losses, and {metric.name} is none; leave --method out"
            )
    changes = _changes(bench, source, suite)
    table = FirstOrder(changes, suite, metrics)
    n_known = int(np.isfinite(changes).all(axis=0).sum())
    return table, {
        "settings": {"method": GRADIENT, "metrics": [metric.name for metric in metrics]},
        "finished": False,
        "n_filters": len(bench.roster),
        "n_known": n_known,
        "scored_on": {"part": suite.name, "n_images": len(suite)},
        "image_passes": _PASSES * len(suite),
    }


def _changes(bench: Bench, source: tuple[str, FrameworkModel], suite: Suite) -> NDArray[np.float32]:
    name, model = source
    layers = bench.subject.layer_map
    if layers is None:
        raise AdapterError(
            f"{bench.subject.file.path} has no map of layers; make it with repairkit export"
        )
    if not isinstance(model, Differentiating):
        raise AdapterError(f"the adapter of {model.framework} gives no gradients at filters")
    if bench.settings.sites_at != "pre-activation":
        raise SettingsError("--method gradient is for --sites-at pre-activation; leave that out")
    check_same(bench, model, name)
    places: dict[str, list[tuple[int, int]]] = {}
    constants: dict[str, NDArray[np.float64]] = {}
    sizes = {mapped.layer.name: mapped.layer.n_channels for mapped in layers.layers}
    for player, found in enumerate(bench.roster.filters):
        origin = layers.origin(found)
        if origin is None or not origin.proven:
            continue
        held = constants.setdefault(origin.layer, np.zeros(sizes[origin.layer]))
        held[origin.channel] = float(bench.working.levels[found.site][found.channel])
        places.setdefault(origin.layer, []).append((player, origin.channel))
    changes = np.full((len(suite), len(bench.roster)), np.nan, np.float32)
    for start in range(0, len(suite), bench.working.effort.batch_size):
        rows = np.arange(start, min(start + bench.working.effort.batch_size, len(suite)))
        told = model.first_order(suite.batch(rows), suite.annotations.labels[rows], constants)
        for layer, found_here in told.items():
            players, channels = np.array(places[layer]).T
            changes[np.ix_(rows, players)] = found_here[:, channels]
    return changes
