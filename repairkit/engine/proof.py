"""Prove on images that a patched model computes what the instrumented one does under its mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from repairkit.core.errors import ModelError
from repairkit.core.patch import Proof
from repairkit.core.suite import Array
from repairkit.engine.runner import Feeds, Masks, OpenModel
from repairkit.graph.fixing import seeded


def prove(
    patched: OpenModel,
    instrumented: OpenModel,
    masks: Masks,
    images: Array,
    *,
    feeds: Feeds | None = None,
    tolerance: float = 0.0,
) -> Proof:
    """Run both models on the images, with graph optimisation off and on, and compare all outputs.

    Outputs may be of any kind: arrays of any shape, text, sequences, maps. Runs are compared one by
    one, so that nothing need be known of their axes. Nodes that draw random numbers draw the same
    ones in both models.

    Args:
        patched: the model to prove. If it takes any batch and fails on several images, it is run
            on one image at a time.
        instrumented: the original with mask inputs.
        masks: one row: absent where the patch freezes.
        images: shape (n, *input).
        feeds: what the models take beside each image; see `Runner.run`.
        tolerance: see `Proof`.

    Raises:
        ModelError: ONNX Runtime fails on a model.
    """
    models = with_seeds(patched), with_seeds(instrumented)
    proof = in_batches_or_one_by_one(
        lambda ours, theirs: _prove(ours, theirs, masks, images, feeds, tolerance), models
    )
    return replace(proof, tolerance=tolerance)


def with_seeds(opened: OpenModel) -> OpenModel:
    """The model itself, or a variant in which all random nodes have fixed seeds."""
    model = seeded(opened.model)
    return opened if model is opened.model else opened.variant(model)


def in_batches_or_one_by_one(
    compare: Callable[[OpenModel, OpenModel], Proof], models: tuple[OpenModel, OpenModel]
) -> Proof:
    """Compare two models; if they take any batch and fail on several images, on one at a time."""
    try:
        return compare(*models)
    except ModelError:
        if models[0].step is not None:
            raise
    ours, theirs = (replace(opened, step=1) for opened in models)
    return compare(ours, theirs)


def _prove(
    patched: OpenModel,
    instrumented: OpenModel,
    masks: Masks,
    images: Array,
    feeds: Feeds | None,
    tolerance: float,
) -> Proof:
    exact, relative, same, changed = True, 0.0, True, False
    everyone = {name: np.ones_like(mask) for name, mask in masks.items()}
    for optimise in (False, True):
        ours = patched.runner() if optimise else patched.as_written()
        wanted = ours.outputs
        theirs = (
            instrumented.runner(outputs=wanted)
            if optimise
            else instrumented.as_written(outputs=wanted)
        )
        runs = zip(ours.raw(images, feeds=feeds), theirs.raw(images, masks, feeds), strict=True)
        for (_, patched_outputs), (_, expected) in runs:
            for a, b in zip(patched_outputs, expected, strict=True):
                if optimise or tolerance:
                    relative = max(relative, relative_difference(a, b))
                    same = same and _same_answer(a, b)
                if not optimise:
                    exact = exact and equal_outputs(a, b)
        if not optimise:
            whole = zip(
                ours.raw(images, feeds=feeds), theirs.raw(images, everyone, feeds), strict=True
            )
            changed = not all(
                equal_outputs(a, b)
                for (_, patched_outputs), (_, plain) in whole
                for a, b in zip(patched_outputs, plain, strict=True)
            )
    return Proof(
        n_images=len(images), exact=exact, relative=relative, same_answer=same, changed=changed
    )


def equal_outputs(found: Any, expected: Any) -> bool:
    """Whether two outputs of any kind are equal bit for bit, but that one NaN is like another."""
    ours, theirs = list(_leaves(found)), list(_leaves(expected))
    return len(ours) == len(theirs) and all(
        type(a) is type(b) and _equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )


def _leaves(output: Any) -> Iterator[Any]:
    """The arrays, numbers and words of an output, with the lengths and keys that hold them."""
    if isinstance(output, Mapping):
        yield len(output)
        for key, value in output.items():
            yield key
            yield from _leaves(value)
    elif isinstance(output, (list, tuple)):
        yield len(output)
        for value in output:
            yield from _leaves(value)
    else:
        yield output


def _equal(found: Any, expected: Any) -> bool:
    a, b = np.asarray(found), np.asarray(expected)
    return a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def relative_difference(found: Any, expected: Any) -> float:
    """The largest difference relative to the largest number; 1 where they are of other kinds."""
    ours, theirs = list(_leaves(found)), list(_leaves(expected))
    if len(ours) != len(theirs):
        return 1.0
    return max((_gap(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _gap(found: Any, expected: Any) -> float:
    a, b = np.asarray(found), np.asarray(expected)
    if a.shape != b.shape:
        return 1.0
    if a.dtype.kind not in "fiub" or b.dtype.kind not in "fiub":
        return 0.0 if _equal(found, expected) else 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        a, b = a.astype(np.float64), b.astype(np.float64)
        scale = float(np.nanmax(np.abs(b), initial=0.0)) or 1.0
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nanmax(gaps, initial=0.0)) / scale if np.isfinite(scale) else 0.0


def _same_answer(found: Any, expected: Any) -> bool:
    if not (isinstance(found, np.ndarray) and isinstance(expected, np.ndarray)):
        return True
    if found.dtype.kind not in "fiu" or found.shape != expected.shape or not found.size:
        return True
    if found.ndim < 2 or found.size != found.shape[0] * found.shape[1]:
        return True
    a, b = (x.reshape(len(x), -1).argmax(axis=1) for x in (found, expected))
    return bool(np.array_equal(a, b))
