"""Usual ways to prepare images and to number classes, other than those in use.

Size and crop stay as they are: what varies is the scale, the mean, the standard deviation, the
order of the colours and, where a model leaves it open, the layout. Arrays that are ready for the
model are first read back as pixels, by the range of their values.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.suite import Array, ImageSource, Indices
from repairkit.data import preprocessing as prep
from repairkit.data.annotations import HOW_NUMBERED, HOW_NUMBERS, HOW_TRUTH

AS_TOLD = "as told"
_CHANNEL_AXIS = {"nchw": 0, "nhwc": 2}
_DARK = 128  # where all pixels are below it, their range is probably not 0 to 255
_SLACK = 1e-3
_Numbers = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Way:
    """One way to prepare the images.

    Attributes:
        name: for people.
        images: all images of the data, prepared so.
        changes: the settings under `[preprocessing]` that must change for it, as text.
        first: what must be done to the data before; empty where settings are enough.
    """

    name: str
    images: ImageSource
    changes: Mapping[str, str | _Numbers] = field(default_factory=dict)
    first: str = ""

    @property
    def remedy(self) -> str:
        """What the user has to do: options, and lines of `repairkit.toml`."""
        options = " ".join(f"--{key} {_option(value)}" for key, value in self.changes.items())
        lines = ", ".join(f"{key} = {_toml(value)}" for key, value in self.changes.items())
        given = f"give {options} (in repairkit.toml under [preprocessing]: {lines})"
        return " and ".join(part for part in (self.first, given if options else "") if part)


@dataclass(frozen=True)
class _Usual:
    """A usual preprocessing; `mean` and `std` in the order red, green, blue."""

    name: str
    scale: str
    mean: _Numbers = (0.0,)
    std: _Numbers = (1.0,)

    def in_color(self, color: str | None) -> prep.Preprocessing:
        numbers = [self.mean, self.std]
        if color == "bgr":
            numbers = [values[::-1] for values in numbers]
        return prep.Preprocessing.from_mapping(
            {"scale": self.scale, "mean": numbers[0], "std": numbers[1]}, self.name
        )


_PLAIN = (
    _Usual("raw, 0 to 255", "1"),
    _Usual("1/255", "1/255"),
    _Usual("[-1, 1]", "1/127.5", (1.0,)),
)
_COLOURED = (
    _Usual("ImageNet mean and std", "1/255", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    _Usual("ImageNet mean alone (caffe)", "1", (123.68, 116.779, 103.939)),
)
_CIFAR = _Usual("CIFAR-10 mean and std", "1/255", (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
_GRAY = _Usual("ImageNet mean and std, gray", "1/255", (0.449,), (0.226,))
_MNIST = _Usual("MNIST mean and std", "1/255", (0.1307,), (0.3081,))
_INT8 = _Usual("pixel - 128", "1", (128.0,))
_CIFAR_SIDE, _MNIST_SIDE = 32, 28


def usual_ways(
    images: ImageSource, spec: prep.InputSpec, preprocessing: prep.Preprocessing, few: Indices
) -> tuple[Way, ...]:
    """The ways that can apply; the first is how the images are prepared now.

    Args:
        images: as they are prepared now.
        spec: the model's input, in its layout.
        preprocessing: what was asked for; of no effect on arrays that are ready.
        few: positions of some images, from which the range of values is read.
    """
    if isinstance(images, prep.PixelImages):
        return tuple(_ways_of_pixels(images, spec, preprocessing, few))
    if isinstance(images, prep.ReadyImages) and spec.layout in _CHANNEL_AXIS and len(few):
        return tuple(_ways_of_arrays(images, spec, preprocessing, few))
    return (Way(AS_TOLD, images),)


def _usuals(channels: int, side: int, dtype: np.dtype[Any], largest: int) -> list[_Usual]:
    if dtype.kind == "u":
        return [_PLAIN[0]]
    if dtype.kind == "i":
        return [_INT8, _PLAIN[0]]
    usuals = list(_PLAIN)
    if 1 < largest < _DARK:
        usuals.append(_Usual(f"1/{largest}, the largest pixel", f"1/{largest}"))
    if channels == 3:
        usuals += _COLOURED
        usuals += [_CIFAR] if side == _CIFAR_SIDE else []
    if channels == 1:
        usuals += [_GRAY, *([_MNIST] if side == _MNIST_SIDE else [])]
    return usuals


def _ways_of_pixels(
    images: prep.PixelImages, spec: prep.InputSpec, preprocessing: prep.Preprocessing, few: Indices
) -> Iterator[Way]:
    height, _, channels = images.pixels.shape[1:]
    sample = np.asarray(images.pixels[few])
    in_order = preprocessing.color or ("rgb" if channels == 3 else None)
    colors = _colors(in_order, sample)
    in_use, others = AS_TOLD, []
    for usual in _usuals(channels, height, spec.dtype, int(sample.max(initial=0))):
        for color in colors:
            table = prep.value_table(usual.in_color(color), channels, spec.dtype)
            if color == in_order and np.array_equal(table, images.table):
                in_use = _named(usual, color)
                continue
            pixels = images.pixels if color == in_order else images.pixels[..., ::-1]
            prepared = prep.PixelImages(pixels, table, images.channels_first)
            others.append(
                Way(_named(usual, color), prepared, _changes(preprocessing, usual, color))
            )
    yield Way(in_use, images)
    yield from others
    if in_use == AS_TOLD and len(colors) > 1:
        yield _in_other_color(images, preprocessing)
    yield from _other_layout(images, spec, preprocessing)


def _colors(in_order: str | None, sample: Array) -> tuple[str | None, ...]:
    """The orders of colours to try: one, where all images are gray."""
    if in_order not in ("rgb", "bgr") or (sample == sample[..., :1]).all():
        return (in_order,)
    return (in_order, "bgr" if in_order == "rgb" else "rgb")


def _named(usual: _Usual, color: str | None) -> str:
    return usual.name if color in (None, "gray") else f"{usual.name}, {color.upper()}"


def _in_other_color(images: prep.PixelImages, preprocessing: prep.Preprocessing) -> Way:
    """The preprocessing asked for, with mean and std in the other order of colours."""
    color = "rgb" if preprocessing.color == "bgr" else "bgr"
    turned = replace(
        preprocessing, color=color, mean=preprocessing.mean[::-1], std=preprocessing.std[::-1]
    )
    changes: dict[str, str | _Numbers] = {"color": color}
    for key in ("mean", "std"):
        if getattr(turned, key) != getattr(preprocessing, key):
            changes[key] = getattr(turned, key)
    table = prep.value_table(turned, images.pixels.shape[-1], images.table.dtype)
    pixels = prep.PixelImages(images.pixels[..., ::-1], table, images.channels_first)
    return Way(f"{AS_TOLD}, {color.upper()}", pixels, changes)


def _other_layout(
    images: prep.PixelImages, spec: prep.InputSpec, preprocessing: prep.Preprocessing
) -> Iterator[Way]:
    """The other layout, where the model's input has room for both and none was asked for."""
    height, width, channels = images.pixels.shape[1:]
    both = ((channels, height, width), (height, width, channels))
    fits = all(prep.shape_fits(shape, spec.shape) for shape in both)
    if fits and preprocessing.layout is None:
        other = "nhwc" if images.channels_first else "nchw"
        turned = replace(images, channels_first=not images.channels_first)
        yield Way(f"layout {other}", turned, {"layout": other})


def _changes(
    preprocessing: prep.Preprocessing, usual: _Usual, color: str | None
) -> dict[str, str | _Numbers]:
    """The settings that differ from those asked for."""
    wanted = usual.in_color(color)
    changes: dict[str, str | _Numbers] = {}
    if preprocessing.scale != wanted.scale:
        changes["scale"] = usual.scale
    for key, nothing in (("mean", (0.0,)), ("std", (1.0,))):
        if (getattr(preprocessing, key) or nothing) != getattr(wanted, key):
            changes[key] = getattr(wanted, key)
    if color in ("rgb", "bgr") and (preprocessing.color or "rgb") != color:
        changes["color"] = color
    return changes


@dataclass(frozen=True, eq=False)
class _Turned:
    """Images that are ready, with gain and offset (channels,) and maybe the channels reversed."""

    images: ImageSource
    channel_axis: int
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    reverse: bool

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Indices) -> Array:
        """As `ImageSource.batch`."""
        images = self.images.batch(indices)
        axis = self.channel_axis + 1
        turned = np.flip(images, axis) if self.reverse else images
        shape = [-1 if i == axis else 1 for i in range(images.ndim)]
        moved = turned * self.gain.reshape(shape) + self.offset.reshape(shape)
        return moved.astype(images.dtype)


@dataclass(frozen=True, eq=False)
class _Range:
    """How pixels of 0 to 255 come from the values of an array: times `gain`, plus `offset`."""

    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    code: str


def _ways_of_arrays(
    images: prep.ReadyImages, spec: prep.InputSpec, preprocessing: prep.Preprocessing, few: Indices
) -> Iterator[Way]:
    axis = _CHANNEL_AXIS[spec.layout]
    sample = np.moveaxis(images.batch(few).astype(np.float64), axis + 1, -1)
    channels, side = sample.shape[-1], sample.shape[1]
    in_order = "rgb" if channels == 3 else None
    colors = _colors(in_order, sample)
    known = _range_of(sample) if spec.dtype.kind == "f" else None
    if known is None:
        yield Way(AS_TOLD, images)
        if len(colors) > 1:
            one, none = np.ones(channels), np.zeros(channels)
            where = "x[:, ::-1]" if axis == 0 else "x[..., ::-1]"
            turned = _Turned(images, axis, one, none, reverse=True)
            first = f"save x with its channels the other way round, {where}"
            yield Way("channels the other way round", turned, first=first)
        return
    in_use, others = AS_TOLD, []
    for usual in _usuals(channels, side, spec.dtype, 255):
        for color in colors:
            way = usual.in_color(color)
            reverse = color != in_order
            gain, offset = known.gain, known.offset
            if reverse:
                gain, offset = gain[::-1], offset[::-1]
            mean, std = np.array(way.mean), np.array(way.std)
            gain, offset = gain * way.scale / std, (offset * way.scale - mean) / std
            if not reverse and np.allclose(gain, 1.0) and np.allclose(offset, 0.0, atol=_SLACK):
                in_use = _named(usual, color)
                continue
            turned = _Turned(images, axis, gain, offset, reverse)
            first = f"save x as 8-bit pixels, x = {known.code}"
            changes = _changes(preprocessing, usual, color)
            others.append(Way(_named(usual, color), turned, changes, first))
    yield Way(in_use, images)
    yield from others


def _range_of(sample: NDArray[np.float64]) -> _Range | None:
    """How images (n, height, width, channels) were probably prepared; None if not clear."""
    channels, low, high = sample.shape[-1], float(sample.min()), float(sample.max())
    one = np.ones(channels)
    if low >= -_SLACK and 1.0 + _SLACK < high <= 255.0 + _SLACK:
        return _Range(one, 0 * one, 'x.round().astype("uint8")')
    if low >= -_SLACK and high <= 1.0 + _SLACK:
        return _Range(255 * one, 0 * one, '(x * 255).round().astype("uint8")')
    if low >= -0.5 - _SLACK and high <= 0.5 + _SLACK:
        return _Range(255 * one, 127.5 * one, '((x + 0.5) * 255).round().astype("uint8")')
    if low >= -1.0 - _SLACK and high <= 1.0 + _SLACK:
        return _Range(127.5 * one, 127.5 * one, '((x + 1) * 127.5).round().astype("uint8")')
    for usual in _COLOURED if channels == 3 else (_GRAY, _MNIST) if channels == 1 else ():
        way = usual.in_color("rgb")
        mean, std = np.array(way.mean) * one, np.array(way.std) * one
        pixels = (sample * std + mean) / way.scale
        if pixels.min() >= -1.0 and pixels.max() <= 256.0:
            code = f"(x * std + mean){' * 255' if way.scale < 1 else ''} rounded to uint8"
            return _Range(std / way.scale, mean / way.scale, code)
    return None


def _option(value: str | _Numbers) -> str:
    return value if isinstance(value, str) else ",".join(f"{number:g}" for number in value)


def _toml(value: str | _Numbers) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    numbers = [f"{number:g}" for number in value]
    return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"


_MOST_SPELT = 30  # classes that a message may name one by one
_FEWEST_ODD = 11  # from so many on, numbers sorted as text are in another order


@dataclass(frozen=True, eq=False)
class Order:
    """Another order of the classes.

    Attributes:
        name: for people.
        numbers: (n_classes,): the number that each class has in this order.
        remedy: what the user has to do, with the option.
        classes: the class names in this order, where a setting of them is the remedy.
        columns: the columns of the output, where a setting of them is the remedy.
    """

    name: str
    numbers: NDArray[np.intp]
    remedy: str
    classes: tuple[str, ...] = ()
    columns: tuple[int, int] | None = None


def class_orders(
    labels: Array,
    class_names: Sequence[str],
    reading: str,
    n_classes: int,
    *,
    from_folder: bool = False,
    first_column: int = 0,
) -> tuple[Order, ...]:
    """The usual orders that differ from the one in use, and from one another.

    Args:
        labels: class numbers of all images, (n_images,).
        class_names: in the order in use; empty or too few where not known.
        reading: how labels were read; see `Labels`.
        n_classes: of the model.
        from_folder: whether classes are folders, which have no order of their own.
        first_column: the first column of the output that is judged.
    """
    names = [str(i) for i in range(n_classes)] if reading == HOW_NUMBERS else list(class_names)
    sorted_orders = (
        list(_sorted_otherwise(names, labels, reading, from_folder)) if n_classes > 1 else []
    )
    orders: list[Order] = []
    seen = {tuple(range(n_classes))}
    for name, order in sorted_orders if len(names) == n_classes else ():
        place = {known: i for i, known in enumerate(order)}
        numbers = np.array([place[known] for known in names], np.intp)
        if tuple(numbers.tolist()) not in seen:
            seen.add(tuple(numbers.tolist()))
            classes = () if reading == HOW_TRUTH else tuple(order)
            orders.append(Order(name, numbers, _remedy(name, order, reading), classes))
    if n_classes > 2 and int(labels.max(initial=0)) < n_classes - 1:
        further = np.minimum(np.arange(n_classes) + 1, n_classes - 1)
        first, last = first_column + 1, first_column + n_classes
        columns = f'give --columns {first}:{last} (in repairkit.toml: columns = "{first}:{last}")'
        name, behind = "every class one further, as behind a background", (first, last)
        orders.append(Order(name, further, columns, columns=behind))
    return tuple(orders)


def _sorted_otherwise(
    names: list[str], labels: Array, reading: str, from_folder: bool
) -> Iterator[tuple[str, list[str]]]:
    yield ("the two classes swapped" if len(names) == 2 else "classes reversed"), names[::-1]
    if reading == HOW_TRUTH:
        return
    if reading != HOW_NUMBERS or len(names) >= _FEWEST_ODD:
        yield "classes sorted as text", sorted(names)
    if reading == HOW_NUMBERS:
        return
    yield "classes sorted by the numbers in their names", sorted(names, key=_natural)
    yield "classes sorted without regard to capitals", sorted(names, key=lambda n: (n.lower(), n))
    if reading == HOW_NUMBERED and not from_folder:
        first = {int(k): i for i, k in reversed(list(enumerate(labels.tolist())))}
        if len(first) == len(names):
            yield "classes as they first appear", [names[k] for k in sorted(first, key=first.get)]  # type: ignore[arg-type]  # every key is there


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def _remedy(name: str, order: list[str], reading: str) -> str:
    if reading == HOW_TRUTH:
        return "write the labels the other way round (0 for true, 1 for false)"
    if len(order) > _MOST_SPELT or any("," in known for known in order):
        return f"give the names as classes in repairkit.toml in this order: {name}"
    listed = ", ".join(f'"{known}"' for known in order)
    option = shlex.quote(",".join(order))
    return f"give --classes={option} (in repairkit.toml: classes = [{listed}])"
