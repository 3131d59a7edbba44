"""The model that is attacked, a method of attack, and the framework's model that gives gradients.

An adapter's model that can be repaired as its ONNX file was has a method `patched`: a patch file
and the map of layers to a copy of the model with the filters frozen, or an `AdapterError` where the
map does not tell of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.attacks import Pgd, PixelBox, Square, pgd, square
from repairkit.core import errors, framework, results, suite
from repairkit.core.outputs import OutputForm
from repairkit.core.process.stages import stage
from repairkit.data.sources.arrays import read_archive
from repairkit.engine.runner import OpenModel
from repairkit.formats import attack_file, patch_file
from repairkit.metrics.evaluation import wilson

SAME = 1e-4
"""Outputs that differ by less, relative to the greatest, are those of the same model."""
Freeze = Callable[[patch_file.PatchFile, framework.LayerMap], framework.FrameworkModel]
"""An adapter's model's `patched`."""
# From an image in NCHW to one in NHWC, and back.
_ORDERS = ((1, 2, 0), (2, 0, 1))
# The least positive number of 32 bits: the logarithm of an output that is 0 must be finite.
_LEAST = 1e-45


@dataclass(frozen=True)
class GradientSource:
    """A model in its framework, fed with the images that an ONNX model takes.

    Attributes:
        name: as the user gave it.
        model: what an adapter loaded.
        order: the axes of an image in the framework's order; None where both have the same.
    """

    name: str
    model: framework.FrameworkModel
    order: tuple[int, int, int] | None = None

    def outputs(self, images: suite.Array, batch_size: int = 128) -> suite.Array:
        """The first output for images as the ONNX model takes them."""
        parts = [
            self.model.outputs(self._there(images[i : i + batch_size]))
            for i in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts)

    def gradients(self, images: suite.Array, labels: NDArray[np.intp]) -> suite.Array:
        """Of each image's loss for its label, shaped as the images."""
        gradients = self.model.loss_gradients(self._there(images), labels)[1]
        if self.order is None:
            return gradients
        back = _ORDERS[1 - _ORDERS.index(self.order)]
        return gradients.transpose(0, *(axis + 1 for axis in back))

    def patched(self, file: patch_file.PatchFile, layers: framework.LayerMap) -> GradientSource:
        """The source with the filters of a patch frozen in the framework.

        Args:
            file: the patch.
            layers: which channel of which layer each filter is.

        Raises:
            AdapterError: the adapter cannot do that, or not for this patch.
        """
        freeze: Freeze | None = getattr(self.model, "patched", None)
        if freeze is None:
            raise errors.AdapterError(
                f"{self.name}: the adapter of {self.model.framework} cannot freeze filters in the "
                "framework's model"
            )
        return replace(self, model=freeze(file, layers))

    def _there(self, images: suite.Array) -> NDArray[np.float32]:
        if self.order is not None:
            images = images.transpose(0, *(axis + 1 for axis in self.order))
        return np.ascontiguousarray(images, np.float32)


def attach(
    name: str, model: framework.FrameworkModel, image_shape: tuple[int, ...]
) -> GradientSource:
    """The source that takes an ONNX model's images.

    Args:
        name: for messages.
        model: what an adapter loaded.
        image_shape: of one image, as the ONNX model takes it.

    Raises:
        SettingsError: the source takes images of another shape.
    """
    wanted = tuple(model.input_shape)
    if wanted == image_shape:
        return GradientSource(name, model)
    for order in _ORDERS if len(image_shape) == 3 else ():
        if tuple(image_shape[axis] for axis in order) == wanted:
            return GradientSource(name, model, order)
    raise errors.SettingsError(
        f"{name}: takes images of shape {wanted} and the attacked model takes {image_shape}; "
        "the source must take the same images"
    )


def parity(source: suite.Array, judged: suite.Array, form: OutputForm) -> float:
    """How far a source's outputs are from the ONNX model's: the greatest difference, relative.

    Logits on one side and their softmax on the other are compared as probabilities. Infinite where
    the outputs cannot be compared.
    """
    source = source.reshape(len(source), -1)
    rows = judged.reshape(len(judged), -1)
    if source.shape != rows.shape or not np.isfinite(source).all():
        return float("inf")
    distances = [_relative(source, rows)]
    if source.shape[1] > 1:
        theirs = OutputForm.detect(source)
        distances.append(
            _relative(
                np.exp(theirs.log_probabilities(source)), np.exp(form.log_probabilities(rows))
            )
        )
    # Probabilities hide a shift of all logits: they count where only one side is normalised.
    normalised = source.shape[1] > 1 and theirs.kind != form.kind
    return distances[-1] if normalised else distances[0]


def _relative(ours: suite.Array, expected: suite.Array) -> float:
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(ours.astype(np.float64) - expected).max(initial=0.0)) / scale


@dataclass(frozen=True)
class Judged:
    """A model, its output and the form of its output: attacked, or judged after an attack."""

    opened: OpenModel
    form: OutputForm
    n_classes: int
    batch_size: int

    def outputs(self, images: suite.Array) -> suite.Array:
        """The judged output for images, in order."""
        parts = [
            self.opened.run(images[i : i + self.batch_size])
            for i in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(parts)

    def scores(self, images: suite.Array) -> NDArray[np.float64]:
        """A row per image: logits, or logarithms of probabilities."""
        scores = self.form.class_scores(self.outputs(images))
        if "probabilit" in self.form.kind:
            return np.log(np.maximum(scores, _LEAST))
        return scores


@dataclass(frozen=True)
class Attack:
    """A method, the pixel range that it keeps to, and the model whose gradients it follows."""

    method: Pgd | Square
    box: PixelBox
    judged: Judged
    source: GradientSource | None

    def __post_init__(self) -> None:
        if isinstance(self.method, Square) and self.source is not None:
            raise errors.SettingsError(
                "square asks the ONNX model alone; leave --source out, or use --method pgd"
            )
        if isinstance(self.method, Pgd) and self.source is None:
            raise errors.SettingsError(
                "pgd follows gradients, which an ONNX file does not give; name the framework's "
                "model with --source, or attack the ONNX file alone with --method square"
            )

    def __call__(
        self,
        images: suite.Array,
        targets: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> suite.Array:
        """Adversarial images for targets."""
        made = []
        size = self.judged.batch_size
        with stage("attacking", total=len(images)) as tell:
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                made.append(self._attack(images[part], targets[part], rng))
                tell(min(start + size, len(images)))
        return np.concatenate(made)

    def _attack(
        self, images: suite.Array, targets: NDArray[np.intp], rng: np.random.Generator
    ) -> suite.Array:
        """Some images at once."""
        if isinstance(self.method, Pgd):
            assert self.source is not None
            gradients = self.source.gradients
            return pgd(images, targets, gradients, box=self.box, settings=self.method, rng=rng)
        scores = self.judged.scores
        return square(images, targets, scores, box=self.box, settings=self.method, rng=rng)


def read_attack_settings(path: Path) -> attack_file.AttackRecord:
    """How the images of an attack's file were made.

    Raises:
        DataError: the file is none, or was not written by `repairkit attack`.
    """
    return attack_file.attack_record(path, read_archive(path).get(attack_file.RECORD))


def share(hits: NDArray[np.bool_]) -> results.Figure:
    """A share of images with Wilson's 95 % interval."""
    value = float(hits.mean())
    return results.Figure(value, *wilson(float(hits.sum()), len(hits)))
