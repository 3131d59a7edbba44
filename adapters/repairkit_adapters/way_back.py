"""From a patch of the ONNX file to the channels of the framework's layers that it freezes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Layer
from repairkit.core.layer_map import LayerMap, Origin
from repairkit.core.patch import FrozenFilter, Patch
from repairkit.formats.patch_file import PatchFile, read_patch_file
from repairkit.graph.layer_names import read_layer_map
from repairkit.graph.stored.files import read_model


@dataclass(frozen=True)
class FrozenChannel:
    """A channel of a layer, by the layer's name, and what it is to yield."""

    layer: str
    channel: int
    constant: float


@dataclass(frozen=True)
class Homecoming:
    """What a patch freezes in the framework's model, which takes images of a shape."""

    input_shape: tuple[int, ...]
    channels: tuple[FrozenChannel, ...]


def find_home(
    patch: str | Path | PatchFile | Patch,
    layers: str | Path | LayerMap | None,
    *,
    framework: str,
    unproven: bool,
) -> Homecoming:
    """The channels that a patch freezes.

    Args:
        patch: what `repairkit patch` wrote, by its path or read.
        layers: the map of layers, the exported ONNX file that holds it, or the file that `export`
            wrote beside it; if None, what the patch file tells of its filters.
        framework: that the model must have come from.
        unproven: take channels of which the map is not proven, too.

    Raises:
        AdapterError: nothing tells which layers the filters are, or not for sure, or the model
            came from another framework.
        RepairkitError: a file cannot be read.
    """
    if isinstance(patch, str | Path):
        patch = read_patch_file(Path(patch))
    frozen = patch.patch.frozen if isinstance(patch, PatchFile) else patch.frozen
    if layers is not None:
        known = layers if isinstance(layers, LayerMap) else _read_map(Path(layers))
        source, shape = known.framework, known.input_shape
        origins = {one.filter.id: known.origin(one.filter) for one in frozen}
    else:
        source, shape, origins = _told(patch)
    if source != framework:
        raise AdapterError(f"the patched model comes from {source}, and {framework} was expected")
    channels = [_channel(one, origins.get(one.filter.id), unproven=unproven) for one in frozen]
    return Homecoming(shape, tuple(channels))


def channels_by_layer(
    channels: Sequence[FrozenChannel], layers: Sequence[Layer]
) -> dict[str, dict[int, float]]:
    """What is frozen in each layer: channel to constant.

    Raises:
        AdapterError: there is no such layer or channel.
    """
    sizes = {layer.name: layer.n_channels for layer in layers}
    found: dict[str, dict[int, float]] = {}
    for one in channels:
        if not 0 <= one.channel < sizes.get(one.layer, 0):
            raise AdapterError(
                f"the model has no channel {one.channel} of a layer {one.layer!r}; give the model "
                "that was exported"
            )
        found.setdefault(one.layer, {})[one.channel] = one.constant
    return found


def _read_map(path: Path) -> LayerMap:
    if path.suffix.lower() == ".onnx":
        found = read_layer_map(read_model(path).model)
        if found is None:
            raise AdapterError(
                f"{path}: holds no map of layers; export the model with `repairkit export`"
            )
        return found
    try:
        return LayerMap.from_json(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: cannot be read as a map of layers ({error})") from error


def _told(patch: PatchFile | Patch) -> tuple[str, tuple[int, ...], dict[str, Origin | None]]:
    """The framework, the shape of an image, and the origins that a patch file tells."""
    told: Any = patch.story.get("layers") if isinstance(patch, PatchFile) else None
    if told is None:
        raise AdapterError(
            "the patch does not tell which layers its filters are; give layers=, the .onnx file "
            "that was exported or its .layers.json"
        )
    try:
        origins: dict[str, Origin | None] = {
            name: Origin(str(o["layer"]), int(o["channel"]), o["proven"] is True)
            for name, o in told["frozen"].items()
        }
        shape = tuple(int(size) for size in told["input_shape"])
        return str(told["framework"]), shape, origins
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            "what the patch file tells of layers is broken; give layers=, the .onnx file that was "
            "exported or its .layers.json"
        ) from error


def _channel(one: FrozenFilter, origin: Origin | None, *, unproven: bool) -> FrozenChannel:
    if origin is None:
        raise AdapterError(
            f"nothing tells which layer the filter {one.filter.id} is; give layers= of the very "
            "model that was patched"
        )
    if not origin.proven and not unproven:
        raise AdapterError(
            f"it is not proven that the filter {one.filter.id} is channel {origin.channel} of "
            f"{origin.layer}; pass unproven=True to freeze it all the same"
        )
    if isinstance(one.constant, tuple):
        raise AdapterError(f"the filter {one.filter.id} is a tree, and no channel of a layer")
    return FrozenChannel(origin.layer, origin.channel, one.constant)
