"""Rows of few images each: many coalitions in one run, with a mask row per image.

In weight space every coalition is a run of its own, and with an image or two to a run, what
surrounds a run costs more than the run. The instrumented model answers 128 coalitions of one image
in one run, at about two plain passes. Which way a row goes follows from the number of its images
alone, so that answers depend on the round and on nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.game import Coalitions
from repairkit.engine.agreement import difference
from repairkit.engine.evaluator import Evaluator, MaskEvaluator, Reduce, keep_all

_FEW = 8  # images to a row, up to which masks are faster than weights
_SHARES_PRESENT = (1.0, 0.9, 0.5, 0.0)


class ScatteredEvaluator:
    """Rows of few images by masks, all others by another evaluator.

    Args:
        others: answers rows of many images.
        masks: of the instrumented model, whose masks may have a row per image.
    """

    def __init__(self, others: Evaluator, masks: MaskEvaluator) -> None:
        self.others, self.masks = others, masks
        self.path = f"{others.path}; a mask per image where a row has few"

    def answer(
        self, coalitions: Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> NDArray[Any]:
        """See `Evaluator`."""
        few = images is not None and images.shape[1] <= _FEW and len(coalitions) > 1
        return (self.masks if few else self.others).answer(coalitions, images, reduce)


def with_scattered(others: Evaluator, masks: MaskEvaluator) -> Evaluator:
    """An evaluator that mixes coalitions in one run, where the model lets images be told apart.

    A model whose convolutions work on something else than one batch entry per image (tiles, frames)
    would take one image's mask for another's; what it answers row by row tells.
    """
    n_players = len(masks.roster)
    rng = np.random.default_rng(0)
    rows = np.stack([rng.random(n_players) < share for share in _SHARES_PRESENT])
    positions = rng.integers(0, len(masks.suite), (len(rows), 1))
    if masks.runner.step is not None:
        return others
    try:
        together = masks.answer(rows, positions, keep_all)
    except ModelError:
        return others
    alone = [
        masks.answer(rows[i : i + 1], positions[i : i + 1], keep_all) for i in range(len(rows))
    ]
    fault = difference(together[:, 0], np.concatenate(alone)[:, 0])
    return others if fault is not None else ScatteredEvaluator(others, masks)
