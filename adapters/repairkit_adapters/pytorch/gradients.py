"""What gradients say of a PyTorch model: of its loss, and of what each filter does for an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Images
from repairkit_adapters.pytorch.modules import ImageModule

_STEPS = 20  # of the path on which conductance is integrated
_BATCH = 32
_TINY = float(np.finfo(np.float32).tiny)


def loss_gradients(
    model: ImageModule, images: Images, labels: NDArray[np.intp]
) -> tuple[NDArray[np.float64], Images]:
    """Each image's cross-entropy for a label, shape (n_images,), and its gradient.

    Outputs that are no less than 0 and add up to 1 are taken for probabilities, others for logits.
    A single output is that of class 1.
    """
    losses, gradients = [], []
    for rows, n_real in model.batches(len(images)):
        with model.evaluation(), torch.enable_grad():
            tensor = model.tensor(images[rows]).requires_grad_()
            loss = _losses(model(tensor), labels[rows])
            (gradient,) = torch.autograd.grad(loss[:n_real].sum(), tensor)
        losses.append(loss.detach()[:n_real].double().cpu().numpy())
        gradients.append(gradient[:n_real].float().cpu().numpy())
    return np.concatenate(losses), np.concatenate(gradients)


def first_order_changes(
    model: ImageModule,
    modules: Mapping[str, torch.nn.Module],
    images: Images,
    labels: NDArray[np.intp],
    constants: Mapping[str, NDArray[np.float64]],
) -> dict[str, NDArray[np.float32]]:
    """The change of an image's log-likelihood if a channel alone were held at a constant.

    It is the sum over positions of (constant - output) times the gradient: the first term of a
    Taylor expansion (as in Molchanov et al., "Pruning convolutional neural networks for resource
    efficient inference", 2017, section 2.2). One backward pass gives it for all channels.

    Args:
        model: the model.
        modules: whose outputs hold the filters, by layer's name.
        images: as the model takes them.
        labels: class numbers, (n_images,).
        constants: (n_channels,) by layer's name.

    Returns:
        Shape (n_images, n_channels), for layers that have both a module and constants.
    """
    read = {name: module for name, module in modules.items() if name in constants}
    changes: dict[str, list[NDArray[np.float32]]] = {name: [] for name in read}
    for rows, n_real in model.batches(len(images), _BATCH):
        outputs: dict[str, torch.Tensor] = {}
        with model.evaluation(), torch.enable_grad(), ExitStack() as stack:
            for name, module in read.items():
                stack.callback(module.register_forward_hook(_keeping(outputs, name)).remove)
            # Without it, no gradient flows where no parameter asks for one.
            answer = model(model.tensor(images[rows]).requires_grad_())
            loss = _losses(answer, labels[rows])[:n_real].sum()
            called = list(outputs)
            gradients = torch.autograd.grad(loss, [outputs[n] for n in called], allow_unused=True)
        for name, gradient in zip(called, gradients, strict=True):
            out = outputs[name].detach()
            if gradient is None:
                gradient = torch.zeros_like(out)
            level = torch.from_numpy(np.asarray(constants[name])).to(out)
            moved = level.reshape(1, -1, *(1,) * (out.dim() - 2)) - out
            change = -(moved * gradient).flatten(2).sum(2)[:n_real]
            changes[name].append(change.float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in changes.items() if parts}


def layer_conductance(
    model: ImageModule,
    modules: Mapping[str, torch.nn.Module],
    images: Images,
    labels: NDArray[np.intp],
) -> dict[str, NDArray[np.float64]]:
    """How much of an image's score for its label flows through each channel, by Captum.

    Conductance (Dhamdhere, Sundararajan & Yan, "How important is a neuron?", 2019) along the
    straight path from an image of zeros, summed over positions; over a layer that everything flows
    through it adds up to the score's difference from that of zeros.

    Args:
        model: the model.
        modules: whose outputs hold the filters, by layer's name.
        images: as the model takes them.
        labels: class numbers, (n_images,).

    Returns:
        Shape (n_images, n_channels) by layer.

    Raises:
        AdapterError: Captum is missing, or the model takes no such images.
    """
    try:
        from captum.attr import LayerConductance
    except ImportError as error:
        raise AdapterError(
            "neuron conductance needs Captum; pip install 'repairkit[conductance]'"
        ) from error
    size = model.step or _BATCH
    shares: dict[str, list[NDArray[np.float64]]] = {name: [] for name in modules}
    with model.evaluation(), torch.enable_grad():
        for start in range(0, len(images), size):
            tensor = model.tensor(images[start : start + size])
            wanted = torch.from_numpy(np.asarray(labels[start : start + size], np.int64))
            for name, module in modules.items():
                attribution = LayerConductance(_score_of(model), module).attribute(
                    tensor, additional_forward_args=wanted.to(tensor.device), n_steps=_STEPS
                )
                channels = attribution.detach().double().flatten(2).sum(2)
                shares[name].append(channels.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in shares.items()}


def _score_of(model: ImageModule) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Images and labels to each image's score for its label; that of a single output is for 1."""

    def score(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scores = model(images).flatten(1)
        if scores.shape[1] == 1:
            return torch.where(labels == 1, scores[:, 0], -scores[:, 0])
        return scores.gather(1, labels[:, None])[:, 0]

    return score


def _keeping(
    outputs: dict[str, torch.Tensor], name: str
) -> Callable[[torch.nn.Module, object, torch.Tensor], torch.Tensor]:
    """A hook that keeps a module's output; what follows may overwrite the copy that it gives."""

    def keep(module: torch.nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        del module, given
        outputs[name] = out
        return out.clone()

    return keep


def _losses(answer: torch.Tensor, labels: NDArray[np.intp]) -> torch.Tensor:
    """The cross-entropy per image; see `loss_gradients`."""
    target = torch.from_numpy(np.asarray(labels, np.int64)).to(answer.device)
    scores = answer.reshape(len(answer), -1)
    if scores.shape[1] == 1:
        column, wanted = scores[:, 0], target.to(scores.dtype)
        if bool(((column >= 0) & (column <= 1)).all()):
            right = torch.where(target == 1, column, 1 - column)
            return -torch.log(right.clamp_min(_TINY))
        return torch.nn.functional.binary_cross_entropy_with_logits(
            column, wanted, reduction="none"
        )
    sums = scores.detach().sum(1)
    if bool((scores >= 0).all()) and bool((sums - 1).abs().max() < 1e-3):
        right = scores.gather(1, target[:, None])[:, 0]
        return -torch.log(right.clamp_min(_TINY))
    return torch.nn.functional.cross_entropy(scores, target, reduction="none")
