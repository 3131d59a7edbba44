"""How a ranking bears out: removal curves of its ends, and where they lie in the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Round
from repairkit.core.process.stages import stage
from repairkit.jobs.setup.workbench import Bench

TOP = 100
_SIZES = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50)
_RANDOM_ORDERS = 3
_MOST_TRIED_IMAGES = 256


@stage("removing filters in order")
def removal_curves(bench: Bench, values: NDArray[np.float64], metric: str) -> dict[str, Any]:
    """V with the first few filters of three orders absent, on at most 256 selection images.

    Args:
        bench: with the model and the images.
        values: shape (n_players,), NaN where a filter was not scored.
        metric: V.
    """
    suite = bench.parts.selection.thinned(_MOST_TRIED_IMAGES)
    n = len(bench.roster)
    sizes = [size for size in _SIZES if size <= max(n - 1, 1)]
    ranked = np.argsort(-np.nan_to_num(values), kind="stable")
    rng = np.random.default_rng(bench.settings.seed)
    orders = [ranked, ranked[::-1], *(rng.permutation(n) for _ in range(_RANDOM_ORDERS))]
    coalitions = np.concatenate([_removed(order, sizes) for order in orders])
    game = bench.working.game(suite, bench.metrics((metric,)))
    figures = game.play(Round(coalitions)).values[:, 0].reshape(len(orders), len(sizes))
    return {
        "metric": metric,
        "suite": suite.name,
        "n_images": len(suite),
        "random_orders": _RANDOM_ORDERS,
        "removed": sizes,
        "top": figures[0].tolist(),
        "bottom": figures[1].tolist(),
        "random": figures[2:].mean(axis=0).tolist(),
    }


def _removed(order: NDArray[np.intp], sizes: Sequence[int]) -> NDArray[np.bool_]:
    rows = np.ones((len(sizes), len(order)), bool)
    for row, size in zip(rows, sizes, strict=True):
        row[order[:size]] = False
    return rows


def spread_over_layers(bench: Bench, values: NDArray[np.float64]) -> dict[str, Any]:
    """How the filters of the hundred highest and the hundred lowest values spread over the sites.

    Of fewer than 200 filters, half each.
    """
    n_each = min(TOP, len(values) // 2 or 1)
    ranked = np.argsort(-np.nan_to_num(values), kind="stable")
    ends = {"highest": set(ranked[:n_each].tolist()), "lowest": set(ranked[-n_each:].tolist())}
    layers = []
    for site in bench.roster.sites:
        columns = range(*bench.roster.slices[site.name].indices(len(values)))
        counts = {name: len(chosen.intersection(columns)) for name, chosen in ends.items()}
        layers.append({"site": site.name, "n_filters": site.n_channels, **counts})
    return {"n_each": n_each, "layers": layers}
