"""Which size images get, and how: shorter side or exact size, then a crop from the centre.

Resizing and cropping round as torchvision's `Resize` and `CenterCrop` do on Pillow images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.pixels.preprocessing import Preprocessing
from repairkit.data.pixels.spec import InputSpec

_MODES = {1: "L", 3: "RGB"}
_MAX_RESIZED_PIXELS = 1 << 28


@dataclass(frozen=True)
class Geometry:
    """The steps that bring an image to size; `wanted` is what the model takes, None where open.

    All sizes are (height, width) in pixels; an integer `resize` is the length of the shorter side.
    """

    resize: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    wanted: tuple[int | None, int | None]

    @property
    def final_size(self) -> tuple[int, int] | None:
        """The size that every image ends with, where that is known before seeing one."""
        if self.crop is not None:
            return self.crop
        return self.resize if isinstance(self.resize, tuple) else None

    def fits(self, size: tuple[int, int]) -> bool:
        return all(want in (None, have) for want, have in zip(self.wanted, size, strict=True))

    def apply(self, image: Image.Image) -> Image.Image:
        """The image brought to size.

        Raises:
            DataError: it is too small for the crop, or too long and narrow to be resized.
        """
        if self.resize is not None:
            height, width = _resized(self.resize, image.height, image.width)
            if height * width > _MAX_RESIZED_PIXELS:
                raise DataError(
                    f"{image.height} x {image.width} pixels would grow to {height} x {width} when "
                    "resized; remove the image, or set resize to [height, width]"
                )
            if (height, width) != (image.height, image.width):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
        return image if self.crop is None else _crop(image, *self.crop)


def plan_geometry(spec: InputSpec, preprocessing: Preprocessing) -> Geometry:
    """How images get the size that the model takes.

    Without `resize` and `crop` they are resized straight to it; after a `resize` of the shorter
    side alone they are cropped to it.

    Raises:
        SettingsError: the settings end in another size than the model takes.
    """
    resize, crop = preprocessing.resize, preprocessing.crop
    if crop is None and spec.height is not None and spec.width is not None:
        if resize is None:
            resize = (spec.height, spec.width)
        elif isinstance(resize, int):
            crop = (spec.height, spec.width)
    geometry = Geometry(resize, crop, (spec.height, spec.width))
    final = geometry.final_size
    if final is not None and not geometry.fits(final):
        wanted = " x ".join("?" if size is None else str(size) for size in geometry.wanted)
        option = "resize" if crop is None else "crop"
        size = "" if None in geometry.wanted else f" {','.join(map(str, geometry.wanted))}"
        raise SettingsError(
            f"preprocessing ends in images of {final[0]} x {final[1]} pixels and the model takes "
            f"{wanted} (height x width); give --{option}{size or ' that size'}, or leave it out"
        )
    return geometry


def resize_pixels(
    pixels: NDArray[np.uint8], geometry: Geometry, channels: int
) -> NDArray[np.uint8]:
    """One image (height, width, any channels) brought to size: (height, width, channels).

    One channel becomes three by repetition, three become one by Pillow's luminance.

    Raises:
        DataError: it is too small for the crop.
    """
    found = pixels.shape[-1]
    if found in _MODES:
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if found == 1 else pixels))
        if channels != found:
            image = image.convert(_MODES[channels])
        return as_pixels(geometry.apply(image))
    # One plane at a time: Pillow would take a fourth channel for alpha and weigh colours with it.
    planes = [Image.fromarray(np.ascontiguousarray(pixels[..., index])) for index in range(found)]
    return np.stack([np.asarray(geometry.apply(plane)) for plane in planes], axis=-1)


def as_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """A gray or RGB image as uint8 (height, width, channels)."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _resized(resize: tuple[int, int] | int, height: int, width: int) -> tuple[int, int]:
    if isinstance(resize, tuple):
        return resize
    short, long = sorted((height, width))
    grown = int(resize * long / short)
    return (resize, grown) if height <= width else (grown, resize)


def _crop(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.height < height or image.width < width:
        raise DataError(
            f"{image.height} x {image.width} pixels are fewer than the crop of {height} x {width}; "
            "set resize to at least the crop"
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
