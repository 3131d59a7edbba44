"""Sites, filters and the order in which they become the players of a game."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import SettingsError

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
        return (self.total / self.count).astype(np.float32 if site.n_values is None else np.float64)


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
