"""Map a patch of the ONNX file to the channels of the framework's layers that it freezes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from repairkit.core import errors, filters
from repairkit.core.framework import Layer, LayerMap, Origin
from repairkit.formats.patch_file import PatchFile, read_patch_file
from repairkit.graph.metadata import read_layer_map
from repairkit.graph.stored.model_files import read_model

PatchSource: TypeAlias = str | Path | PatchFile | filters.Patch
"""What `repairkit patch` wrote, by its path or read; or a patch that was not written."""

MapSource: TypeAlias = str | Path | LayerMap
"""The exported ONNX file, the file that `export` wrote beside it, or the map of layers itself."""


@dataclass(frozen=True)
class FrozenChannel:
    """A channel of a layer, by the layer's name, and its constant."""

    layer: str
    channel: int
    constant: float


@dataclass(frozen=True)
class FrameworkPatch:
    """The channels that a patch freezes in the framework's model, and its image shape."""

    input_shape: tuple[int, ...]
    channels: tuple[FrozenChannel, ...]


@dataclass(frozen=True)
class _Origins:
    """The framework, its image shape, and the origin of each filter by its id."""

    framework: str
    input_shape: tuple[int, ...]
    origins: Mapping[str, Origin | None]


def find_channels(
    patch: PatchSource, layers: MapSource | None, *, framework: str, unproven: bool
) -> FrameworkPatch:
    """The channels that a patch freezes.

    Args:
        patch: the patch.
        layers: the map of layers; if None, the layers that the patch file names.
        framework: the framework that the model must come from.
        unproven: also take channels for which the map is not proven.

    Raises:
        AdapterError: the layer of a filter is unknown or unproven, or the model came from another
            framework.
        RepairkitError: a file cannot be read.
    """
    if isinstance(patch, str | Path):
        patch = read_patch_file(Path(patch))
    frozen = patch.patch.frozen if isinstance(patch, PatchFile) else patch.frozen
    known = _origins_in_patch(patch) if layers is None else _origins_in_map(layers, frozen)
    if known.framework != framework:
        raise errors.AdapterError(
            f"the patched model comes from {known.framework}, and {framework} was expected"
        )
    origins = [(each, _origin(each, known.origins)) for each in frozen]
    doubtful = [f"{e.filter.id} ({o.layer}:{o.channel})" for e, o in origins if not o.proven]
    if doubtful and not unproven:
        raise errors.AdapterError(
            f"the map of layers is not proven for {', '.join(doubtful)}; give unproven=True to "
            "freeze these all the same, and compare outputs afterwards"
        )
    return FrameworkPatch(known.input_shape, tuple(_channel(e, o) for e, o in origins))


def channels_by_layer(
    channels: Sequence[FrozenChannel], layers: Sequence[Layer]
) -> dict[str, dict[int, float]]:
    """The constants of the frozen channels of each layer.

    Raises:
        AdapterError: there is no such layer or channel.
    """
    sizes = {layer.name: layer.n_channels for layer in layers}
    frozen: dict[str, dict[int, float]] = {}
    for each in channels:
        if not 0 <= each.channel < sizes.get(each.layer, 0):
            raise errors.AdapterError(
                f"the model has no channel {each.channel} in a layer {each.layer!r}; give the "
                "model that was exported"
            )
        frozen.setdefault(each.layer, {})[each.channel] = each.constant
    return frozen


def _origins_in_map(layers: MapSource, frozen: Sequence[filters.FrozenFilter]) -> _Origins:
    known = layers if isinstance(layers, LayerMap) else _read_map(Path(layers))
    origins = {each.filter.id: known.origin(each.filter) for each in frozen}
    return _Origins(known.framework, known.input_shape, origins)


def _read_map(path: Path) -> LayerMap:
    if path.suffix.lower() == ".onnx":
        known = read_layer_map(read_model(path).model)
        if known is None:
            raise errors.AdapterError(
                f"{path}: holds no map of layers; export the model with `repairkit export`"
            )
        return known
    try:
        return LayerMap.from_json(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.AdapterError(f"{path}: cannot be read as a map of layers ({error})") from error


def _origins_in_patch(patch: PatchFile | filters.Patch) -> _Origins:
    story = patch.story.get("layers") if isinstance(patch, PatchFile) else None
    if story is None:
        raise errors.AdapterError(
            "the patch does not say which layers its filters come from; give layers=, the .onnx "
            "file that was exported or its .layers.json"
        )
    try:
        origins = {
            name: Origin(str(origin["layer"]), int(origin["channel"]), origin["proven"] is True)
            for name, origin in story["frozen"].items()
        }
        shape = tuple(int(size) for size in story["input_shape"])
        return _Origins(str(story["framework"]), shape, origins)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.AdapterError(
            "what the patch file says of layers is broken; give layers=, the .onnx file that was "
            "exported or its .layers.json"
        ) from error


def _origin(frozen: filters.FrozenFilter, origins: Mapping[str, Origin | None]) -> Origin:
    origin = origins.get(frozen.filter.id)
    if origin is None:
        raise errors.AdapterError(
            f"the map of layers does not say which layer the filter {frozen.filter.id} comes from; "
            "give layers= of the very model that was patched"
        )
    return origin


def _channel(frozen: filters.FrozenFilter, origin: Origin) -> FrozenChannel:
    if isinstance(frozen.constant, tuple):
        raise errors.AdapterError(
            f"the filter {frozen.filter.id} is a tree, and not a channel of a layer; keep the "
            "repair in the ONNX file"
        )
    return FrozenChannel(origin.layer, origin.channel, frozen.constant)
