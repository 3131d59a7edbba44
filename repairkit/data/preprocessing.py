"""What the model takes as input, how pixels become it, and images that are ready for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.text import check_keys, counted, did_you_mean

# Position of (channels, height, width) in a shape without its batch axis.
_AXES = {"nchw": (0, 1, 2), "nhwc": (2, 0, 1)}
_IMAGE_RANK = 3


@dataclass(frozen=True)
class InputSpec:
    """The model's image input, without its batch axis.

    `layout` is `nchw`, `nhwc`, or `other` for an input whose rank is not 4: its arrays are passed
    on unchanged. `shape` holds None where the model leaves a size open, e.g. `(3, None, None)`.
    """

    layout: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    @property
    def channels(self) -> int | None:
        return self._size(0)

    @property
    def height(self) -> int | None:
        return self._size(1)

    @property
    def width(self) -> int | None:
        return self._size(2)

    def _size(self, which: int) -> int | None:
        return self.shape[_AXES[self.layout][which]] if self.layout in _AXES else None

    def with_layout(self, layout: str | None) -> InputSpec:
        """The same input read in `layout`; None leaves it as it is.

        Raises:
            SettingsError: the input has no three axes that could be laid out.
        """
        if layout is None or layout == self.layout:
            return self
        if len(self.shape) != _IMAGE_RANK:
            raise errors.SettingsError(
                f"layout {layout} needs a model input of rank 4 and this one has rank "
                f"{len(self.shape) + 1}; leave layout out and give --data as a ready .npz"
            )
        return replace(self, layout=layout)


@dataclass(frozen=True)
class FurtherInput:
    """An input that the model takes besides its images.

    `shape` is as declared, None where a size is open. Where `per_image`, its first axis is the
    images'.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    per_image: bool

    @property
    def single(self) -> tuple[int | None, ...]:
        """The shape for one image."""
        return (1, *self.shape[1:]) if self.per_image else self.shape


def describe_shape(shape: tuple[int | None, ...]) -> str:
    """`(3, None, 224)` as `3 x ? x 224`."""
    return " x ".join("?" if size is None else str(size) for size in shape) or "a single number"


def shape_fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Whether a shape is the one wanted, in which None stands for any size."""
    return len(shape) == len(wanted) and all(
        want in (None, have) for have, want in zip(shape, wanted, strict=True)
    )


def is_tabular(spec: InputSpec) -> bool:
    """Whether the model takes a row of numbers, and no image."""
    return len(spec.shape) == 1


COLORS = ("rgb", "bgr", "gray")
LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Preprocessing:
    """From decoded 8-bit pixels to the model's input: resize, crop, colour, scale, mean, std.

    A value becomes `(pixel * scale - mean) / std`, with pixels in 0..255. `resize` is (height,
    width), or the length of the shorter side; `crop` is cut from the centre, after the resizing.
    `mean` and `std` hold one number, or one per channel in the order in which the model takes them.
    `layout` overrides the layout of the model's input.

    Raises:
        SettingsError: a value makes no sense.
    """

    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    color: str | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str | None = None

    def __post_init__(self) -> None:
        _check_sizes("resize", self.resize)
        _check_sizes("crop", self.crop)
        _check_choice("color", self.color, COLORS)
        _check_choice("layout", self.layout, LAYOUTS)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise errors.SettingsError(
                f"scale is {self.scale}; expected a number above 0, like 1/255"
            )
        if not all(math.isfinite(value) for value in self.mean):
            raise errors.SettingsError(f"mean is {self.mean}; expected finite numbers")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise errors.SettingsError(f"std is {self.std}; expected numbers above 0")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> Preprocessing:
        """Read settings as they stand in `repairkit.toml` or in options.

        Numbers may be written as `"1/255"`, several as a list or as `"0.5,0.5,0.5"`, sizes also as
        `"256"` and `"224x224"`. `where` opens the message of an error.

        Raises:
            SettingsError: a key is unknown or a value makes no sense.
        """
        check_keys(mapping, [field.name for field in fields(cls)], where)
        try:
            return cls(**{key: _PARSERS[key](key, value) for key, value in mapping.items()})
        except errors.SettingsError as error:
            raise errors.SettingsError(f"{where}: {error}") from error


def value_table(
    preprocessing: Preprocessing, channels: int, dtype: np.dtype[Any]
) -> NDArray[np.generic]:
    """What each of the 256 pixel values becomes in each channel: (channels, 256), model's dtype.

    Computed in float64 and rounded once; integer dtypes are rounded and clipped to their range.

    Raises:
        SettingsError: `mean` or `std` do not fit the channels, or dtype cannot hold the values.
    """
    mean = _per_channel("mean", preprocessing.mean or (0.0,), channels)
    std = _per_channel("std", preprocessing.std or (1.0,), channels)
    values = (np.arange(256.0) * preprocessing.scale - mean[:, None]) / std[:, None]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    if dtype.kind != "f":
        raise errors.SettingsError(
            f"the model's input takes {dtype}, which no image can be turned into"
        )
    with np.errstate(over="ignore"):
        table = values.astype(dtype)
    if not np.isfinite(table).all():
        raise errors.SettingsError(
            f"scale {preprocessing.scale} and std {preprocessing.std} give values beyond the range "
            f"of the model's {dtype} input; check both"
        )
    return table


def _per_channel(key: str, values: tuple[float, ...], channels: int) -> NDArray[np.float64]:
    if len(values) not in (1, channels):
        raise errors.SettingsError(
            f"{key} has {len(values)} values and the model takes {counted(channels, 'channel')}; "
            f"give {'1' if channels == 1 else f'1 or {channels}'}"
        )
    return np.broadcast_to(np.array(values, dtype=np.float64), (channels,))


def _check_sizes(key: str, sizes: tuple[int, int] | int | None) -> None:
    if sizes is not None and min(sizes if isinstance(sizes, tuple) else (sizes,)) < 1:
        raise errors.SettingsError(f"{key} is {sizes}; expected at least 1 pixel")


def _check_choice(key: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        hint = did_you_mean(str(value), known)
        raise errors.SettingsError(f"{key} is {value!r}; expected one of {', '.join(known)}{hint}")


def _parse_number(key: str, value: Any) -> float:
    problem = errors.SettingsError(
        f"{key} is {value!r}; expected a number, or a fraction like '1/255'"
    )
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise problem
    try:
        numerator, slash, denominator = str(value).partition("/")
        return float(numerator) / float(denominator) if slash else float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise problem from None


def _parse_numbers(key: str, value: Any) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    return tuple(_parse_number(key, part) for part in parts)


def _parse_sizes(key: str, value: Any) -> tuple[int, ...]:
    parts = value.lower().replace("x", ",").split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    try:
        sizes = tuple(int(part) for part in parts if isinstance(part, int | str))
    except ValueError:
        sizes = ()
    if len(sizes) != len(parts) or len(sizes) not in (1, 2) or any(p is True for p in parts):
        raise errors.SettingsError(
            f"{key} is {value!r}; expected one size, or [height, width], in whole pixels"
        )
    return sizes


def _parse_resize(key: str, value: Any) -> tuple[int, ...] | int:
    sizes = _parse_sizes(key, value)
    return sizes if len(sizes) > 1 else sizes[0]


def _parse_crop(key: str, value: Any) -> tuple[int, ...]:
    sizes = _parse_sizes(key, value)
    return sizes if len(sizes) > 1 else sizes * 2


def _parse_word(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise errors.SettingsError(f"{key} is {value!r}; expected a word in quotes")
    return value.strip().lower()


_PARSERS: Mapping[str, Callable[[str, Any], Any]] = {
    "resize": _parse_resize,
    "crop": _parse_crop,
    "color": _parse_word,
    "scale": _parse_number,
    "mean": _parse_numbers,
    "std": _parse_numbers,
    "layout": _parse_word,
}


@dataclass(frozen=True, eq=False)
class PixelImages:
    """Stored 8-bit pixels, preprocessed batch by batch.

    `pixels` is uint8 (n_images, height, width, channels), channels in the model's order. `table` is
    (channels, 256): what each pixel value becomes, in the model's dtype. A table is exact, and
    quicker than arithmetic on every pixel.
    """

    pixels: NDArray[np.uint8]
    table: NDArray[np.generic]
    channels_first: bool

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: suite.Indices) -> suite.Array:
        """Images of shape (len(indices), *model input without its batch axis), model's dtype."""
        height, width, channels = self.pixels.shape[1:]
        planes = np.empty((len(indices), channels, height, width), dtype=self.table.dtype)
        for image, index in zip(planes, indices, strict=True):
            stored = np.asarray(self.pixels[index])
            for channel, plane in enumerate(image):
                # No index is out of range; with "clip" numpy makes no buffered copy.
                np.take(self.table[channel], stored[..., channel], out=plane, mode="clip")
        return planes if self.channels_first else np.ascontiguousarray(planes.transpose(0, 2, 3, 1))

    def take(self, indices: suite.Indices) -> PixelImages:
        """Some of the images, in this order, copied."""
        return PixelImages(np.asarray(self.pixels[indices]), self.table, self.channels_first)


@dataclass(frozen=True, eq=False)
class ReadyImages:
    """Arrays that are passed to the model as they are.

    `array` is (n_images, *model input without its batch axis); casting to `dtype` is known to keep
    its values.
    """

    array: suite.Array
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: suite.Indices) -> suite.Array:
        """Images of shape (len(indices), *model input without its batch axis), model's dtype."""
        return self.array[indices].astype(self.dtype, copy=False)

    def take(self, indices: suite.Indices) -> ReadyImages:
        """Some of the images, in this order, copied."""
        return ReadyImages(np.asarray(self.array[indices]), self.dtype)


# The range of pixels


_BLOCK = 1024  # images


@dataclass(frozen=True)
class InputEnds:
    """What the darkest and the brightest pixel become in the model's input, and why.

    `low` and `high` are one number for all channels, or one for each.
    """

    low: suite.Array
    high: suite.Array
    origin: str


def pixel_ends(
    images: suite.ImageSource,
    spec: InputSpec,
    preprocessing: Preprocessing,
    given: tuple[float, float] | None,
) -> InputEnds:
    """The range of pixels.

    A given range comes first. For images that were read as 8-bit pixels the range follows from the
    preprocessing, and also for ready arrays if scale, mean or std are set. For other arrays it
    reaches from their least value to their greatest.

    Raises:
        SettingsError: the preprocessing does not fit the model.
    """
    if given is not None:
        low, high = np.array(given)
        return InputEnds(low, high, f"given as {given[0]:g} to {given[1]:g}")
    if isinstance(images, PixelImages):
        return InputEnds(images.table[:, 0], images.table[:, -1], "8-bit pixels, preprocessed")
    scaled = Preprocessing(
        scale=preprocessing.scale, mean=preprocessing.mean, std=preprocessing.std
    )
    if scaled != Preprocessing():
        channels = spec.channels or max(len(scaled.mean), len(scaled.std), 1)
        table = value_table(scaled, channels, spec.dtype)
        origin = "scale, mean and std of the preprocessing, taken to have made the ready images"
        return InputEnds(table[:, 0], table[:, -1], origin)
    rows = np.arange(len(images))
    blocks = [images.batch(rows[i : i + _BLOCK]) for i in range(0, len(rows), _BLOCK)]
    low, high = np.array(min(b.min() for b in blocks)), np.array(max(b.max() for b in blocks))
    origin = (
        f"the least and the greatest value of the ready images, {low:g} and {high:g}; give "
        "--range LOW,HIGH if pixels may go further"
    )
    return InputEnds(low, high, origin)
