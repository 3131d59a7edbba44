"""Prove on images that a patched model computes what the instrumented one does under its mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.engine.runner import Masks, Runner


@dataclass(frozen=True)
class Proof:
    """What was found on `n_images` images.

    `exact`: all outputs equal bit for bit with graph optimisation off. `relative`: the largest
    difference with it on, relative to the largest number of that output. `same_answer`: the
    class with the largest score is the same for every image (true where outputs are no scores).
    """

    n_images: int
    exact: bool
    relative: float
    same_answer: bool

    @property
    def holds(self) -> bool:
        return self.exact


def prove(
    patched: ModelProto,
    instrumented: ModelProto,
    masks: Masks,
    images: NDArray[Any],
    *,
    input_name: str,
    step: int | None,
) -> Proof:
    """Run both models on the images, with graph optimisation off and on.

    Args:
        patched: the model to prove.
        instrumented: the original with mask inputs.
        masks: one row: absent where the patch freezes.
        images: shape (n, *input).
        input_name: the image input.
        step: the fixed batch of both models, if any.

    Raises:
        ModelError: ONNX Runtime fails on a model.
    """
    answers = {}
    for optimise in (False, True):
        ours = Runner(patched, input_name, step, optimise=optimise)
        theirs = Runner(instrumented, input_name, step, outputs=ours.outputs, optimise=optimise)
        answers[optimise] = (ours.run(images), theirs.run(images, masks))
    found, expected = answers[False]
    exact = all(_equal(found[o], expected[o]) for o in found)
    found, expected = answers[True]
    relative = max((_relative(found[o], expected[o]) for o in found), default=0.0)
    same = all(_same_answer(found[o], expected[o]) for o in found)
    return Proof(len(images), exact, relative, same)


def _equal(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Bit for bit, but that one NaN is as good as another; text has none."""
    return bool(np.array_equal(found, expected, equal_nan=found.dtype.kind in "fc"))


def _relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.dtype.kind not in "fciub":
        return 0.0 if np.array_equal(found, expected) else 1.0
    a, b = found.astype(np.float64), expected.astype(np.float64)
    scale = float(np.nanmax(np.abs(b), initial=0.0)) or 1.0
    return float(np.nanmax(np.abs(a - b), initial=0.0)) / scale


def _same_answer(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    if found.ndim < 2 or found.size != found.shape[0] * found.shape[1]:
        return True
    a, b = (x.reshape(len(x), -1).argmax(axis=1) for x in (found, expected))
    return bool(np.array_equal(a, b))
