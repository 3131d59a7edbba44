"""Evaluators of tiny and of real models, fast and reference, on images in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.suite import Annotations, Suite
from repairkit.engine.evaluator import MaskEvaluator
from repairkit.engine.opening import Candidates
from repairkit.engine.runner import Batching, Runner, settle_batching
from repairkit.graph.bake import representable
from repairkit.graph.instrument import instrument
from repairkit.graph.sites import survey
from tests.running import input_name, random_levels


@dataclass(frozen=True)
class Images:
    """Images in memory."""

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: NDArray[np.intp]) -> NDArray[Any]:
        return self.array[indices]


def suite_of(images: NDArray[Any], labels: NDArray[Any] | None = None) -> Suite:
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    return Suite.whole("test", Images(images), Annotations(labels))


@dataclass(frozen=True)
class Setup:
    """All that an evaluator of a model needs."""

    roster: Roster
    means: FilterMeans
    batching: Batching
    runner: Runner
    candidates: Candidates
    suite: Suite

    def reference(self, **options: Any) -> MaskEvaluator:
        return MaskEvaluator(self.runner, self.roster, self.suite, **options)


def set_up(model: ModelProto, images: NDArray[Any], *, at: str = "pre-activation") -> Setup:
    """Work on a model as a bench does."""
    image = input_name(model)
    output = model.graph.output[0].name
    batching = settle_batching(model, image, images[:8])
    found = survey(batching.model, output=output, at=at)
    roster = Roster(found.sites)
    means = representable(found, random_levels(found.sites))
    runner = Runner(
        instrument(batching.model, roster.sites, means), image, batching.step, outputs=(output,)
    )
    candidates = Candidates(found, roster, means, image=image, output=output, step=batching.step)
    return Setup(roster, means, batching, runner, candidates, suite_of(images))
