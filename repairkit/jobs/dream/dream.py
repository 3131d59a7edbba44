"""What a dream is, and the settings by which dreams are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.core.filters import Filter
from repairkit.core.suite import Array
from repairkit.dreams.ascent import Ascent
from repairkit.dreams.evolution import Evolution
from repairkit.engine.site_view import CENTRE, CHANNEL, Window

Way = Literal["gradient", "passes"]
PLACES = (CENTRE, CHANNEL)
_MOST_DREAMS = 16


@dataclass(frozen=True, kw_only=True)
class DreamSettings:
    """How to dream.

    Attributes:
        at: `centre`: excite the filter in the middle of its map, and judge by its peak. `channel`:
            excite and judge its mean over the map.
        diverse: dreams of each filter, each unlike the ones before it.
        pixel_range: the darkest and the brightest pixel in the model's input; from the data or the
            preprocessing if None.
        evolution: of the search by forward passes.
        ascent: of gradient ascent.
    """

    at: str = CENTRE
    diverse: int = 1
    pixel_range: tuple[float, float] | None = None
    evolution: Evolution = field(default_factory=Evolution)
    ascent: Ascent = field(default_factory=Ascent)

    def __post_init__(self) -> None:
        if self.at not in PLACES:
            raise SettingsError(
                f"a filter cannot be excited at {self.at!r}; choose {' or '.join(PLACES)}"
            )
        if not 1 <= self.diverse <= _MOST_DREAMS:
            raise SettingsError(
                f"{self.diverse} dreams of a filter were asked for; give 1 to {_MOST_DREAMS}"
            )


@dataclass(frozen=True, kw_only=True)
class RealResponses:
    """Responses of a filter to real images, measured as those to dreams are.

    Attributes:
        best: the greatest.
        mean: over the images.
        spread: their standard deviation.
        n_images: how many there are.
    """

    best: float
    mean: float
    spread: float
    n_images: int

    def excess(self, response: float) -> float | None:
        """By how many spreads a response exceeds the best; None where all images are alike."""
        return (response - self.best) / self.spread if self.spread > 0 else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Dream:
    """An image that was made to excite a filter.

    Attributes:
        filter: that it is made for.
        number: among the diverse dreams of the filter, from 0.
        image: the part that the filter sees, to be shown: (height, width, 1 or 3), red first.
        input: the whole image as the model takes it, without a batch axis.
        window: where `image` lies in `input`.
        response: of the filter to the dream: at the peak over positions if it was made for the
            centre, else the mean over positions.
        real: the responses to real images; None without images.
        control: the response of the filter to the dream of another filter of its site; None where
            the site has no other.
        control_filter: that other filter, drawn at random.
        way: `gradient` or `passes`.
        passes: images that ran for this dream, with its share of what dreams of a site share.
        seconds: that they took, likewise.
    """

    filter: Filter
    number: int
    image: NDArray[np.uint8]
    input: Array
    window: Window
    response: float
    real: RealResponses | None
    control: float | None
    control_filter: Filter | None
    way: Way
    passes: int
    seconds: float

    @property
    def excess(self) -> float | None:
        """By how many spreads of real images the dream exceeds the best of them."""
        return None if self.real is None else self.real.excess(self.response)

    @property
    def control_excess(self) -> float | None:
        """By how many spreads of real images the control exceeds the best of them."""
        if self.real is None or self.control is None:
            return None
        return self.real.excess(self.control)
