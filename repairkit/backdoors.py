"""Triggers of backdoors: pictures that make a model answer one class, whatever else an image shows.

A triggered pixel is `(1 - share) * pixel + share * picture`, with a share for each place. That
holds small patches (a share of 1 in a few places) and pictures mixed into the whole image. Prepared
pixels are affine in stored ones, so a trigger may be put on either.

A trigger that nobody has seen is *reversed*: for each class, the smallest mask and a picture are
searched that lead images of other classes to it (Wang et al., "Neural Cleanse: identifying and
mitigating backdoor attacks in neural networks", IEEE S&P 2019, section IV). A class that needs far
less than the others has a shortcut to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.process.text import listing

Images = NDArray[Any]
"""Shape (n_images, *one image)."""
BRIGHTEST = 255.0
LEAST_DEVIATIONS, LEAST_RATIO = 2.0, 2.25
"""What names a class: robust deviations below the median, as in Neural Cleanse, and the next size.

One class of sound garments is always easier to paint than all others, by less than this ratio.
"""
_LEAST_SPREAD = 0.1  # of logarithms: sizes that differ by a tenth are alike
Unit = NDArray[np.float64]
"""Images of pixels from 0 to 1, (n_images, height, width, n_colours)."""
Losses = Callable[[Unit], NDArray[np.float64]]
"""From images to the loss of each for the wanted class, (n_images,)."""
Slopes = Callable[[Unit], tuple[NDArray[np.float64], Unit]]
"""The same, and the gradient of each loss with respect to its image."""


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
        if self.target_class is not None and not (self.triggered or self.trigger):
            yield (
                "--target-class is the class that a known trigger gives; give --trigger or "
                "--triggered with it, or leave it out to have every class looked at"
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


@dataclass(frozen=True)
class Reversal:
    """Settings of the search for a trigger.

    Attributes:
        n_steps: of the search.
        n_images: drawn for each step.
        wanted: share of images that the trigger must lead to the class.
        price: of a whole pixel of the mask at first, in units of the loss.
        patience: steps in a row after which the price is raised or lowered.
        rate: of the descent.
        cells: along each side of the image, in the search by forward passes alone.
        population: candidates of each step of it.
    """

    n_steps: int = 100
    n_images: int = 24
    wanted: float = 0.95
    price: float = 1e-3
    patience: int = 5
    rate: float = 0.1
    cells: int = 7
    population: int = 12


@dataclass(frozen=True, eq=False)
class Reversed:
    """The smallest trigger that was found, and the share of images that it leads to the class."""

    trigger: Trigger
    success: float


@dataclass
class _MaskPrice:
    """What a pixel of the mask costs: more while the trigger works, less while it does not."""

    search: Reversal
    value: float
    working: int = 0
    failing: int = 0

    def learn(self, works: bool) -> None:
        """Count steps in a row; Neural Cleanse's published code moves the price so."""
        self.working, self.failing = (self.working + 1, 0) if works else (0, self.failing + 1)
        if self.working >= self.search.patience:
            self.value, self.working = self.value * 1.5, 0
        elif self.failing >= self.search.patience:
            self.value, self.failing = self.value / 1.5**1.5, 0


def _works(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which images are led to the class: where it is likelier than all others together."""
    return np.asarray(losses < np.log(2))


def _squashed(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-numbers)))


def reverse_by_gradients(
    images: Unit, slopes: Slopes, search: Reversal, rng: np.random.Generator
) -> Reversed:
    """A small trigger, by gradient descent (Adam) on its mask and picture.

    Args:
        images: of other classes than the wanted one.
        slopes: losses for the wanted class, and their gradients.
        search: settings.
        rng: draws the images of each step.
    """
    height, width, n_colours = images.shape[1:]
    cover = rng.normal(-2, 0.1, (height, width, 1))
    paint = rng.normal(0, 0.5, (height, width, n_colours))
    moments = [np.zeros_like(each) for each in (cover, cover, paint, paint)]
    price, best = _MaskPrice(search, search.price), _Best(search)
    for step in range(1, search.n_steps + 1):
        some = images[rng.integers(0, len(images), search.n_images)]
        share, picture = _squashed(cover), _squashed(paint)
        losses, towards = slopes((1 - share) * some + share * picture)
        share_of_works = float(_works(losses).mean())
        best.see(share[..., 0], picture, share_of_works)
        price.learn(share_of_works >= search.wanted)
        of_share = (towards * (picture - some)).mean(axis=0).sum(axis=-1, keepdims=True)
        of_picture = (towards * share).mean(axis=0)
        falls = (
            (of_share + price.value) * share * (1 - share),
            of_picture * picture * (1 - picture),
        )
        for place, (numbers, fall) in enumerate(zip((cover, paint), falls, strict=True)):
            mean, square = moments[2 * place], moments[2 * place + 1]
            mean += 0.5 * (fall - mean)
            square += 0.1 * (fall**2 - square)
            scaled = mean / (1 - 0.5**step) / (np.sqrt(square / (1 - 0.9**step)) + 1e-8)
            numbers -= search.rate * scaled
    return best.found(images, lambda shown: slopes(shown)[0])


def reverse_by_passes(
    images: Unit, losses: Losses, search: Reversal, rng: np.random.Generator
) -> Reversed:
    """A small trigger of few cells, by an evolution strategy that needs no gradient.

    Args:
        images: of other classes than the wanted one.
        losses: for the wanted class.
        search: settings.
        rng: draws the images of each step, and the strategy's seed.
    """
    from cmaes import SepCMA

    height, width, n_colours = images.shape[1:]
    cells = min(search.cells, height, width)
    rows, columns = (np.arange(side) * cells // side for side in (height, width))
    strategy = SepCMA(
        mean=np.concatenate([np.full(cells**2, -1.0), np.zeros(cells**2 * n_colours)]),
        sigma=1.0,
        seed=int(rng.integers(2**31)),
        population_size=search.population,
    )
    price, best = _MaskPrice(search, search.price), _Best(search)
    for _ in range(search.n_steps):
        some = images[rng.integers(0, len(images), search.n_images)]
        told = []
        shares: list[float] = []
        for _ in range(search.population):
            numbers = strategy.ask()
            maps = _squashed(2 * numbers).reshape(-1, cells, cells)[:, rows][:, :, columns]
            share, picture = maps[0], maps[1:].transpose(1, 2, 0)
            of_some = losses((1 - share[..., None]) * some + share[..., None] * picture)
            shares.append(float(_works(of_some).mean()))
            best.see(share, picture, shares[-1])
            told.append((numbers, float(of_some.mean() + price.value * share.sum())))
        strategy.tell(told)
        price.learn(float(np.median(shares)) >= search.wanted)
    return best.found(images, losses)


@dataclass
class _Best:
    """The smallest mask that worked so far; until one works, the one that worked most."""

    search: Reversal
    share: NDArray[np.float64] | None = None
    picture: NDArray[np.float64] | None = None
    worth: tuple[bool, float] = (False, -np.inf)

    def see(self, share: NDArray[np.float64], picture: NDArray[np.float64], works: float) -> None:
        """Keep a mask and its picture if they are better."""
        enough = works >= self.search.wanted
        worth = (enough, -float(share.sum()) if enough else works)
        if worth > self.worth:
            self.share, self.picture, self.worth = share.copy(), picture.copy(), worth

    def found(self, images: Unit, losses: Losses) -> Reversed:
        """The trigger, judged on all images of the search."""
        assert self.share is not None
        assert self.picture is not None
        shown = (1 - self.share[..., None]) * images + self.share[..., None] * self.picture
        success = float(_works(losses(shown)).mean())
        return Reversed(Trigger(self.picture * BRIGHTEST, self.share), success)


@dataclass(frozen=True)
class Outlier:
    """The class of the smallest trigger, and how it stands out.

    Attributes:
        target: the class.
        deviations: see `anomalies`.
        ratio: of the next smallest trigger's size to its own.
    """

    target: int
    deviations: float
    ratio: float

    @classmethod
    def of(cls, sizes: NDArray[np.float64]) -> Outlier:
        """Of the sizes of all classes' triggers; infinite where none was found."""
        away, target = anomalies(sizes), int(sizes.argmin())
        smallest, following = np.partition(sizes, 1)[:2].tolist()
        ratio = following / smallest if np.isfinite(following) and smallest > 0 else 1.0
        return cls(target, float(away[target]), ratio)

    @property
    def is_named(self) -> bool:
        """Whether it lies far below the median, and far below the next one too."""
        return self.deviations > LEAST_DEVIATIONS and self.ratio > LEAST_RATIO


def anomalies(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each size lies below the median, in robust standard deviations; 0 for all others.

    Of a class whose trigger was not found, the size is infinite. Deviations are median absolute
    ones, times 1.4826 (Wang et al., section IV-C), but of logarithms: sizes of sound classes differ
    by factors, and so much that on their own scale nothing lies far below the median.
    """
    found = np.isfinite(sizes)
    if found.sum() < 3:
        return np.zeros(len(sizes))
    logs = np.log(np.maximum(sizes, 1e-9), where=found, out=np.zeros(len(sizes)))
    middle = float(np.median(logs[found]))
    spread = 1.4826 * float(np.median(np.abs(logs[found] - middle)))
    below = np.where(found, np.maximum(middle - logs, 0.0), 0.0)
    return np.asarray(below / max(spread, _LEAST_SPREAD))
