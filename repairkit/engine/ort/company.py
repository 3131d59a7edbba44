"""Try on images whether the answer of one depends on those beside it, and name the node."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, helper

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.engine.ort.runtime import open_session, runtime_complaint
from repairkit.graph.index import GraphIndex

Outputs = Mapping[str, Array]

_RELATIVE = 1e-5  # of an image's largest output
_STEPS_OF_ONE = 4 * 2.0**-24  # see engine.agreement
_N_NOISE = 3
_LOUD = 3.0  # times the range of the images


def with_noise(images: Array) -> Array:
    """The images, and behind them three of noise; of floats one is out of the images' range.

    Images may all be alike, and what mixes them then shows in no answer.
    """
    # A missing value of a table is NaN, and of NaN there is no range.
    finite = images[np.isfinite(images)] if images.dtype.kind == "f" else images
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    shape = (_N_NOISE, *images.shape[1:])
    noise = np.random.default_rng(0).uniform(low, max(high, low + 1), shape)
    if images.dtype.kind == "f":
        noise[-1] *= _LOUD
    return np.concatenate([images, noise.astype(images.dtype)])


def differing_output(found: Outputs, expected: Outputs, n_images: int) -> str | None:
    """The first output by which images differ, each measured by its own size; None if none does."""
    for name, theirs in expected.items():
        if not _same(found[name], theirs, n_images):
            return name
    return None


def _same(found: Array, expected: Array, n_images: int) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if expected.dtype.kind not in "fciub":  # labels in words
        return np.array_equal(found, expected)
    if expected.dtype.kind != "f":
        return bool(np.abs(found.astype(np.int64) - expected.astype(np.int64)).max(initial=0) <= 1)
    if expected.size == 0:
        return True
    n_rows = n_images if expected.ndim and len(expected) % n_images == 0 else 1
    ours, theirs = (x.astype(np.float64).reshape(n_rows, -1) for x in (found, expected))
    finite = np.isfinite(theirs)
    if not np.array_equal(np.where(finite, 0, ours), np.where(finite, 0, theirs), equal_nan=True):
        return False
    ours, theirs = (np.where(finite, x, 0) for x in (ours, theirs))
    probable = theirs.min() >= 0 and theirs.max() <= 1
    allowed = _RELATIVE * np.abs(theirs).max(axis=1) + (_STEPS_OF_ONE if probable else 0.0)
    return bool((np.abs(ours - theirs).max(axis=1) <= allowed).all())


def first_mixing_node(model: ModelProto, image: str, images: Array) -> str:
    """In words, the first node that makes something else of an image where others stand beside it.

    Empty where none is found: not all that a graph makes can be compared image by image.

    Args:
        model: of a free batch; never modified.
        image: the image input.
        images: at least two, shape (n, *input).
    """
    index, tapped = GraphIndex(model), ModelProto()
    tapped.CopyFrom(model)
    outputs = [o for node in index.nodes for o in node.output if o and o in index.fed]
    del tapped.graph.output[:]
    tapped.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    try:
        session = open_session(tapped, optimise=False)
        alone = session.run(outputs, {image: images[:1]})
        together = session.run(outputs, {image: images})
    except Exception as error:
        if runtime_complaint(error) is None and not isinstance(error, ModelError):
            raise
        return ""
    for name, one, all_of_them in zip(outputs, alone, together, strict=True):
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
