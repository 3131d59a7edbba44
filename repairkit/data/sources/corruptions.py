"""Copies of images as cameras and files spoil them: noise, blur, contrast, brightness, JPEG.

Names, severities and strengths are those of Hendrycks & Dietterich (ICLR 2019): of ImageNet-C for
images with more than 64 pixels on the shorter side, of CIFAR-10-C for smaller ones. Each image is
followed by its copies, and the column `corruption` tells them apart. Images are changed in the
range of their pixels, after resizing and before scale, mean and std.

Blur, JPEG and resizing are Pillow's. Noise is drawn by numpy for each image, corruption and
severity, and for nothing else, so that the copies are the same for every seed and in any company.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from repairkit.core import attacked, errors, suite
from repairkit.core.process.stages import stage
from repairkit.core.process.text import did_you_mean, listing
from repairkit.data import preprocessing as prep
from repairkit.data.dataset import LoadedImages, Records
from repairkit.data.images import allocate_pixels

Pixels = suite.Array
"""One image, (height, width, channels), from 0 to 1."""
_Change = Callable[[Pixels, float, np.random.Generator], Pixels]

USUAL_SEVERITY = 3
SMALL_SIDE = 64
"""Pixels of the shorter side up to which the strengths of CIFAR-10-C are used."""
COMMON = ("gaussian_noise", "gaussian_blur", "brightness", "contrast", "jpeg_compression")
_SHORT = {"noise": COMMON[0], "blur": COMMON[1], "jpeg": COMMON[4]}
_DIM = 64  # pixels of files that are all below it are read as going from 0 to the largest
_STREAM = 1903  # apart from every seed of a job


@dataclass(frozen=True)
class Corruption:
    """A kind of damage at one severity, from 1 to 5."""

    name: str
    severity: int = USUAL_SEVERITY

    def __str__(self) -> str:
        usual = self.severity == USUAL_SEVERITY
        return self.name if usual else f"{self.name}:{self.severity}"

    def strength(self, side: int) -> float:
        """The number that tells how strong it is, for images with `side` pixels at the shorter."""
        return KINDS[self.name].strengths(side)[self.severity - 1]

    def spoil(self, image: Pixels, number: int) -> Pixels:
        """A copy of an image.

        Args:
            image: (height, width, channels), from 0 to 1.
            number: of the image in its data, which tells its noise from that of others.
        """
        order = list(KINDS).index(self.name)
        rng = np.random.default_rng([_STREAM, order, self.severity, number])
        changed = KINDS[self.name].change(image, self.strength(min(image.shape[:2])), rng)
        return np.asarray(np.clip(changed, 0, 1), np.float32)


def read_corruptions(names: Sequence[str]) -> tuple[Corruption, ...]:
    """Corruptions by name: `jpeg_compression`, with a severity `jpeg_compression:5`, or `common`.

    Raises:
        SettingsError: a name or a severity is unknown, or one corruption is named twice.
    """
    wanted: list[Corruption] = []
    for text in names:
        name, colon, number = text.strip().lower().replace("-", "_").partition(":")
        name = _SHORT.get(name, name)
        if name != "common" and name not in KINDS:
            known = ("common", *KINDS)
            raise errors.SettingsError(
                f"--corruptions names {text!r}; expected {', '.join(known)}, each with a severity "
                f"from 1 to 5 where wanted, such as jpeg_compression:5{did_you_mean(name, known)}"
            )
        if colon and number not in ("1", "2", "3", "4", "5"):
            raise errors.SettingsError(
                f"--corruptions {text!r} has the severity {number!r}; expected 1, 2, 3, 4 or 5"
            )
        severity = int(number) if colon else USUAL_SEVERITY
        wanted += [Corruption(one, severity) for one in (COMMON if name == "common" else (name,))]
    twice = [one for one in wanted if wanted.count(one) > 1]
    if twice:
        raise errors.SettingsError(f"--corruptions names {str(twice[0])!r} twice; name each once")
    return tuple(wanted)


def with_corruptions(
    records: Records, names: Sequence[str], spec: prep.InputSpec, preprocessing: prep.Preprocessing
) -> Records:
    """The images, and after them the copies by each corruption in turn.

    They get the columns `corruption` (`none` for the images as they are) and `image`, a number that
    an image and its copies share.

    Args:
        records: what was read.
        names: of the corruptions; see `read_corruptions`.
        spec: of the model's input.
        preprocessing: of the images.

    Raises:
        SettingsError: see `read_corruptions`; or the model takes no images.
        DataError: the data has a column of one of these names already.
    """
    wanted = read_corruptions(names)
    if spec.layout not in prep.LAYOUTS:
        raise errors.SettingsError(
            f"--corruptions spoils images and the model takes {prep.describe_shape(spec.shape)} "
            "per sample; leave it out, or set --layout"
        )
    taken = [n for n in (attacked.CORRUPTION, attacked.IMAGE) if n in records.attributes]
    if taken:
        raise errors.DataError(
            f"the data has a column {taken[0]!r} and --corruptions makes one of that name; rename "
            "the column, or leave --corruptions out and group by the column"
        )
    n_images = len(records.load().images) if records.labels is None else len(records.labels)
    times = len(wanted) + 1

    def repeated(column: suite.Array) -> suite.Array:
        return np.tile(column, times)

    kinds = np.array([attacked.CLEAN, *map(str, wanted)])
    attributes = {name: repeated(column) for name, column in records.attributes.items()}
    attributes |= {
        attacked.CORRUPTION: np.repeat(kinds, n_images),
        attacked.IMAGE: repeated(np.arange(n_images)),
    }
    locate = records.locate
    return replace(
        records,
        labels=None if records.labels is None else repeated(records.labels),
        split=None if records.split is None else repeated(records.split),
        attributes=attributes,
        locate=lambda index: locate(index % n_images),
        load=partial(_load, records.load, wanted, spec, preprocessing),
        further={name: _Repeated(source, times) for name, source in records.further.items()},
    )


@dataclass(frozen=True)
class _Repeated:
    """The rows of a source several times over."""

    source: suite.ImageSource
    times: int

    def __len__(self) -> int:
        return len(self.source) * self.times

    def batch(self, indices: suite.Indices) -> suite.Array:
        """See `ImageSource`."""
        return self.source.batch(indices % len(self.source))


def _load(
    load: Callable[[], LoadedImages],
    wanted: Sequence[Corruption],
    spec: prep.InputSpec,
    preprocessing: prep.Preprocessing,
) -> LoadedImages:
    """The images and their copies."""
    loaded = load()
    made, ends = _copies(loaded.images, wanted, spec, preprocessing)
    shape = made.batch(np.arange(1)).shape[1:]
    side = min(shape[1:] if spec.layout == "nchw" else shape[:2])
    strengths = [f"{one} at {one.strength(side):g}" for one in wanted]
    digest = hashlib.sha256("\n".join([loaded.digest, *strengths]).encode()).hexdigest()
    family = "CIFAR-10-C" if side <= SMALL_SIDE else "ImageNet-C"
    copies = "a spoiled copy" if len(wanted) == 1 else f"{len(wanted)} spoiled copies"
    note = (
        f"each image has {copies}, with the strengths of {family}: "
        f"{listing(strengths)}; pixels go from {ends}"
    )
    return LoadedImages(made, digest, (*loaded.notes, note))


def _copies(
    images: suite.ImageSource,
    wanted: Sequence[Corruption],
    spec: prep.InputSpec,
    preprocessing: prep.Preprocessing,
) -> tuple[suite.ImageSource, str]:
    """The images and their copies, stored as the images are; and the range of pixels in words."""
    n_images, bgr = len(images), preprocessing.color == "bgr"
    if isinstance(images, prep.PixelImages):
        pixels = images.pixels
        brightest = max((int(pixels[i].max()) for i in range(n_images)), default=255)
        high = brightest if 0 < brightest < _DIM else 255
        stored = allocate_pixels((n_images * (len(wanted) + 1), *pixels.shape[1:]))
        for number in range(n_images):
            stored[number] = pixels[number]
        with stage("spoiling images", total=len(stored)) as tell:
            for number in range(n_images, len(stored)):
                image = np.asarray(pixels[number % n_images], np.float32) / high
                copy = _spoiled(image, wanted[number // n_images - 1], number % n_images, bgr=bgr)
                stored[number] = np.rint(copy * high)
                tell(number + 1)
        return prep.PixelImages(stored, images.table, images.channels_first), f"0 to {high}"
    ends = prep.pixel_ends(images, spec, preprocessing, None)
    every = images.batch(np.arange(n_images))
    first = spec.layout == "nchw"
    planes = np.moveaxis(every, 1, 3) if first else every
    span = np.where(ends.high > ends.low, ends.high - ends.low, 1)
    parts = [planes]
    for one in wanted:
        copies = np.stack(
            [
                _spoiled(((image - ends.low) / span).astype(np.float32), one, number, bgr=bgr)
                for number, image in enumerate(planes)
            ]
        )
        back = copies * span + ends.low
        parts.append((np.rint(back) if every.dtype.kind in "iu" else back).astype(every.dtype))
    whole = np.concatenate(parts)
    array = np.ascontiguousarray(np.moveaxis(whole, 3, 1) if first else whole)
    low, high_end = float(np.min(ends.low)), float(np.max(ends.high))
    return prep.ReadyImages(array, every.dtype), f"{low:g} to {high_end:g} ({ends.origin})"


def _spoiled(image: Pixels, one: Corruption, number: int, *, bgr: bool) -> Pixels:
    if not bgr:
        return one.spoil(np.clip(image, 0, 1), number)
    return one.spoil(np.clip(image[..., ::-1], 0, 1), number)[..., ::-1]


# What each corruption does to an image; the strength is the paper's constant


def _gaussian_noise(image: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    return np.asarray(image + rng.normal(0, deviation, image.shape))


def _shot_noise(image: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    return np.asarray(rng.poisson(image * photons) / photons)


def _impulse_noise(image: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Salt and pepper on a share of the values, as many of the one as of the other on average."""
    drawn, changed = rng.random(image.shape), image.copy()
    changed[drawn < share / 2] = 0
    changed[drawn >= 1 - share / 2] = 1
    return changed


def _gaussian_blur(image: Pixels, radius: float, _rng: np.random.Generator) -> Pixels:
    return _by_pillow(image, lambda plane: plane.filter(ImageFilter.GaussianBlur(radius)))


def _brightness(image: Pixels, more: float, _rng: np.random.Generator) -> Pixels:
    """The value of HSV, which is the largest channel, raised; hue and saturation stay."""
    value = image.max(axis=-1, keepdims=True)
    raised = np.minimum(value + more, 1)
    return np.asarray(np.where(value > 0, image * (raised / np.maximum(value, 1e-6)), raised))


def _contrast(image: Pixels, kept: float, _rng: np.random.Generator) -> Pixels:
    mean = image.mean(axis=(0, 1), keepdims=True)
    return np.asarray((image - mean) * kept + mean)


def _pixelate(image: Pixels, share: float, _rng: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    coarse = max(1, int(width * share)), max(1, int(height * share))
    box = Image.Resampling.BOX
    return _by_pillow(image, lambda plane: plane.resize(coarse, box).resize((width, height), box))


def _jpeg_compression(image: Pixels, quality: float, _rng: np.random.Generator) -> Pixels:
    def stored(plane: Image.Image) -> Image.Image:
        file = io.BytesIO()
        plane.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _by_pillow(image, stored)


def _by_pillow(image: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """An image changed with 8 bits for each value; as RGB, else channel by channel."""
    bits = np.rint(image * 255).astype(np.uint8)
    if bits.shape[-1] == 3:
        changed = np.asarray(change(Image.fromarray(bits)))
    else:
        planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(bits, 2, 0)]
        changed = np.stack([np.asarray(change(plane)) for plane in planes], axis=-1)
    return changed.astype(np.float32) / 255


@dataclass(frozen=True)
class _Kind:
    """A corruption: what it does, and its strengths by severity on large and on small images."""

    change: _Change
    large: tuple[float, ...]
    small: tuple[float, ...]

    def strengths(self, side: int) -> tuple[float, ...]:
        return self.small if side <= SMALL_SIDE else self.large


KINDS: Mapping[str, _Kind] = {
    "gaussian_noise": _Kind(
        _gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.06, 0.08, 0.09, 0.1)
    ),
    "shot_noise": _Kind(_shot_noise, (60, 25, 12, 5, 3), (500, 250, 100, 75, 50)),
    "impulse_noise": _Kind(
        _impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), (0.01, 0.02, 0.03, 0.05, 0.07)
    ),
    "gaussian_blur": _Kind(_gaussian_blur, (1, 2, 3, 4, 6), (0.4, 0.6, 0.7, 0.8, 1)),
    "brightness": _Kind(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5), (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": _Kind(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05), (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": _Kind(_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": _Kind(_jpeg_compression, (25, 18, 15, 10, 7), (80, 65, 58, 50, 40)),
}
"""Every corruption by its name in the paper; a new one is an entry here."""
