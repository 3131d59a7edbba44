"""What each image loses with each filter alone, to first order, by one backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from repairkit.core.framework import Images

if TYPE_CHECKING:
    from repairkit_adapters.pytorch.model import PyTorchModel

_BATCH = 32


def first_order_changes(
    model: PyTorchModel,
    images: Images,
    labels: NDArray[np.intp],
    constants: Mapping[str, NDArray[np.float64]],
) -> dict[str, NDArray[np.float32]]:
    """The change of an image's log-likelihood if a channel alone were held at a constant.

    It is the sum over positions of (constant - output) times the gradient: the first term of a
    Taylor expansion (as in Molchanov et al., "Pruning convolutional neural networks for resource
    efficient inference", 2017, section 2.2).

    Args:
        model: the model.
        images: as the model takes them.
        labels: class numbers, (n_images,).
        constants: (n_channels,) by layer's name.

    Returns:
        Shape (n_images, n_channels) by layer; without layers that no module holds, or that a module
        computes more than once.
    """
    from repairkit_adapters.pytorch.model import _cross_entropy  # it needs this module

    modules = dict(model.module.named_modules())
    held = {t.layer.name: t.owner if t.norm_call is None else t.norm for t in model.traced}
    uses = Counter(held.values())
    single = {
        name: modules[place]
        for name, place in held.items()
        if name in constants and place in modules and uses[place] == 1
    }
    step = model.step or _BATCH
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in single}
    for start in range(0, len(images), step):
        real = min(step, len(images) - start)
        rows = start + np.minimum(np.arange(model.step or real), real - 1)
        outputs: dict[str, Any] = {}
        with model._evaluation(), torch.enable_grad(), ExitStack() as stack:
            for name, module in single.items():
                stack.callback(module.register_forward_hook(_keeping(outputs, name)).remove)
            # Without it, no gradient flows where no parameter asks for one.
            answer = model._call(model._tensor(images[rows]).requires_grad_())
            target = torch.from_numpy(np.asarray(labels[rows], np.int64)).to(answer.device)
            loss = _cross_entropy(answer, target)[:real].sum()
            kept = list(outputs)
            gradients = torch.autograd.grad(loss, [outputs[n] for n in kept], allow_unused=True)
        for name, gradient in zip(kept, gradients, strict=True):
            out = outputs[name].detach()
            if gradient is None:
                gradient = torch.zeros_like(out)
            held_at = torch.from_numpy(np.asarray(constants[name])).to(out)
            moved = held_at.reshape(1, -1, *(1,) * (out.dim() - 2)) - out
            changes = -(moved * gradient).flatten(2).sum(2)[:real]
            found[name].append(changes.float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items() if parts}


def _keeping(outputs: dict[str, Any], name: str) -> Any:
    """A hook that keeps a module's output; what follows may overwrite the copy that it gives."""

    def keep(module: Any, given: Any, out: Any) -> Any:
        del module, given
        outputs[name] = out
        return out.clone()

    return keep
