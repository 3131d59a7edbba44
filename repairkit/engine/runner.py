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

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.core.process.stages import stage
from repairkit.engine.ort.company import differing_output, first_mixing_node, with_noise
from repairkit.engine.ort.memory import release_freed
from repairkit.engine.ort.runtime import load_runtime, open_session, runtime_complaint
from repairkit.graph.coalitions.rebatch import fixed_batch, rebatch
from repairkit.graph.coalitions.zipmaps import without_zipmaps
from repairkit.graph.facts.mixing import find_mixers, find_random

Masks = Mapping[str, NDArray[np.bool_]]
Feeds = Mapping[str, Array]
_RAW_IMAGES = 16
_NESTED = (list, dict)  # sequences and maps
_TIMED = 4  # images on which the cost of a pass is taken


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
    answers: Mapping[str, Array] | None = field(default=None, compare=False, repr=False)


@stage("checking batches")
def settle_batching(
    model: ModelProto,
    input_name: str,
    images: Array,
    *,
    outputs: tuple[str, ...] = (),
    feeds: Feeds | None = None,
    device: str = "cpu",
) -> Batching:
    """Re-batch a graph of fixed batch if that provably keeps each image's output.

    A node that is known to work over all images of a batch settles it. All others are tried: each
    image must get in other company the answer that it gets alone.

    Args:
        model: never modified.
        input_name: the image input.
        images: a few real images to prove it on, shape (n, *input).
        outputs: those that must be kept, and must not be random; all if empty.
        feeds: what the model takes beside each of the images; see `Runner.run`.
        device: where to run.

    Raises:
        ModelError: ONNX Runtime fails on the images, or the model answers at random.
    """
    fixed = fixed_batch(model, input_name)
    step = fixed or 1
    n_real = len(images)
    images = with_noise(images)
    fed = {name: rows[np.arange(len(images)) % n_real] for name, rows in (feeds or {}).items()}
    single = Runner(model, input_name, step, outputs=outputs, device=device)
    alone = single.run(images, feeds=fed)
    _refuse_random(model, single, (images, fed), alone, outputs)
    freed = model if fixed is None else rebatch(model, input_name, step, further=tuple(fed))
    mixers = find_mixers(freed, input_name, outputs)
    own = {name: _of_first(answers, len(images), n_real) for name, answers in alone.items()}
    if mixers:
        fault = str(mixers[0])
    else:
        if fixed is None:
            found = _try_together(lambda: single.sharing(step=None), images, fed, alone, n_real)
            if not found.fault:
                return Batching(model, None, "any batch", "", found.runner, found.answers)
            freed = rebatch(model, input_name, step, further=tuple(fed))
        found = _try_together(
            lambda: Runner(freed, input_name, None, outputs=outputs, device=device),
            images,
            fed,
            alone,
            n_real,
        )
        if not found.fault:
            kind = "fixed" if fixed else "hard-wired"
            how = f"any batch ({kind} at {step}; freed, checked on {n_real} images and noise)"
            return Batching(freed, None, how, "", found.runner, found.answers)
        where = None if fed else first_mixing_node(freed, input_name, images)
        fault = f"{found.fault}; {where}" if where else found.fault
    started = time.perf_counter()
    single.run(images[:_TIMED], feeds={name: rows[:_TIMED] for name, rows in fed.items()})
    cost = 1000 * (time.perf_counter() - started) / len(images[:_TIMED])
    note = _told(step, fault, len(mixers), cost)
    return Batching(model, step, f"{step} at a time: {fault}", note, single, own)


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
    answers: Mapping[str, Array] | None = None


def _try_together(
    open_runner: Callable[[], Runner],
    images: Array,
    feeds: Feeds,
    alone: Mapping[str, Array],
    n_real: int,
) -> _Together:
    """Run all images at once, in reverse: each has another place there, and other neighbours.

    The first `n_real` are no noise; `alone` has the outputs of each by itself.
    """
    try:
        runner = open_runner()
        turned_feeds = {name: rows[::-1].copy() for name, rows in feeds.items()}
        together = runner.run(images[::-1].copy(), feeds=turned_feeds)
    except ModelError as error:
        return _Together(str(error))
    n_images = len(images)
    turned = {name: _turned(answers, n_images) for name, answers in together.items()}
    name = differing_output(turned, alone, n_images)
    if name is not None:
        return _Together(f"output {name!r} changes when images are batched")
    own = {name: _of_first(answers, n_images, n_real) for name, answers in turned.items()}
    return _Together("", runner, own)


def _told(step: int, fault: str, n_mixers: int, cost: float) -> str:
    """What images that cannot share a run mean for the user."""
    more = f", and {n_mixers - 1} more nodes like it" if n_mixers > 1 else ""
    note = (
        f"the graph takes {step} image{'s' if step > 1 else ''} at a time ({fault}{more}); a "
        f"coalition costs about {cost:.3g} ms per image, and nothing is shared between coalitions"
    )
    if step > 1 and n_mixers:
        note += (
            f"; an image's answer depends on the {step - 1} beside it, which are the next in the "
            "order of the data: export the model with a batch of 1 for answers of single images"
        )
    return note


def _refuse_random(
    model: ModelProto,
    single: Runner,
    fed: tuple[Array, Feeds],
    alone: Mapping[str, Array],
    outputs: tuple[str, ...],
) -> None:
    """Stop at a model whose answers are drawn at random.

    Raises:
        ModelError: by its nodes, or by two runs on the same images.
    """
    found = find_random(model, outputs)
    remedy = "export the model in evaluation mode, without random nodes"
    if found:
        raise ModelError(f"the model answers at random: {found[0]}; {remedy}")
    n_images = single.step or 1
    images, feeds = fed
    first = {name: rows[:n_images] for name, rows in feeds.items()}
    again = single.run(images[:n_images], feeds=first)
    for name, answer in again.items():
        before = alone[name][: len(answer)]
        if not _equal_bits(answer, before):
            raise ModelError(
                f"the model answers at random: output {name!r} differs between two runs on the "
                f"same image; {remedy}"
            )


def _equal_bits(some: Array, others: Array) -> bool:
    return np.array_equal(some, others, equal_nan=some.dtype.kind in "fc")


def _turned(answers: Array, n_images: int) -> Array:
    """Outputs in the reverse order of the images; a detector may put several rows to an image."""
    if not answers.ndim or len(answers) % n_images:
        return answers
    each = answers.reshape(n_images, -1, *answers.shape[1:])
    return each[::-1].reshape(answers.shape)


def _of_first(answers: Array, n_images: int, n_real: int) -> Array:
    """The part of outputs that belongs to the first `n_real` images."""
    divisible = answers.ndim and len(answers) % n_images == 0
    return answers[: n_real * (len(answers) // n_images)] if divisible else answers


def _real(answer: Any, real: int, step: int) -> Any:
    """The rows of the real images of a run that was filled up."""
    if real == step or not np.ndim(answer):
        return answer
    return answer[: real * (len(answer) // step)]


def _joined(name: str, parts: Sequence[Any]) -> Array:
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
        self.seconds, self.optimised = seconds, optimise
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

    def run(
        self, images: Array, masks: Masks | None = None, feeds: Feeds | None = None
    ) -> dict[str, Array]:
        """Outputs for images of shape (n, *input); masks are one row, or a row per image.

        `feeds` are what the model takes beside each image: a row per image, by names of inputs.

        Raises:
            ModelError: ONNX Runtime fails on the images.
        """
        if self.step is None:
            fed = {**(masks or {}), **(feeds or {})}
            return dict(zip(self.outputs, self._call(images, fed), strict=True))
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
            rows |= {name: feed[last] for name, feed in (feeds or {}).items()}
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
        self, images: Array, masks: Masks | None = None, feeds: Feeds | None = None
    ) -> Iterator[tuple[int, list[Any]]]:
        """Outputs of whatever kind, run by run, each with its number of real images.

        Args:
            images: shape (n, *input).
            masks: one row each.
            feeds: see `run`.

        Raises:
            ModelError: ONNX Runtime fails on the images.
        """
        step = self.step or _RAW_IMAGES
        for start in range(0, len(images), step):
            rows = np.arange(start, min(start + step, len(images)))
            real = len(rows)
            if self.step is not None:  # the last run is filled up
                rows = np.minimum(np.arange(start, start + step), len(images) - 1)
            fed = {name: feed[rows] for name, feed in (feeds or {}).items()}
            yield real, self._call(images[rows], {**(masks or {}), **fed})

    def _call(self, images: Array, masks: Feeds) -> list[Any]:
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
