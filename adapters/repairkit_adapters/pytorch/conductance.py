"""Neuron conductance of a PyTorch model's filters, by Captum."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Images

if TYPE_CHECKING:
    from repairkit_adapters.pytorch.model import PyTorchModel

_STEPS = 20
_BATCH = 32


def layer_conductance(
    model: PyTorchModel, images: Images, labels: NDArray[np.intp]
) -> dict[str, NDArray[np.float64]]:
    """How much of an image's score for its label flows through each channel.

    Conductance (Dhamdhere, Sundararajan & Yan, "How important is a neuron?", 2019) along the
    straight path from an image of zeros, summed over positions; over a layer that everything flows
    through it adds up to the score's difference from that of zeros.

    Args:
        model: the model.
        images: as the model takes them.
        labels: class numbers, (n_images,).

    Returns:
        Shape (n_images, n_channels) by layer; without layers that no module holds, or that a module
        computes more than once.

    Raises:
        AdapterError: Captum is missing, or the model takes no such images.
    """
    try:
        from captum.attr import LayerConductance
    except ImportError as error:
        raise AdapterError(
            "neuron conductance needs Captum; pip install 'repairkit[conductance]'"
        ) from error
    modules = dict(model.module.named_modules())
    held = {t.layer.name: t.owner if t.norm_call is None else t.norm for t in model.traced}
    uses = Counter(held.values())
    single = {name: place for name, place in held.items() if place in modules and uses[place] == 1}
    step = model.step or _BATCH
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in single}
    with model._evaluation(), torch.enable_grad():
        for start in range(0, len(images), step):
            tensor = model._tensor(images[start : start + step])
            wanted = torch.from_numpy(np.asarray(labels[start : start + step], np.int64))
            for name, place in single.items():
                attribution = LayerConductance(_score_of(model), modules[place]).attribute(
                    tensor, additional_forward_args=wanted.to(tensor.device), n_steps=_STEPS
                )
                channels = attribution.detach().double().flatten(2).sum(2)
                found[name].append(channels.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _score_of(model: PyTorchModel) -> Any:
    """Images and labels to each image's score for its label; that of a single output is for 1."""

    def score(images: Any, labels: Any) -> Any:
        scores = model._call(images).flatten(1)
        if scores.shape[1] == 1:
            return torch.where(labels == 1, scores[:, 0], -scores[:, 0])
        return scores.gather(1, labels[:, None])[:, 0]

    return score
