"""How a model takes several images: in any number, or a fixed number at a time.

Images of a batch may be run together where the answer for one does not depend on those beside it.
That is tried on real images and on noise; where it fails, the node that mixes images is named.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto

from repairkit.core import errors, suite
from repairkit.core.process.stages import stage
from repairkit.engine.runner import Feeds, OpenModel, Runner
from repairkit.graph.coalitions.rebatch import rebatch
from repairkit.graph.mixing import find_mixers, find_random
from repairkit.graph.protos import GraphIndex

Outputs = Mapping[str, suite.Array]

_RELATIVE = 1e-5  # of an image's largest output
_STEPS_OF_ONE = 4 * 2.0**-24  # see engine.evaluator
_N_NOISE = 3
_LOUD = 3.0  # times the range of the images
_TIMED = 4  # images on which the cost of a pass is taken


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a model takes several images.

    Attributes:
        opened: the model to work on: the original, or its re-batched copy.
        summary: in words.
        note: what it costs the user; empty where it costs nothing.
        answers: the outputs for the real images of the proof; None where nothing was proven.
    """

    opened: OpenModel
    summary: str
    note: str = ""
    answers: Outputs | None = field(default=None, compare=False, repr=False)


@stage("checking batches")
def settle_batching(
    declared: OpenModel,
    images: suite.Array,
    *,
    outputs: tuple[str, ...] = (),
    feeds: Feeds | None = None,
) -> Batching:
    """Free a graph of its fixed batch if that provably keeps each image's output.

    If the graph has a node that is known to mix the images of a batch, nothing else is tried. All
    other graphs are run: each image must get the same answer beside other images as alone. Raises
    ModelError if ONNX Runtime fails on the images, or the model answers at random.

    Args:
        declared: the model, with the batch that its input declares.
        images: a few real images to prove it on, shape (n, *input).
        outputs: those that must be kept, and must not be random; all if empty.
        feeds: what the model takes beside each of the images; see `Runner.run`.
    """
    noisy, step = with_noise(images), declared.step or 1
    fed = {n: rows[np.arange(len(noisy)) % len(images)] for n, rows in (feeds or {}).items()}
    in_steps = replace(declared, step=step)
    single = in_steps.runner(outputs=outputs)
    alone = _Alone(noisy, len(images), fed, single.run(noisy, feeds=fed))
    _refuse_random(declared.model, single, alone, outputs)
    freed = declared.model if declared.step is None else _freed(declared, alone)
    mixers = find_mixers(freed, declared.image, outputs)
    fault = str(mixers[0]) if mixers else ""
    for free, summary in () if mixers else _ways(declared, freed, alone):
        together = _try_together(free, alone, outputs)
        if not together.fault:
            return Batching(opened=free, summary=summary, answers=together.answers)
        fault = together.fault
    where = "" if mixers or fed else first_mixing_node(free, noisy)
    fault = f"{fault}; {where}" if where else fault
    return Batching(
        opened=in_steps,
        summary=f"{step} at a time: {fault}",
        note=_cost_in_words(step, fault, len(mixers), _milliseconds(single, alone)),
        answers=alone.of_real(alone.answers),
    )


@dataclass(frozen=True)
class _Alone:
    """The `n_real` images and noise behind them, and the outputs for each of them by itself."""

    images: suite.Array
    n_real: int
    feeds: Feeds
    answers: Outputs

    def of_real(self, outputs: Outputs) -> Outputs:
        """The part of outputs for all images that belongs to the real ones."""
        n_images = len(self.images)
        return {name: _of_first(each, n_images, self.n_real) for name, each in outputs.items()}


def _ways(declared: OpenModel, freed: ModelProto, alone: _Alone) -> Iterator[tuple[OpenModel, str]]:
    """Ways to take any number of images: the graph as it is if it says so, then a freed one."""
    step = declared.step
    if step is None:
        yield declared, "any batch"
        freed = _freed(declared, alone)
    kind = f"fixed at {step}" if step else "hard-wired at 1"
    summary = f"any batch ({kind}; freed, checked on {alone.n_real} images and noise)"
    yield replace(declared.variant(freed), step=None), summary


def _freed(declared: OpenModel, alone: _Alone) -> ModelProto:
    return rebatch(declared.model, declared.image, declared.step or 1, further=tuple(alone.feeds))


def _milliseconds(single: Runner, alone: _Alone) -> float:
    """What a pass costs for one image."""
    images = alone.images[:_TIMED]
    started = time.perf_counter()
    single.run(images, feeds={name: rows[:_TIMED] for name, rows in alone.feeds.items()})
    return 1000 * (time.perf_counter() - started) / len(images)


def as_declared(declared: OpenModel) -> Batching:
    """As many images at a time as the input declares, else one: always right, perhaps slow."""
    step = declared.step or 1
    return Batching(opened=replace(declared, step=step), summary=f"{step} at a time")


@dataclass(frozen=True)
class _Together:
    """How outputs of many images at once differ from those of each alone, if at all.

    `fault` is empty where they do not; then `answers` are the outputs for the real images.
    """

    fault: str
    answers: Outputs | None = None


def _try_together(free: OpenModel, alone: _Alone, outputs: tuple[str, ...]) -> _Together:
    """Run all images at once, in reverse: each has another place there, and other neighbours."""
    try:
        feeds = {name: rows[::-1].copy() for name, rows in alone.feeds.items()}
        together = free.runner(outputs=outputs).run(alone.images[::-1].copy(), feeds=feeds)
    except errors.ModelError as error:
        return _Together(str(error))
    n_images = len(alone.images)
    turned = {name: _turned(answers, n_images) for name, answers in together.items()}
    name = differing_output(turned, alone.answers, n_images)
    if name is not None:
        return _Together(f"output {name!r} changes when images are batched")
    return _Together("", alone.of_real(turned))


def _cost_in_words(step: int, fault: str, n_mixers: int, cost: float) -> str:
    """What it means for the user that images cannot share a run."""
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
    model: ModelProto, single: Runner, alone: _Alone, outputs: tuple[str, ...]
) -> None:
    """Raise ModelError if the model has a random node, or two runs on the same images differ."""
    random_nodes = find_random(model, outputs)
    remedy = "export the model in evaluation mode, without random nodes"
    if random_nodes:
        raise errors.ModelError(f"the model answers at random: {random_nodes[0]}; {remedy}")
    n_images = single.step or 1
    first = {name: rows[:n_images] for name, rows in alone.feeds.items()}
    again = single.run(alone.images[:n_images], feeds=first)
    for name, answer in again.items():
        before = alone.answers[name][: len(answer)]
        if not np.array_equal(answer, before, equal_nan=answer.dtype.kind in "fc"):
            raise errors.ModelError(
                f"the model answers at random: output {name!r} differs between two runs on the "
                f"same image; {remedy}"
            )


def _turned(answers: suite.Array, n_images: int) -> suite.Array:
    """Outputs in the reverse order of the images; a detector may put several rows to an image."""
    if not answers.ndim or len(answers) % n_images:
        return answers
    each = answers.reshape(n_images, -1, *answers.shape[1:])
    return each[::-1].reshape(answers.shape)


def _of_first(answers: suite.Array, n_images: int, n_real: int) -> suite.Array:
    """The part of outputs that belongs to the first `n_real` images."""
    divisible = answers.ndim and len(answers) % n_images == 0
    return answers[: n_real * (len(answers) // n_images)] if divisible else answers


def with_noise(images: suite.Array) -> suite.Array:
    """The images followed by three of noise; of floats, one of these exceeds the images' range.

    Real images may all be alike, and then no answer shows that a node mixes them.
    """
    # A missing value of a table is NaN, and NaN has no range.
    finite = images[np.isfinite(images)] if images.dtype.kind == "f" else images
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    shape = (_N_NOISE, *images.shape[1:])
    noise = np.random.default_rng(0).uniform(low, max(high, low + 1), shape)
    if images.dtype.kind == "f":
        noise[-1] *= _LOUD
    return np.concatenate([images, noise.astype(images.dtype)])


def differing_output(outputs: Outputs, expected: Outputs, n_images: int) -> str | None:
    """The first output that differs for some image, measured by its own size; None if none does."""
    differing = (n for n in expected if not _same(outputs[n], expected[n], n_images))
    return next(differing, None)


def _same(output: suite.Array, expected: suite.Array, n_images: int) -> bool:
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return False
    if expected.dtype.kind not in "fciub":  # labels in words
        return np.array_equal(output, expected)
    if expected.dtype.kind != "f":
        return bool(np.abs(output.astype(np.int64) - expected.astype(np.int64)).max(initial=0) <= 1)
    if expected.size == 0:
        return True
    n_rows = n_images if expected.ndim and len(expected) % n_images == 0 else 1
    ours, theirs = (x.astype(np.float64).reshape(n_rows, -1) for x in (output, expected))
    finite = np.isfinite(theirs)
    if not np.array_equal(np.where(finite, 0, ours), np.where(finite, 0, theirs), equal_nan=True):
        return False
    ours, theirs = (np.where(finite, x, 0) for x in (ours, theirs))
    probable = theirs.min() >= 0 and theirs.max() <= 1
    allowed = _RELATIVE * np.abs(theirs).max(axis=1) + (_STEPS_OF_ONE if probable else 0.0)
    return bool((np.abs(ours - theirs).max(axis=1) <= allowed).all())


def first_mixing_node(free: OpenModel, images: suite.Array) -> str:
    """In words, the first node whose result for an image depends on the images beside it.

    Empty if none is found: not everything in a graph can be compared image by image.

    Args:
        free: the model, which takes any batch.
        images: at least two, shape (n, *input).
    """
    index = GraphIndex(free.model)
    tensors = [o for node in index.nodes for o in node.output if o and o in index.fed]
    try:
        runner = free.variant(free.model, device="cpu").tap(tensors, optimise=False)
        alone, together = runner.run(images[:1]), runner.run(images)
    except errors.ModelError:
        return ""
    for name in tensors:
        one, all_of_them = alone[name], together[name]
        if not isinstance(one, np.ndarray) or one.dtype.kind != "f":
            continue
        if one.shape == all_of_them.shape or one.ndim != all_of_them.ndim:
            continue  # nothing here grows with the images
        axes = [a for a in range(one.ndim) if one.shape[a] != all_of_them.shape[a]]
        first = np.take(all_of_them, np.arange(one.shape[axes[0]]), axis=axes[0])
        if len(axes) == 1 and not _same(first, one, 1):
            node = index.nodes[index.producers[name]]
            return f"node {node.name or name!r} ({node.op_type}) is the first that differs"
    return ""
