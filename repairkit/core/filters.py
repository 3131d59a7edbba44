"""Sites, filters, their order as players, and which layer of a framework each comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.core.framework import Layer
from repairkit.core.suite import Array

FilterMeans = dict[str, Array]
"""What each filter yields when absent: site name to an array of the site's `level_shape`."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A tensor whose channel axis holds filters.

    `name` is the layer's node name, or its first output's name where that is empty or shared.
    `tensor` is where the filters are read and masked: after a bias `Add` or a
    `BatchNormalization` that follows the layer alone (and after the activation, if asked). Where
    the tensor holds integer codes, they mean `(code - zero) * scale`; levels are never codes.

    The filters of a tree ensemble are its trees: `tensor` is the sum of what they yield, and each
    yields `n_values` numbers, one per class or target. A channel has none: it yields one number
    per position.
    """

    name: str
    kind: str
    tensor: str
    node: str
    channel_axis: int
    n_channels: int
    rank: int
    dtype: str = "float32"
    scale: float | None = None
    zero: int = 0
    n_values: int | None = None

    @property
    def level_shape(self) -> tuple[int, ...]:
        """The shape of what the filters yield when absent: one number each, or `n_values`."""
        return (self.n_channels,) if self.n_values is None else (self.n_channels, self.n_values)

    @property
    def in_tensor(self) -> bool:
        """Whether the tensor holds what each filter yields; that of trees holds only their sum."""
        return self.n_values is None

    def numbers(self, stored: Array) -> Array:
        """The numbers that the tensor's contents mean: themselves, or those behind codes."""
        if self.scale is None:
            return stored
        return np.asarray((stored.astype(np.float64) - self.zero) * self.scale)

    def stored(self, levels: Array) -> Array:
        """Levels as the tensor holds them: rounded to its type, or as codes."""
        if self.scale is None:
            return np.asarray(levels.astype(self.dtype))
        limits = np.iinfo(self.dtype)
        codes = np.rint(levels.astype(np.float64) / self.scale) + self.zero
        return np.asarray(np.clip(codes, limits.min, limits.max).astype(self.dtype))


@dataclass(frozen=True)
class Sums:
    """What the filters of a site yielded in all, (level_shape), and over how many numbers each."""

    total: NDArray[np.float64]
    count: int

    def mean(self, site: Site) -> Array:
        """As the levels of absent filters: float32, or float64 for trees."""
        return (self.total / self.count).astype(np.float32 if site.in_tensor else np.float64)


@dataclass(frozen=True)
class Filter:
    """One channel of one site."""

    site: str
    channel: int

    @property
    def id(self) -> str:
        return f"{self.site}:{self.channel}"

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read `SITE:CHANNEL`, split at the last colon.

        Raises:
            SettingsError: there is no colon, or no whole number behind it.
        """
        site, colon, channel = text.rpartition(":")
        if not colon or not site or not channel.isdecimal():
            raise SettingsError(
                f"{text!r} is not a filter id; expected SITE:CHANNEL such as conv1:7 "
                "(`repairkit inspect MODEL` lists the sites)"
            )
        return cls(site, int(channel))


@dataclass(frozen=True)
class Roster:
    """The ordered filters of a game; the position of a filter is its player's column."""

    sites: tuple[Site, ...]

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        return tuple(Filter(s.name, c) for s in self.sites for c in range(s.n_channels))

    @cached_property
    def _columns(self) -> dict[Filter, int]:
        return {f: column for column, f in enumerate(self.filters)}

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The columns of each site."""
        ends = np.cumsum([site.n_channels for site in self.sites]).tolist()
        return {
            site.name: slice(end - site.n_channels, end)
            for site, end in zip(self.sites, ends, strict=True)
        }

    def __len__(self) -> int:
        return sum(site.n_channels for site in self.sites)

    def __iter__(self) -> Iterator[Filter]:
        return iter(self.filters)

    def column(self, wanted: Filter) -> int:
        """The player of a filter.

        Raises:
            SettingsError: no site or no channel of that name.
        """
        if wanted in self._columns:
            return self._columns[wanted]
        known = {site.name: site for site in self.sites}
        if wanted.site in known:
            raise SettingsError(
                f"site {wanted.site!r} has {known[wanted.site].n_channels} filters, numbered from "
                f"0; there is no filter {wanted.channel}"
            )
        raise SettingsError(
            f"there is no site {wanted.site!r}; the sites are {_some(list(known))} "
            "(`repairkit inspect MODEL` lists them all)"
        )


def _some(names: Sequence[str], at_most: int = 6) -> str:
    shown = ", ".join(names[:at_most])
    return shown + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


LAYER_MAP_SCHEMA = 1


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

    def origin(self, wanted: Filter) -> Origin | None:
        """Where a filter comes from; None where that is not known."""
        mapped = self._by_site.get(wanted.site)
        if mapped is None or wanted.channel >= mapped.layer.n_channels:
            return None
        return Origin(mapped.layer.name, wanted.channel, wanted.channel not in mapped.unproven)

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
            "schema": LAYER_MAP_SCHEMA,
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
        if not isinstance(document, Mapping) or document.get("schema") != LAYER_MAP_SCHEMA:
            raise ValueError(f"it is no map of layers of schema {LAYER_MAP_SCHEMA}")
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
