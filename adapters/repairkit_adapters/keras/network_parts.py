"""Shared by Keras models and SavedModels: a layer held at constants, a classifier's loss."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, framework
from repairkit_adapters.keras.keras_runtime import Tensor

Held: TypeAlias = tuple[int, NDArray[np.intp], framework.Images]
"""The number of a layer, and each image's channel and level there."""


class LayerHolder:
    """The layers of a model, and the one that is held at constants, if any.

    Args:
        kind: what messages call the model.
        layers: in the order of computation.
    """

    def __init__(self, kind: str, layers: Sequence[framework.Layer]) -> None:
        self.layers = tuple(layers)
        self.held: Held | None = None
        self._kind = kind
        self._numbers = {layer.name: number for number, layer in enumerate(self.layers)}

    @contextmanager
    def freezing(
        self, layer: str, channels: NDArray[np.intp], constants: framework.Images
    ) -> Iterator[None]:
        """See `FrameworkModel.freezing`.

        Raises:
            AdapterError: no such layer or channel.
        """
        number = self._numbers.get(layer)
        if number is None:
            raise errors.AdapterError(
                f"{self._kind} has no layer {layer!r}; its layers are "
                f"{', '.join(list(self._numbers)[:6])}"
            )
        n_channels = self.layers[number].n_channels
        if np.size(channels) and not 0 <= np.min(channels) <= np.max(channels) < n_channels:
            raise errors.AdapterError(f"layer {layer!r} has {n_channels} channels, numbered from 0")
        before = self.held
        self.held = (number, channels, constants)
        try:
            yield
        finally:
            self.held = before


# Operators between an activation and the output that keep the numbers.
_PASSING = ("Identity", "Reshape", "Squeeze", "Cast")
_ACTIVATIONS = ("Softmax", "Sigmoid")
_ROUNDING = 1e-3
_TINY = 1e-37


def refuse_no_classifier(shape: Sequence[int | None]) -> None:
    """Check the shape of a model's output.

    Raises:
        AdapterError: it is not one row of scores per image.
    """
    if len(shape) != 2:
        raise errors.AdapterError(
            "gradients need a classifier with one row of scores per image; the model's output has "
            f"the shape {tuple(shape)}; give a classifier"
        )


def logits_of(outputs: Tensor) -> tuple[str, Tensor]:
    """The last operation of a traced output, and its argument.

    Returns:
        `Softmax` or `Sigmoid` and its argument, if that is the operation; else an empty name and
        the output itself, which counts as logits unless its rows look like probabilities.
    """
    tensor = outputs
    while tensor.op.type in _PASSING:
        tensor = tensor.op.inputs[0]
    if tensor.op.type in _ACTIVATIONS and tensor.shape.rank == 2:
        return str(tensor.op.type), tensor.op.inputs[0]
    return "", outputs


def cross_entropy(tf: ModuleType, kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Each image's cross-entropy for its label, shape (n_images,).

    It is computed from logits, which stay exact where probabilities round to 0 or 1. A single
    column belongs to class 1; after a sigmoid, each column is a separate class.
    """
    if logits.shape[1] == 1:
        wanted = tf.cast(labels, logits.dtype)[:, None]
        return tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits)[:, 0]
    if kind == "Sigmoid":
        return tf.nn.softplus(-tf.gather(logits, labels, axis=1, batch_dims=1))
    if not kind:
        logits = _as_logits(tf, logits)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _as_logits(tf: ModuleType, scores: Tensor) -> Tensor:
    """The logarithms of rows that are at least 0 and add up to 1; other rows unchanged."""
    sums = tf.reduce_sum(scores, axis=1, keepdims=True)
    shares = tf.reduce_all(scores >= 0, axis=1, keepdims=True) & (tf.abs(sums - 1) < _ROUNDING)
    logarithms = tf.math.log(tf.maximum(scores, scores.dtype.as_numpy_dtype(_TINY)))
    return tf.where(shares, logarithms, scores)
