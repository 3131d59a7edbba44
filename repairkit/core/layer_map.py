"""Which filter of an ONNX file is which channel of which layer in the framework it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from repairkit.core.filters import Filter
from repairkit.core.framework import Layer

SCHEMA = 1


@dataclass(frozen=True)
class MappedLayer:
    """A framework's layer and the site whose filter c is its channel c.

    Attributes:
        layer: as the framework's user knows it.
        site: None where none was found, which `note` explains.
        unproven: channels of which it could not be proven that they are this site's filters.
        note: for people; empty where there is nothing to say.
    """

    layer: Layer
    site: str | None
    unproven: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a filter comes from."""

    layer: str
    channel: int
    proven: bool

    def __str__(self) -> str:
        """`LAYER:CHANNEL`, and whether that is not proven."""
        return f"{self.layer}:{self.channel}" + ("" if self.proven else " (unproven)")


@dataclass(frozen=True)
class LayerMap:
    """The layers of a model, in the order of computation, and the sites that they became.

    Attributes:
        framework: as the adapter calls it.
        input_shape: of one image, in the framework's layout.
        layers: each with its site.
    """

    framework: str
    input_shape: tuple[int, ...]
    layers: tuple[MappedLayer, ...]

    @cached_property
    def _by_site(self) -> dict[str, MappedLayer]:
        return {mapped.site: mapped for mapped in self.layers if mapped.site is not None}

    @cached_property
    def _by_layer(self) -> dict[str, MappedLayer]:
        return {mapped.layer.name: mapped for mapped in self.layers}

    def origin(self, found: Filter) -> Origin | None:
        """Where a filter comes from; None where that is not known."""
        mapped = self._by_site.get(found.site)
        if mapped is None or found.channel >= mapped.layer.n_channels:
            return None
        return Origin(mapped.layer.name, found.channel, found.channel not in mapped.unproven)

    def layer_at(self, site: str) -> str:
        """The name of the layer that became a site; empty where it is not known."""
        mapped = self._by_site.get(site)
        return "" if mapped is None else mapped.layer.name

    def filter_named(self, wanted: Filter) -> Filter:
        """The filter that `LAYER:CHANNEL` names; `wanted` itself where no layer has the name."""
        mapped = self._by_layer.get(wanted.site)
        if mapped is None or mapped.site is None:
            return wanted
        return Filter(mapped.site, wanted.channel)

    def to_json(self) -> dict[str, Any]:
        layers = [
            {
                "layer": m.layer.name,
                "kind": m.layer.kind,
                "filters": m.layer.n_channels,
                "site": m.site,
                **({"unproven": list(m.unproven)} if m.unproven else {}),
                **({"note": m.note} if m.note else {}),
            }
            for m in self.layers
        ]
        return {
            "schema": SCHEMA,
            "framework": self.framework,
            "input_shape": list(self.input_shape),
            "layers": layers,
        }

    @classmethod
    def from_json(cls, document: Any) -> LayerMap:
        """What `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
            raise ValueError(f"it is no map of layers of schema {SCHEMA}")
        shape = tuple(_count(size) for size in _list(document.get("input_shape")))
        layers = tuple(_mapped(entry) for entry in _list(document.get("layers")))
        sites = [m.site for m in layers if m.site is not None]
        names = [m.layer.name for m in layers]
        if len(set(sites)) != len(sites) or len(set(names)) != len(names):
            raise ValueError("it names a layer or a site twice")
        return cls(_text(document.get("framework")), shape, layers)


def _mapped(entry: Any) -> MappedLayer:
    if not isinstance(entry, Mapping):
        raise ValueError("a layer is no object")
    layer = Layer(_text(entry.get("layer")), _text(entry.get("kind")), _count(entry.get("filters")))
    site = None if entry.get("site") is None else _text(entry.get("site"))
    unproven = tuple(_count(channel) for channel in _list(entry.get("unproven", [])))
    if any(channel >= layer.n_channels for channel in unproven):
        raise ValueError(f"layer {layer.name!r} has no such channel")
    return MappedLayer(layer, site, unproven, _text(entry.get("note", "")))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of things")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value
