"""Triggers of backdoors: pictures that make a model answer one class, whatever else an image shows.

A triggered pixel is `(1 - share) * pixel + share * picture`, with a share for each place. That
holds small patches (a share of 1 in a few places) and pictures mixed into the whole image. Prepared
pixels are affine in stored ones, so a trigger may be put on either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.process.text import listing

Images = NDArray[Any]
"""Shape (n_images, *one image)."""
BRIGHTEST = 255.0


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """How the backdoor is known that a repair is to close.

    Attributes:
        backdoor: whether there is one to be closed.
        triggered: the column that marks images with the trigger (1, true or yes).
        trigger: an image file of the trigger.
        mask: an image file: white where the trigger replaces the image, black where it leaves it;
            the transparency of the trigger's file if None.
        target_class: the class that the trigger gives, by name or number; if None, the one that
            most triggered images are answered as.
    """

    backdoor: bool = False
    triggered: str | None = None
    trigger: Path | None = None
    mask: Path | None = None
    target_class: str | None = None

    def faults(self) -> Iterator[str]:
        """What contradicts itself."""
        given = {
            "--triggered": self.triggered,
            "--trigger": self.trigger,
            "--mask": self.mask,
            "--target-class": self.target_class,
        }
        said = [option for option, value in given.items() if value is not None]
        if said and not self.backdoor:
            yield f"{listing(said)} tells of a backdoor; add --backdoor, or leave it out"
        if self.triggered is not None and (self.trigger or self.mask):
            yield (
                "--triggered names images that have the trigger and --trigger puts one on clean "
                "images; give one of the two"
            )
        if self.mask is not None and self.trigger is None:
            yield "--mask says where a trigger lies; name the trigger itself with --trigger PNG"
        if self.backdoor and not (self.triggered or self.trigger):
            yield (
                "--backdoor needs to know the trigger; give --trigger PNG with --mask PNG, or "
                "name the column that marks images with the trigger by --triggered"
            )


@dataclass(frozen=True, eq=False)
class Trigger:
    """A trigger.

    Attributes:
        picture: (height, width, n_colours), 0 to 255, colours in the model's order.
        share: (height, width), 0 to 1: how much of the picture each place shows.
    """

    picture: NDArray[np.float64]
    share: NDArray[np.float64]

    @property
    def size(self) -> float:
        """The sum of all shares: how many whole pixels the trigger covers."""
        return float(self.share.sum())

    def on_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Stored images with the trigger, (n_images, height, width, n_colours)."""
        share = self.share[..., None]
        mixed = np.rint((1 - share) * pixels + share * self.picture)
        made: NDArray[np.uint8] = mixed.astype(np.uint8)
        return made

    def on_inputs(
        self, images: Images, low: NDArray[Any], high: NDArray[Any], *, channels_first: bool
    ) -> Images:
        """Images as the model takes them with the trigger; whole numbers are rounded to.

        Args:
            images: (n_images, *one image).
            low: what the darkest pixel becomes: one number, or one for each colour.
            high: what the brightest pixel becomes.
            channels_first: whether colours come before height and width.
        """
        picture = low + self.picture / BRIGHTEST * (np.asarray(high, np.float64) - low)
        share = self.share[..., None]
        if channels_first:
            picture, share = picture.transpose(2, 0, 1), share.transpose(2, 0, 1)
        mixed = (1 - share) * images + share * picture
        whole = images.dtype.kind in "iu"
        made: Images = (np.rint(mixed) if whole else mixed).astype(images.dtype)
        return made
