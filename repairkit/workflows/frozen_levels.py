"""At which constants chosen filters are best frozen, on the images that choose.

Filters are chosen at the level that absent ones have. Then each in turn tries other constants: 0,
what it yields for no response, and its mean over calibration images give or take its spread. A
patch is baked for each, so that only what the model's numbers can hold is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.filters import FilterMeans
from repairkit.core.patch import Constant, FrozenFilter, Patch, constant_of
from repairkit.core.stages import stage
from repairkit.core.suite import Indices, Suite
from repairkit.engine.runner import Runner
from repairkit.graph.bake import bake, representable
from repairkit.graph.levels import bias_levels, zero_levels
from repairkit.graph.rebatch import fixed_batch
from repairkit.repairs import Criterion
from repairkit.workflows.bench import Bench, run_suite

_SPREADS = (-1.0, -0.5, 0.5, 1.0)
_PASSES = 2


@stage("choosing levels")
def best_levels(
    bench: Bench, criterion: Criterion, patch: Patch, within: Indices
) -> tuple[Patch, NDArray[Any]]:
    """The patch with the constants that some images like best, one filter at a time.

    A constant is changed only for a higher figure of the criterion, within limits and targets.

    Args:
        bench: the workbench.
        criterion: of all selection images.
        patch: the filters, at the level of absent ones.
        within: positions of the selection images that choose.

    Returns:
        The patch, and the outputs with it for all selection images.
    """
    suite, options = bench.parts.selection, _options(bench)
    outputs = patched_outputs(bench, patch, suite)
    best = _figure(criterion, outputs, within)
    for _ in range(_PASSES):
        before = patch
        for position in range(len(patch)):
            for constant in _constants(options, patch.frozen[position]):
                tried = _with_constant(patch, position, constant)
                found = patched_outputs(bench, tried, suite)
                figure = _figure(criterion, found, within)
                if figure > best:
                    patch, best, outputs = tried, figure, found
        if patch == before:
            break
    return patch, outputs


def patched_outputs(bench: Bench, patch: Patch, suite: Suite) -> NDArray[Any]:
    """The outputs of the model with a patch baked in."""
    return outputs_of(bench, bake(bench.subject.model, patch, found=bench.original).model, suite)


def outputs_of(bench: Bench, model: ModelProto, suite: Suite) -> NDArray[Any]:
    """The outputs of a model that has the subject's inputs and outputs, in 32 bits."""
    return run_suite(runner_of(bench, model), suite, bench.batch_size)


def runner_of(bench: Bench, model: ModelProto) -> Runner:
    """A session of a model that has the subject's inputs and outputs, in 32 bits."""
    step = fixed_batch(bench.subject.model, bench.subject.input_name)
    if bench.batching.model is bench.subject.working:
        step = bench.batching.step
    return Runner(
        bench.subject.runnable(model),
        bench.subject.input_name,
        step,
        outputs=(bench.subject.output,),
        device=bench.settings.device,
    )


def _figure(criterion: Criterion, outputs: NDArray[Any], within: Indices) -> float:
    if criterion.objection(outputs, within):
        return -np.inf
    return criterion.figure(criterion.columns(outputs), within)


def _options(bench: Bench) -> list[FilterMeans]:
    """Levels to try beside the one that was chosen at."""
    sites = bench.roster.sites
    mean, spread = bench.measure(magnitude=False), bench.measure(magnitude=True)
    # A tree has a number per class, and one size for all of them.
    sizes = {name: spread[name].reshape(len(spread[name]), -1) for name in spread}
    sizes = {name: sizes[name].max(axis=1) for name in sizes}
    shifted = [
        {name: mean[name] + _apart(factor * sizes[name], mean[name]) for name in mean}
        for factor in _SPREADS
    ]
    wanted = [mean, zero_levels(sites), bias_levels(bench.found, sites), *shifted]
    return [representable(bench.found, levels) for levels in wanted]


def _apart(shift: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """A number per filter, so shaped that it adds to each of the filter's numbers."""
    return shift.reshape(-1, *[1] * (like.ndim - 1))


def _constants(options: list[FilterMeans], frozen: FrozenFilter) -> Iterator[Constant]:
    """The constants to try for a filter, each once."""
    place = frozen.filter
    found = [constant_of(levels[place.site][place.channel]) for levels in options]
    yield from (c for c in dict.fromkeys(found) if c != frozen.constant)


def _with_constant(patch: Patch, position: int, constant: Constant) -> Patch:
    frozen = list(patch.frozen)
    frozen[position] = FrozenFilter(frozen[position].filter, constant)
    return Patch(tuple(frozen))
