"""The cross-entropy of a classifier's output, whether that is logits or probabilities."""

from __future__ import annotations

from typing import Any

from repairkit.core.errors import AdapterError

# Operators that hand on what they get, between an activation and the output.
_PASSING = ("Identity", "Reshape", "Squeeze", "Cast")


def loss_of(tf: Any, outputs: Any, labels: Any) -> Any:
    """Each image's cross-entropy for its label, shape (n_images,).

    Where the traced output comes out of a softmax or a sigmoid, the loss is taken of what went in,
    which is exact where probabilities round to 0 or 1. A single column is the logit of class 1.

    Raises:
        AdapterError: the output is not one row of scores per image.
    """
    if len(outputs.shape) != 2:
        raise AdapterError(
            f"gradients need a classifier with one row of scores per image; the model's output has "
            f"the shape {tuple(outputs.shape)}"
        )
    kind, logits = _logits(outputs)
    if outputs.shape[1] == 1:
        wanted = tf.cast(labels, logits.dtype)[:, None]
        return tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits)[:, 0]
    if kind == "Sigmoid":  # one score per class; the loss of just the label's
        chosen = tf.gather(logits, labels, axis=1, batch_dims=1)
        return tf.nn.softplus(-chosen)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _logits(outputs: Any) -> tuple[str, Any]:
    tensor = outputs
    while tensor.op.type in _PASSING:
        tensor = tensor.op.inputs[0]
    if tensor.op.type in ("Softmax", "Sigmoid") and tensor.shape.rank == 2:
        return str(tensor.op.type), tensor.op.inputs[0]
    return "", outputs
