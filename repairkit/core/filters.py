"""Sites, filters and their order as players; patches: filters and the constants to hold them at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.nouns import TREE

FilterMeans = dict[str, suite.Array]
"""What each filter yields when absent: site name to an array of the site's `level_shape`."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A tensor whose channel axis holds filters.

    `name` is the layer's node name, or its first output's name where that is empty or shared.
    `tensor` is where the filters are read and masked: after a bias `Add` or a
    `BatchNormalization` that follows the layer alone (and after the activation, if asked). Where
    the tensor holds integer codes, they mean `(code - zero) * scale`; levels are never codes.

    A channel yields one number per position. The filters of other sites yield `n_values` numbers
    each. Those of a tree ensemble are its trees, with a number per class or target: `tensor` is the
    sum of what they yield. Those of an attention are its heads: the numbers of a head lie along
    `value_axis` of the tensor.
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
    value_axis: int | None = None

    @property
    def level_shape(self) -> tuple[int, ...]:
        """The shape of what the filters yield when absent: one number each, or `n_values`."""
        return (self.n_channels,) if self.n_values is None else (self.n_channels, self.n_values)

    @property
    def in_tensor(self) -> bool:
        """Whether the tensor holds what each filter yields; that of trees holds only their sum."""
        return self.n_values is None or self.value_axis is not None

    @property
    def yields_one_number(self) -> bool:
        """Whether a filter yields one number per position, as channels do."""
        return self.n_values is None

    def numbers(self, stored: suite.Array) -> suite.Array:
        """The numbers that the tensor's contents mean: themselves, or those behind codes."""
        if self.scale is None:
            return stored
        return np.asarray((stored.astype(np.float64) - self.zero) * self.scale)

    def stored(self, levels: suite.Array) -> suite.Array:
        """Levels as the tensor holds them: rounded to its type, or as codes."""
        if self.scale is None:
            return np.asarray(levels.astype(self.dtype))
        limits = np.iinfo(self.dtype)
        codes = np.rint(levels.astype(np.float64) / self.scale) + self.zero
        return np.asarray(np.clip(codes, limits.min, limits.max).astype(self.dtype))


@dataclass(frozen=True)
class Sums:
    """Sums of what the filters of a site yielded, (level_shape), each over `count` numbers."""

    total: NDArray[np.float64]
    count: int

    def mean(self, site: Site) -> suite.Array:
        """The levels of absent filters: float32, or float64 for trees."""
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
            raise errors.SettingsError(
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

    @property
    def unit(self) -> dict[str, str]:
        """The `unit` of documents: tree where filters are trees, else nothing."""
        return {} if all(site.in_tensor for site in self.sites) else {"unit": TREE}

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
            raise errors.SettingsError(
                f"site {wanted.site!r} has {known[wanted.site].n_channels} filters, numbered from "
                f"0; there is no filter {wanted.channel}"
            )
        raise errors.SettingsError(
            f"there is no site {wanted.site!r}; the sites are {_some(list(known))} "
            "(`repairkit inspect MODEL` lists them all)"
        )


def _some(names: Sequence[str], at_most: int = 6) -> str:
    shown = ", ".join(names[:at_most])
    return shown + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


# What a patch is

Constant = float | tuple[float, ...]
"""What a frozen filter yields: one number, or for a tree one per class or target."""


def constant_of(level: Any) -> Constant:
    """A constant from a number, an array or a list; a list of one number is that number.

    Raises:
        TypeError, ValueError: `level` is neither.
    """
    if not np.ndim(level):
        return float(level)
    numbers = tuple(map(float, level))
    return numbers[0] if len(numbers) == 1 else numbers


@dataclass(frozen=True)
class FrozenFilter:
    """A filter and the constant that it is to yield.

    `gain`, in [0, 1), is how much of the filter is left: it yields
    `constant + gain * (own output - constant)`. With 0 it yields the constant alone.
    """

    filter: Filter
    constant: Constant
    gain: float = 0.0


def constant_text(frozen: FrozenFilter) -> str:
    """The constant of a frozen filter in as many digits as 32-bit floats have."""
    return " ".join(f"{number:.9g}" for number in np.atleast_1d(frozen.constant))


HeadKind = Literal["bias", "last-layer"]


@dataclass(frozen=True, eq=False)
class HeadChange:
    """New numbers for the layer that makes the class scores.

    Attributes:
        kind: `bias` where only the biases change; `last-layer` where the weights change too.
        layer: its name, as a site's: of its node, or of the node's first output.
        bias: (n_classes,), the whole bias of every class; None where the layer has none before
            and after.
        weight: (n_classes, n_features), or None for kind `bias`.
    """

    kind: HeadKind
    layer: str
    bias: NDArray[np.float64] | None = None
    weight: NDArray[np.float64] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadChange) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        arrays = (self.bias, self.weight)
        return (
            self.kind,
            self.layer,
            *(a if a is None else (a.shape, a.tobytes()) for a in arrays),
        )


@dataclass(frozen=True)
class Patch:
    """Filters and constants, and a change of the head if any; decided, not yet applied.

    Filters are ordered as they were chosen.
    """

    frozen: tuple[FrozenFilter, ...] = ()
    head: HeadChange | None = None

    @property
    def filters(self) -> tuple[Filter, ...]:
        return tuple(f.filter for f in self.frozen)

    def __len__(self) -> int:
        """How many filters are frozen."""
        return len(self.frozen)


# What baking writes


@dataclass(frozen=True, kw_only=True)
class TensorChange:
    """Values at flat positions of the tensor that a node reads at `slot`.

    `clone` names the new initializer, if the tensor is shared or computed and has to be cloned.
    """

    node: int
    slot: int
    positions: suite.Array
    values: NDArray[np.float64]
    clone: str


@dataclass(frozen=True, kw_only=True)
class AddedTensor:
    """A new initializer that a node reads at `slot`."""

    node: int
    slot: int
    array: suite.Array
    name: str


@dataclass(frozen=True, kw_only=True)
class ListChange:
    """Values at flat positions of a list of numbers, the attribute `name` of a node."""

    node: int
    name: str
    positions: NDArray[np.intp]
    values: suite.Array


Change = TensorChange | AddedTensor | ListChange


@dataclass(frozen=True, kw_only=True)
class TensorEdit:
    """One change that baking made to a stored tensor, enough to undo it.

    `kind` is `initializer` or `constant` (edited in place: `old` holds the little-endian bytes
    that stood at the flat element ranges `runs`), or `added` (a new initializer `tensor`, read by
    input `slot` of node `node` instead of `replaces`, which is None where it had no such input), or
    `attribute` (edited in place as a tensor would be: the list `tensor` of the node that makes
    `node`).
    """

    kind: str
    tensor: str
    runs: Sequence[tuple[int, int]] = ()
    old: bytes = b""
    node: str = ""
    slot: int = 0
    replaces: str | None = None
