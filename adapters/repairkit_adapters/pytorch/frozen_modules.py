"""Freeze channels of PyTorch modules: kernel zero, the constant in bias or normalisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils import parametrize as parametrizations

from repairkit.core.errors import AdapterError
from repairkit_adapters.pytorch.trace import TracedLayer
from repairkit_adapters.way_back import FrozenChannel, channels_by_layer


class Frozen(torch.nn.Module):
    """A parametrization that holds some numbers of a tensor through training.

    Args:
        mask: true where a number is held.
        held: the numbers, of the mask's shape.
    """

    def __init__(self, mask: torch.Tensor, held: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.register_buffer("held", held)

    def forward(self, original: torch.Tensor) -> torch.Tensor:
        """The tensor with the numbers that are held in their places."""
        return torch.where(self.mask, self.held.to(original.dtype), original)


@dataclass(frozen=True)
class _Change:
    """Numbers to hold in one tensor of one module."""

    module: torch.nn.Module
    name: str
    mask: torch.Tensor
    held: torch.Tensor


def freeze_channels(
    module: torch.nn.Module,
    traced: Sequence[TracedLayer],
    channels: Sequence[FrozenChannel],
    *,
    parametrize: bool,
) -> None:
    """Freeze channels in place; see `repairkit_adapters.pytorch.apply_patch`.

    Raises:
        AdapterError: the module has no such channel, or cannot hold it; nothing was changed.
    """
    layers = {each.layer.name: each for each in traced}
    frozen = channels_by_layer(channels, [each.layer for each in traced])
    for name in frozen:
        _refuse_shared(layers[name], traced)
    changes = [
        change
        for name, constants in frozen.items()
        for change in _changes(module, layers[name], constants, lasting=parametrize)
    ]
    for change in changes:
        _make(change, lasting=parametrize)


def _changes(
    module: torch.nn.Module, layer: TracedLayer, constants: Mapping[int, float], *, lasting: bool
) -> list[_Change]:
    """What must be held in which tensors; nothing is changed yet."""
    conv = _part(module, layer.owner, layer)
    if not lasting and parametrizations.is_parametrized(conv):
        raise AdapterError(
            f"layer {layer.layer.name!r} is parametrized, so its weights cannot be set; give "
            "parametrize=True, or remove the parametrizations first"
        )
    channels, n_channels = sorted(constants), layer.layer.n_channels
    levels = torch.tensor([constants[c] for c in channels], dtype=conv.weight.dtype)
    zeros = torch.zeros(len(channels), dtype=conv.weight.dtype)
    changes = [_kernel(conv, layer, channels)]
    norm = _part(module, layer.norm, layer) if layer.norm_call is not None else None
    if norm is None:
        return [*changes, _vector(conv, "bias", channels, levels, n_channels)]
    if conv.bias is not None:
        changes.append(_vector(conv, "bias", channels, zeros, n_channels))
    if norm.weight is not None and norm.bias is not None:
        return [
            *changes,
            _vector(norm, "weight", channels, zeros, n_channels),
            _vector(norm, "bias", channels, levels, n_channels),
        ]
    if lasting:
        raise AdapterError(
            f"layer {layer.norm!r} has no weight and bias that could be held through training; "
            "leave parametrize out, or make it affine"
        )
    spread = torch.sqrt(norm.running_var[channels] + norm.eps)
    means = -levels.to(spread) * spread
    return [*changes, _vector(norm, "running_mean", channels, means, n_channels)]


def _part(module: torch.nn.Module, name: str, layer: TracedLayer) -> torch.nn.Module:
    modules = dict(module.named_modules())
    if not name or name not in modules or not hasattr(modules[name], "weight"):
        raise AdapterError(
            f"layer {layer.layer.name!r} is computed by a function, or its weights are not "
            "parameters of a module; only modules such as nn.Conv2d can be frozen in PyTorch"
        )
    return modules[name]


def _refuse_shared(layer: TracedLayer, traced: Sequence[TracedLayer]) -> None:
    calls = Counter(name for t in traced for name in (t.owner, t.norm) if name)
    for name in (layer.owner, layer.norm):
        if name and calls[name] > 1:
            raise AdapterError(
                f"module {name!r} is called {calls[name]} times, and its channels can only be "
                "frozen in all of them; keep the repair in the ONNX file"
            )


def _kernel(conv: torch.nn.Module, layer: TracedLayer, channels: Sequence[int]) -> _Change:
    weight = conv.weight
    mask = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    for channel in channels:
        if layer.transposed:
            rows = weight.shape[0] // conv.groups
            group, within = divmod(channel, weight.shape[1])
            mask[group * rows : (group + 1) * rows, within] = True
        else:
            mask[channel] = True
    return _Change(conv, "weight", mask, torch.zeros_like(weight.detach()))


def _vector(
    module: torch.nn.Module,
    name: str,
    channels: list[int],
    values: torch.Tensor,
    n_channels: int,
) -> _Change:
    like = module.weight if module.weight is not None else module.running_mean
    mask = torch.zeros(n_channels, dtype=torch.bool, device=like.device)
    held = torch.zeros(n_channels, dtype=like.dtype, device=like.device)
    mask[channels] = True
    held[channels] = values.to(held)
    return _Change(module, name, mask, held)


def _make(change: _Change, *, lasting: bool) -> None:
    module, name = change.module, change.name
    if getattr(module, name) is None:
        zeros = torch.zeros_like(change.held)
        module.register_parameter(name, torch.nn.Parameter(zeros))
    if lasting:
        parametrizations.register_parametrization(module, name, Frozen(change.mask, change.held))
        return
    with torch.no_grad():
        tensor = getattr(module, name)
        tensor[change.mask] = change.held[change.mask]
