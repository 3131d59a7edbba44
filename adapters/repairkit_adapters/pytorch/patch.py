"""Freeze channels of PyTorch modules: kernel zero, the constant in bias or normalisation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import parametrize as parametrizations

from repairkit.core.errors import AdapterError, ModelError
from repairkit.core.layer_map import LayerMap, Origin
from repairkit.formats.patch_file import PatchFile, read_patch_file
from repairkit.graph.layer_names import read_layer_map
from repairkit.graph.stored.files import read_model
from repairkit_adapters.pytorch.model import PyTorchModel
from repairkit_adapters.pytorch.plain import unwrapped
from repairkit_adapters.pytorch.trace import TracedLayer


class Frozen(torch.nn.Module):
    """A parametrization that holds some numbers of a tensor, whatever training does to them.

    Args:
        mask: true where a number is held.
        held: the numbers, of the mask's shape.
    """

    def __init__(self, mask: Any, held: Any) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.register_buffer("held", held)

    def forward(self, original: Any) -> Any:
        """The tensor with the numbers that are held in their places."""
        return torch.where(self.mask, self.held.to(original.dtype), original)


@dataclass(frozen=True)
class _Job:
    """What is to be frozen in one layer: channel to constant."""

    layer: TracedLayer
    constants: Mapping[int, float]


@dataclass(frozen=True)
class _Change:
    """Numbers to hold in one tensor of one module."""

    module: Any
    name: str
    mask: Any
    held: Any


def freeze_patch(model: Any, patch: Any, layers: Any, *, parametrize: bool, unproven: bool) -> Any:
    """See `repairkit_adapters.pytorch.adapter.apply_patch`."""
    file = patch if isinstance(patch, PatchFile) else read_patch_file(Path(patch))
    origins, shape = _origins(file, layers)
    if not unproven:
        _refuse_unproven(origins)
    traced = PyTorchModel(model, shape, source="the model").traced
    inner = unwrapped(model)
    changes = [
        change
        for job in _jobs(file, origins, traced)
        for change in _changes(inner, job, traced, lasting=parametrize)
    ]
    for change in changes:
        _make(change, lasting=parametrize)
    return model


def _origins(file: PatchFile, layers: Any) -> tuple[dict[str, Origin], tuple[int, ...]]:
    """Where each frozen filter comes from, by its id, and the shape of an image."""
    if layers is None:
        told = file.story.get("layers")
        if not isinstance(told, Mapping):
            raise AdapterError(
                "the patch does not say which layers its filters come from; patch a model that "
                "`repairkit export` wrote, or give its map (`layers=`)"
            )
        framework, shape = told["framework"], tuple(told["input_shape"])
        origins = {name: Origin(**origin) for name, origin in told["frozen"].items()}
    else:
        known = layers if isinstance(layers, LayerMap) else _read_map(Path(layers))
        framework, shape = known.framework, known.input_shape
        found = {f.id: known.origin(f) for f in file.patch.filters}
        origins = {name: origin for name, origin in found.items() if origin is not None}
    if framework != "pytorch":
        raise AdapterError(f"the patched model comes from {framework}, and PyTorch was expected")
    lost = [f.id for f in file.patch.filters if f.id not in origins]
    if lost:
        raise AdapterError(f"the map does not say which layer {lost[0]} comes from")
    return origins, shape


def _read_map(path: Path) -> LayerMap:
    """The map of a `.layers.json` file, or in an ONNX file."""
    if path.suffix.lower() == ".onnx":
        known = read_layer_map(read_model(path).model)
        if known is None:
            raise ModelError(f"{path}: holds no map of layers; export the model with repairkit")
        return known
    try:
        return LayerMap.from_json(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: cannot be read as a map of layers ({error})") from error


def _refuse_unproven(origins: Mapping[str, Origin]) -> None:
    doubtful = [f"{name} ({o.layer}:{o.channel})" for name, o in origins.items() if not o.proven]
    if doubtful:
        raise AdapterError(
            f"the map could not be proven for {', '.join(doubtful)}; give unproven=True to freeze "
            "these all the same, and compare outputs afterwards"
        )


def _jobs(
    file: PatchFile, origins: Mapping[str, Origin], traced: tuple[TracedLayer, ...]
) -> list[_Job]:
    known = {t.layer.name: t for t in traced}
    wanted: dict[str, dict[int, float]] = {}
    for frozen in file.patch.frozen:
        origin = origins[frozen.filter.id]
        layer = known.get(origin.layer)
        if layer is None or origin.channel >= layer.layer.n_channels:
            raise AdapterError(
                f"the model has no channel {origin.channel} in a layer {origin.layer!r}; give the "
                "model that was exported"
            )
        if isinstance(frozen.constant, tuple):
            raise AdapterError(f"{frozen.filter.id} is a tree, and no channel of a layer")
        wanted.setdefault(origin.layer, {})[origin.channel] = frozen.constant
    return [_Job(known[name], constants) for name, constants in wanted.items()]


def _changes(
    model: Any, job: _Job, traced: tuple[TracedLayer, ...], *, lasting: bool
) -> list[_Change]:
    """What must be held in which tensors; nothing is changed yet."""
    layer = job.layer
    conv = _module(model, layer.owner, layer)
    _refuse_shared(layer, traced)
    if not lasting and parametrizations.is_parametrized(conv):
        raise AdapterError(
            f"layer {layer.layer.name!r} is parametrized, so its weights cannot be set; give "
            "parametrize=True, or remove the parametrizations first"
        )
    channels = sorted(job.constants)
    levels = torch.tensor([job.constants[c] for c in channels], dtype=conv.weight.dtype)
    zeros = torch.zeros(len(channels), dtype=conv.weight.dtype)
    changes = [_kernel(conv, layer, channels)]
    norm = _module(model, layer.norm, layer) if layer.norm_call is not None else None
    if norm is None:
        return [*changes, _vector(conv, "bias", channels, levels, layer.layer.n_channels)]
    if conv.bias is not None:
        changes.append(_vector(conv, "bias", channels, zeros, layer.layer.n_channels))
    if norm.weight is not None and norm.bias is not None:
        return [
            *changes,
            _vector(norm, "weight", channels, zeros, layer.layer.n_channels),
            _vector(norm, "bias", channels, levels, layer.layer.n_channels),
        ]
    if lasting:
        raise AdapterError(
            f"layer {layer.norm!r} has no weight and bias that could be held through training; "
            "leave parametrize out, or make it affine"
        )
    spread = torch.sqrt(norm.running_var[channels] + norm.eps)
    means = -levels.to(spread) * spread
    return [*changes, _vector(norm, "running_mean", channels, means, layer.layer.n_channels)]


def _module(model: Any, name: str, layer: TracedLayer) -> Any:
    modules = dict(model.named_modules())
    if not name or name not in modules or not hasattr(modules[name], "weight"):
        raise AdapterError(
            f"layer {layer.layer.name!r} is computed by a function, or its weights are no "
            "parameters of a module; a patch can be taken back to modules such as nn.Conv2d alone"
        )
    return modules[name]


def _refuse_shared(layer: TracedLayer, traced: tuple[TracedLayer, ...]) -> None:
    calls = Counter(name for t in traced for name in (t.owner, t.norm) if name)
    for name in (layer.owner, layer.norm):
        if name and calls[name] > 1:
            raise AdapterError(
                f"module {name!r} is called {calls[name]} times, and its channels can only be "
                "frozen in all of them; keep the repair in the ONNX file"
            )


def _kernel(conv: Any, layer: TracedLayer, channels: list[int]) -> _Change:
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


def _vector(module: Any, name: str, channels: list[int], values: Any, n_channels: int) -> _Change:
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
