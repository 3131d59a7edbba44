"""Run a model on batches of images, also one whose graph is fixed at a batch of 1."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.errors import ModelError
from repairkit.engine.memory import release_freed
from repairkit.engine.runtime import load_runtime, open_session, runtime_complaint
from repairkit.graph.rebatch import fixed_batch, rebatch
from repairkit.graph.zipmaps import without_zipmaps

Masks = Mapping[str, NDArray[np.bool_]]
_RELATIVE = 1e-4
_RAW_IMAGES = 16
_NESTED = (list, dict)  # sequences and maps


@dataclass(frozen=True)
class Batching:
    """How a model takes several images.

    `model` is the one to work on: the original, or its re-batched copy. `step` is the number of
    images that one run must have; None where any number goes. `how` says so for people, and `note`
    what it costs. `runner` is an open session of `model` with all its outputs, and `answers` are
    these for the real images of the proof; None where the batching was settled elsewhere.
    """

    model: ModelProto
    step: int | None
    how: str
    note: str = ""
    runner: Runner | None = field(default=None, compare=False, repr=False)
    answers: Mapping[str, NDArray[Any]] | None = field(default=None, compare=False, repr=False)


def settle_batching(
    model: ModelProto,
    input_name: str,
    images: NDArray[Any],
    *,
    outputs: tuple[str, ...] = (),
    device: str = "cpu",
) -> Batching:
    """Re-batch a graph of fixed batch if that provably keeps each image's output.

    Args:
        model: never modified.
        input_name: the image input.
        images: a few real images to prove it on, shape (n, *input).
        outputs: those that must be kept; all if empty.
        device: where to run.
    """
    fixed = fixed_batch(model, input_name)
    step = fixed or 1
    noise = _noise_like(images)
    parts = images, noise
    single = Runner(model, input_name, step, outputs=outputs, device=device)
    alone = [single.run(part) for part in parts]
    if fixed is None:
        found = _try_together(lambda: single.sharing(step=None), parts, alone)
        if not found.fault:
            return Batching(model, None, "any batch", "", found.runner, found.answers)
    freed = rebatch(model, input_name, step)
    found = _try_together(
        lambda: Runner(freed, input_name, None, outputs=outputs, device=device), parts, alone
    )
    if not found.fault:
        kind = "fixed" if fixed else "hard-wired"
        how = f"any batch ({kind} at {step}; freed, checked on {len(images)} images and noise)"
        return Batching(freed, None, how, "", found.runner, found.answers)
    started = time.perf_counter()
    single.run(images)
    cost = 1000 * (time.perf_counter() - started) / len(images)
    return Batching(
        model,
        step,
        f"{step} at a time: {found.fault}",
        f"the graph takes {step} image{'s' if step > 1 else ''} at a time ({found.fault}); a "
        f"coalition costs about {cost:.3g} ms per image, and nothing is shared between coalitions",
        single,
        alone[0],
    )


def as_declared(model: ModelProto, input_name: str) -> Batching:
    """As many images at a time as the input declares, else one: always right, maybe slow."""
    step = fixed_batch(model, input_name) or 1
    return Batching(model, step, f"{step} at a time")


@dataclass(frozen=True)
class _Together:
    """How outputs of many images at once differ from those of each alone, if at all.

    `fault` is empty where they do not; then `answers` are the outputs for the real images.
    """

    fault: str
    runner: Runner | None = None
    answers: Mapping[str, NDArray[Any]] | None = None


def _try_together(
    open_runner: Callable[[], Runner],
    parts: Sequence[NDArray[Any]],
    alone: Sequence[Mapping[str, NDArray[Any]]],
) -> _Together:
    """Run each part at once: real images, then noise; `alone` has their outputs one by one."""
    try:
        runner = open_runner()
        together = [runner.run(part) for part in parts]
    except ModelError as error:
        return _Together(str(error))
    for found, expected in zip(together, alone, strict=True):
        for name, own in expected.items():
            if not _same(found[name], own):
                return _Together(f"output {name!r} changes when images are batched")
    return _Together("", runner, together[0])


def _noise_like(images: NDArray[Any]) -> NDArray[Any]:
    """Three images of noise in the range of those given, which may all be alike."""
    low, high = float(images.min()), float(images.max())
    noise = np.random.default_rng(0).uniform(low, max(high, low + 1), (3, *images.shape[1:]))
    return noise.astype(images.dtype)


def _same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind not in "fciub":  # labels in words
        return np.array_equal(found, expected)
    if not np.issubdtype(expected.dtype, np.floating):
        return bool(np.abs(found.astype(np.int64) - expected.astype(np.int64)).max(initial=0) <= 1)
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0)) or 1.0
    return bool(
        np.allclose(found, expected, rtol=_RELATIVE, atol=_RELATIVE * scale, equal_nan=True)
    )


def _real(answer: Any, real: int, step: int) -> Any:
    """The rows of the real images of a run that was filled up."""
    if real == step or not np.ndim(answer):
        return answer
    return answer[: real * (len(answer) // step)]


def _joined(name: str, parts: Sequence[Any]) -> NDArray[Any]:
    try:
        if all(isinstance(part, np.ndarray) for part in parts):
            return np.concatenate(parts)
    except ValueError:
        pass
    raise ModelError(
        f"output {name!r} is not one array with the same shape for every image; choose another "
        "with --output"
    )


def _is_bare(shape: list[int | str | None]) -> bool:
    """Whether an output of a graph for one image has no axis for images, as far as it is told."""
    return bool(shape) and isinstance(shape[0], int) and shape[0] != 1


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

    Dictionaries of scores (`ZipMap`) are read as the tensor that they were made from.
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
        tf32: bool = False,
        seconds: float | None = None,
    ) -> None:
        self.seconds = seconds
        plain = without_zipmaps(model)
        self.session = open_session(plain, device=device, optimise=optimise, tf32=tf32)
        release_freed()
        self.input_name = input_name
        self.outputs = outputs or tuple(o.name for o in self.session.get_outputs())
        self._take(step)

    def _take(self, step: int | None) -> None:
        self.step = step
        # A graph for one image may give outputs without a batch axis: they are given one.
        declared = {o.name: o.shape for o in self.session.get_outputs()}
        self._bare = {n for n, shape in declared.items() if step == 1 and _is_bare(shape)}
        # The runtime gives an empty shape to a single number and to what it knows nothing of.
        self._untold = {n for n, shape in declared.items() if step == 1 and not shape}

    def sharing(self, *, step: int | None, outputs: tuple[str, ...] = ()) -> Runner:
        """A runner of the same session, for `step` images at a time and with fewer outputs."""
        twin = copy.copy(self)
        twin.outputs = outputs or self.outputs
        twin._take(step)
        return twin

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
            answers = [
                a[None] if self._lacks_axis(name, a) else a
                for name, a in zip(self.outputs, self._call(batch, rows), strict=True)
            ]
            parts.append([_real(a, real, self.step) for a in answers])
        columns = zip(self.outputs, zip(*parts, strict=True), strict=True)
        return {name: _joined(name, column) for name, column in columns}

    def _lacks_axis(self, name: str, answer: Any) -> bool:
        """Whether an output of one image is to get an axis for images."""
        if isinstance(answer, _NESTED):
            return False
        return name in self._bare or (name in self._untold and not np.ndim(answer))

    def raw(
        self, images: NDArray[Any], masks: Masks | None = None
    ) -> Iterator[tuple[int, list[Any]]]:
        """Outputs of whatever kind, run by run, each with its number of real images.

        Args:
            images: shape (n, *input).
            masks: one row each.

        Raises:
            ModelError: ONNX Runtime fails on the images.
        """
        step = self.step or _RAW_IMAGES
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            real = len(batch)
            if self.step is not None and real < step:
                batch = np.concatenate([batch, np.repeat(batch[-1:], step - real, axis=0)])
            yield real, self._call(batch, masks or {})

    def _call(self, images: NDArray[Any], masks: Masks) -> list[Any]:
        try:
            with _time_limit(self.seconds) as options:
                answers: list[Any] = self.session.run(
                    list(self.outputs), {self.input_name: images, **masks}, options
                )
        except Exception as error:
            complaint = runtime_complaint(error)
            if complaint is None:
                raise
            raise ModelError(
                f"ONNX Runtime cannot run the model on images of shape {images.shape} ({complaint})"
            ) from error
        return answers
