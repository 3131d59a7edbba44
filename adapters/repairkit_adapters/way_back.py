"""From a patch of the ONNX file to the channels of the framework's layers that it freezes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from repairkit.core.errors import AdapterError
from repairkit.core.layer_map import LayerMap
from repairkit.core.patch import FrozenFilter, Patch
from repairkit.graph.files import read_model
from repairkit.graph.layer_names import read_layer_map
from repairkit.workflows.patch_file import PatchFile, read_patch_file


@dataclass(frozen=True)
class FrozenChannel:
    """A channel of a layer, by the layer's name, and what it is to yield."""

    layer: str
    channel: int
    constant: float


def channels_to_freeze(
    patch: str | Path | PatchFile | Patch, layers: LayerMap, *, unproven: bool = False
) -> tuple[FrozenChannel, ...]:
    """The channels that a patch freezes.

    Args:
        patch: what `repairkit patch` wrote, by its path or read.
        layers: the map of the exported model.
        unproven: take channels of which the map is not proven, too.

    Raises:
        AdapterError: the map does not tell of a filter, or not for sure.
        RepairkitError: the patch file cannot be read.
    """
    if isinstance(patch, str | Path):
        patch = read_patch_file(Path(patch))
    frozen = patch.patch.frozen if isinstance(patch, PatchFile) else patch.frozen
    return tuple(_channel(one, layers, unproven=unproven) for one in frozen)


def map_of(patch: str | Path | PatchFile | Patch, layers: str | Path | LayerMap | None) -> LayerMap:
    """The map of layers.

    Args:
        patch: whose own map is taken where no other is given.
        layers: the map, the ONNX file that holds it, or the file that `export` wrote beside it.

    Raises:
        AdapterError: there is none.
        RepairkitError: a file cannot be read.
    """
    if isinstance(layers, LayerMap):
        return layers
    if layers is None:
        if isinstance(patch, str | Path):
            patch = read_patch_file(Path(patch))
        held = patch.story.get("layers") if isinstance(patch, PatchFile) else None
        if held is None:
            raise AdapterError(
                "the patch does not tell which layers its filters are; give layers=, the .onnx "
                "file that was exported or its .layers.json"
            )
        return _parsed(held, "the patch file")
    path = Path(layers)
    if path.suffix.lower() == ".onnx":
        found = read_layer_map(read_model(path))
        if found is None:
            raise AdapterError(
                f"{path}: holds no map of layers; export the model with `repairkit export`"
            )
        return found
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: cannot be read as a map of layers ({error})") from error
    return _parsed(document, str(path))


def _parsed(document: object, where: str) -> LayerMap:
    try:
        return LayerMap.from_json(document)
    except ValueError as error:
        raise AdapterError(f"{where}: is no map of layers ({error})") from error


def _channel(one: FrozenFilter, known: LayerMap, *, unproven: bool) -> FrozenChannel:
    origin = known.origin(one.filter)
    if origin is None:
        raise AdapterError(
            f"the map does not tell which layer the filter {one.filter.id} is; give the map of the "
            "very model that was patched"
        )
    if not origin.proven and not unproven:
        raise AdapterError(
            f"it is not proven that the filter {one.filter.id} is channel {origin.channel} of "
            f"{origin.layer}; pass unproven=True to freeze it all the same"
        )
    if isinstance(one.constant, tuple):
        raise AdapterError(f"the filter {one.filter.id} is a tree, and no channel of a layer")
    return FrozenChannel(origin.layer, origin.channel, one.constant)
