"""Evaluators of tiny and of real models, fast and reference, on images in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.suite import Annotations, Array, Suite
from repairkit.engine.batching import Batching, settle_batching
from repairkit.engine.cones.candidates import Candidates
from repairkit.engine.masks import MaskEvaluator
from repairkit.engine.runner import Runner
from repairkit.graph.baking import representable
from repairkit.graph.kinds.sites import instrument, select_sites, survey
from tests.models import head, model_of
from tests.running import input_name, opened, random_levels


@dataclass(frozen=True)
class Images:
    """Images in memory."""

    array: Array

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: NDArray[np.intp]) -> Array:
        return self.array[indices]


def suite_of(images: Array, labels: Array | None = None) -> Suite:
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    return Suite.whole("test", Images(images), Annotations(labels=labels))


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


def set_up(
    model: ModelProto,
    images: Array,
    *,
    at: str = "pre-activation",
    patterns: tuple[str, ...] = (),
) -> Setup:
    """Work on a model as a bench does."""
    image = input_name(model)
    output = model.graph.output[0].name
    batching = settle_batching(opened(model), images[:8])
    found = survey(batching.opened.model, output=output, at=at)
    roster = Roster(select_sites(found, patterns))
    means = representable(found, random_levels(roster.sites))
    runner = Runner(
        instrument(batching.opened.model, roster.sites, means),
        image,
        batching.opened.step,
        outputs=(output,),
        optimise=False,
    )
    candidates = Candidates(
        survey=found,
        roster=roster,
        levels=means,
        image=image,
        output=output,
        step=batching.opened.step,
    )
    return Setup(roster, means, batching, runner, candidates, suite_of(images))


def deep_model() -> ModelProto:
    """A stem, a residual block, two branches joined, a depthwise layer and a late one."""
    rng = np.random.default_rng(2)
    weights: dict[str, Array] = {}
    nodes = []

    def conv(name: str, source: str, n_in: int, n_out: int, size: int, groups: int = 1) -> str:
        shape = (n_out, n_in // groups, size, size)
        kernel = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        weights[f"{name}_w"] = kernel.astype(np.float32)
        weights[f"{name}_b"] = (0.3 * rng.standard_normal(n_out)).astype(np.float32)
        pad = [size // 2] * 4
        reads = [source, f"{name}_w", f"{name}_b"]
        nodes.append(helper.make_node("Conv", reads, [f"{name}_y"], name, pads=pad, group=groups))
        return f"{name}_y"

    def op(kind: str, name: str, *reads: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(reads), [name], name, **attributes))
        return name

    stem = op("Relu", "stem_act", conv("stem", "image", 2, 8, 3))
    inner = op("Relu", "inner_act", conv("inner", stem, 8, 8, 3))
    total = op("Relu", "sum_act", op("Add", "sum", conv("outer", inner, 8, 8, 3), stem))
    left = op("Relu", "left_act", conv("left", total, 8, 8, 1))
    right = op("Sigmoid", "right_act", conv("right", total, 8, 16, 3))
    joined = op("Concat", "joined", left, right, axis=1)
    pooled = op("MaxPool", "shrunk", joined, kernel_shape=[2, 2], strides=[2, 2])
    apart = op("Relu", "apart_act", conv("apart", pooled, 24, 24, 3, groups=24))
    features = conv("last", apart, 24, 6, 1)
    return model_of(nodes + head(features, weights, 6), weights)
