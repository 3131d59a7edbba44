"""Run a model on batches of images, also one whose graph is fixed at a batch of 1."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.errors import ModelError
from repairkit.engine.runtime import load_runtime, open_session
from repairkit.graph.rebatch import fixed_batch, rebatch

Masks = Mapping[str, NDArray[np.bool_]]
_RELATIVE = 1e-4


@dataclass(frozen=True)
class Batching:
    """How a model takes several images.

    `model` is the one to work on: the original, or its re-batched copy. `step` is the number of
    images that one run must have; None where any number goes. `how` says so for people.
    """

    model: ModelProto
    step: int | None
    how: str


def settle_batching(
    model: ModelProto, input_name: str, images: NDArray[Any], *, device: str = "cpu"
) -> Batching:
    """Re-batch a graph of fixed batch if that provably keeps each image's output.

    Args:
        model: never modified.
        input_name: the image input.
        images: a few real images to prove it on, shape (n, *input).
        device: where to run.
    """
    step = fixed_batch(model, input_name)
    if step is None:
        return Batching(model, None, "any batch")
    freed = rebatch(model, input_name)
    n_real = len(images)
    images = np.concatenate([images, _noise_like(images)])
    try:
        together = Runner(freed, input_name, None, device=device).run(images)
    except ModelError as error:
        return Batching(model, step, f"{step} at a time: {error}")
    alone = Runner(model, input_name, step, device=device).run(images)
    for name, expected in alone.items():
        if not _same(together[name], expected):
            return Batching(
                model, step, f"{step} at a time: output {name!r} changes when images are batched"
            )
    return Batching(
        freed, None, f"any batch (fixed at {step}; freed, checked on {n_real} images and noise)"
    )


def _noise_like(images: NDArray[Any]) -> NDArray[Any]:
    """Three images of noise in the range of those given, which may all be alike."""
    low, high = float(images.min()), float(images.max())
    noise = np.random.default_rng(0).uniform(low, max(high, low + 1), (3, *images.shape[1:]))
    return noise.astype(images.dtype)


def _same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    if found.shape != expected.shape:
        return False
    if not np.issubdtype(expected.dtype, np.floating):
        return bool(np.abs(found.astype(np.int64) - expected.astype(np.int64)).max(initial=0) <= 1)
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    return bool(
        np.allclose(found, expected, rtol=_RELATIVE, atol=_RELATIVE * scale, equal_nan=True)
    )


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[Any]:
    """Run options under which the runtime stops, between two nodes, once the time is over."""
    if seconds is None:
        yield None
        return
    options = load_runtime().RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


class Runner:
    """A session, its image input and the outputs that are wanted.

    A model may hold a loop without end: a call that takes over `seconds` is broken off.
    """

    def __init__(
        self,
        model: ModelProto,
        input_name: str,
        step: int | None,
        *,
        outputs: tuple[str, ...] = (),
        device: str = "cpu",
        optimise: bool = True,
        seconds: float | None = None,
    ) -> None:
        self.seconds = seconds
        self.session = open_session(model, device=device, optimise=optimise)
        self.input_name = input_name
        self.step = step
        self.outputs = outputs or tuple(o.name for o in self.session.get_outputs())

    def run(self, images: NDArray[Any], masks: Masks | None = None) -> dict[str, NDArray[Any]]:
        """Outputs for images of shape (n, *input); masks are one row, or a row per image.

        Raises:
            ModelError: ONNX Runtime fails on the images.
        """
        if self.step is None:
            return dict(zip(self.outputs, self._call(images, masks or {}), strict=True))
        parts = []
        for start in range(0, len(images), self.step):
            batch = images[start : start + self.step]
            real = len(batch)
            if real < self.step:
                batch = np.concatenate([batch, np.repeat(batch[-1:], self.step - real, axis=0)])
            last = np.minimum(np.arange(start, start + self.step), len(images) - 1)
            rows = {
                name: mask if len(mask) == 1 else mask[last] for name, mask in (masks or {}).items()
            }
            answers = self._call(batch, rows)
            parts.append([a[: real * (len(a) // self.step)] for a in answers])
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return dict(zip(self.outputs, joined, strict=True))

    def _call(self, images: NDArray[Any], masks: Masks) -> list[NDArray[Any]]:
        try:
            with _time_limit(self.seconds) as options:
                answers: list[NDArray[Any]] = self.session.run(
                    list(self.outputs), {self.input_name: images, **masks}, options
                )
        except Exception as error:
            # The runtime's exceptions have no common base but Exception.
            if type(error).__module__.split(".")[0] != "onnxruntime":
                raise
            first = str(error).strip().splitlines()[0]
            raise ModelError(
                f"ONNX Runtime cannot run the model on images of shape {images.shape} ({first})"
            ) from error
        return answers
