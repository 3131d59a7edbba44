"""A framework's model as the source of an attack's gradients, also when it was repaired.

An adapter's model that can be repaired as its ONNX file was has a method `patched`: a patch file
and the map of layers to a copy of the model with the filters frozen, or an `AdapterError` where the
map does not tell of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError, SettingsError
from repairkit.core.filters import LayerMap
from repairkit.core.framework import FrameworkModel
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Array
from repairkit.formats.patch_file import PatchFile

SAME = 1e-4
"""Outputs that differ by less, relative to the greatest, are those of the same model."""

Freeze = Callable[[PatchFile, LayerMap], FrameworkModel]
"""An adapter's model's `patched`."""

# From an image in NCHW to one in NHWC, and back.
_ORDERS = ((1, 2, 0), (2, 0, 1))


@dataclass(frozen=True)
class GradientSource:
    """A model in its framework, fed with the images that an ONNX model takes.

    Attributes:
        name: as the user gave it.
        model: what an adapter loaded.
        order: the axes of an image in the framework's order; None where both have the same.
    """

    name: str
    model: FrameworkModel
    order: tuple[int, int, int] | None = None

    def outputs(self, images: Array, batch_size: int = 128) -> Array:
        """The first output for images as the ONNX model takes them."""
        parts = [
            self.model.outputs(self._there(images[i : i + batch_size]))
            for i in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts)

    def gradients(self, images: Array, labels: NDArray[np.intp]) -> Array:
        """Of each image's loss for its label, shaped as the images."""
        gradients = self.model.loss_gradients(self._there(images), labels)[1]
        if self.order is None:
            return gradients
        back = _ORDERS[1 - _ORDERS.index(self.order)]
        return gradients.transpose(0, *(axis + 1 for axis in back))

    def patched(self, file: PatchFile, layers: LayerMap) -> GradientSource:
        """The source with the filters of a patch frozen in the framework.

        Args:
            file: the patch.
            layers: which channel of which layer each filter is.

        Raises:
            AdapterError: the adapter cannot do that, or not for this patch.
        """
        freeze: Freeze | None = getattr(self.model, "patched", None)
        if freeze is None:
            raise AdapterError(
                f"{self.name}: the adapter of {self.model.framework} cannot freeze filters in the "
                "framework's model"
            )
        return replace(self, model=freeze(file, layers))

    def _there(self, images: Array) -> NDArray[np.float32]:
        if self.order is not None:
            images = images.transpose(0, *(axis + 1 for axis in self.order))
        return np.ascontiguousarray(images, np.float32)


def attach(name: str, model: FrameworkModel, image_shape: tuple[int, ...]) -> GradientSource:
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
    raise SettingsError(
        f"{name}: takes images of shape {wanted} and the attacked model takes {image_shape}; "
        "the source must take the same images"
    )


def parity(source: Array, judged: Array, form: OutputForm) -> float:
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


def _relative(ours: Array, expected: Array) -> float:
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(ours.astype(np.float64) - expected).max(initial=0.0)) / scale
