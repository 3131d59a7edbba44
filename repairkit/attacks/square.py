"""The Square attack: a model's scores alone, no gradient.

Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random
search", ECCV 2020, algorithm 2 and section 3.3, with a target. An image begins with stripes at the
ends of its ball; then squares of it, smaller and smaller, are set to one end in each channel, and a
change is kept where it brings the target nearer. An image that is taken for its target is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.attacks.box import Images, PixelBox
from repairkit.attacks.targets import Labels
from repairkit.core.errors import SettingsError

Scores = Callable[[Images], NDArray[np.floating[Any]]]
"""Images to a row of scores each, one per class: logits or log-probabilities."""

# After how many of 10,000 queries the squares' share of the image is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square:
    """Settings of the attack.

    Attributes:
        epsilon: how far a pixel may move, as a share of the pixel range.
        n_queries: times that an image is shown to the model at the most.
        first_share: of the image that the first squares cover.
    """

    epsilon: float = 16 / 255
    n_queries: int = 1000
    first_share: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1 or not 0 < self.first_share <= 1:
            raise SettingsError(
                f"epsilon is {self.epsilon:g} and the squares' first share {self.first_share:g}; "
                "both lie above 0 and are 1 at most"
            )
        if self.n_queries < 1:
            raise SettingsError(f"{self.n_queries} queries make no attack; give 1 or more")


def square(
    images: Images,
    targets: Labels,
    scores: Scores,
    box: PixelBox,
    settings: Square,
    rng: np.random.Generator,
) -> Images:
    """Images close to those given that the model is to take for the targets.

    Args:
        images: shape (n_images, three axes), within the box; never modified.
        targets: the class that each is to be taken for.
        scores: of the attacked model; called once a query, on the images not yet taken for theirs.
        box: the pixel range.
        settings: of the attack.
        rng: draws stripes, squares and signs.
    """
    least, greatest = box.around(images, settings.epsilon)
    current = np.where(_stripes(images.shape, box.channel_axis, rng), least, greatest)
    margins = _margins(scores(current), targets)
    for query in range(1, settings.n_queries):
        left = np.flatnonzero(~(margins > 0))
        if not len(left):
            break
        side = _side(query, settings, images.shape, box.channel_axis)
        tried = _with_squares(current[left], least[left], greatest[left], side, box, rng)
        found = _margins(scores(tried), targets[left])
        better = found > margins[left]
        current[left[better]], margins[left[better]] = tried[better], found[better]
    return current


def _margins(scores: NDArray[np.floating[Any]], targets: Labels) -> NDArray[np.float64]:
    """By how much each target is ahead of every other class: (n_images,); -inf for a NaN."""
    rows = np.arange(len(scores))
    others = scores.astype(np.float64)
    own = others[rows, targets]
    others[rows, targets] = -np.inf
    with np.errstate(invalid="ignore"):
        margins = own - others.max(axis=1)
    return np.where(np.isnan(margins), -np.inf, margins)


def _spatial(shape: tuple[int, ...], channel_axis: int) -> tuple[int, int]:
    """The axes of a batch of images that are height and width."""
    if len(shape) != 4:
        raise SettingsError(f"squares need images with three axes, and these have {len(shape) - 1}")
    first, second = (axis for axis in (1, 2, 3) if axis != channel_axis + 1)
    return first, second


def _stripes(
    shape: tuple[int, ...], channel_axis: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Where an image begins dark: the same all the way down, drawn for each column and channel."""
    height, _ = _spatial(shape, channel_axis)
    drawn = rng.random([1 if axis == height else size for axis, size in enumerate(shape)]) < 0.5
    return np.broadcast_to(drawn, shape)


def _side(query: int, settings: Square, shape: tuple[int, ...], channel_axis: int) -> int:
    """How long the squares of a query are, in pixels."""
    passed = 10_000 * query / settings.n_queries
    share = settings.first_share / 2 ** sum(passed > mark for mark in _HALVINGS)
    height, width = (shape[axis] for axis in _spatial(shape, channel_axis))
    return min(max(1, round(math.sqrt(share * height * width))), height, width)


def _with_squares(
    images: Images,
    least: Images,
    greatest: Images,
    side: int,
    box: PixelBox,
    rng: np.random.Generator,
) -> Images:
    """Each image with one square of it at an end of its ball, drawn anew for each channel."""
    height, width = _spatial(images.shape, box.channel_axis)
    shape = [1, 1, 1, 1]
    inside = np.ones((len(images), 1, 1, 1), bool)
    for axis in (height, width):
        start = rng.integers(0, images.shape[axis] - side + 1, (len(images), 1, 1, 1))
        along = [*shape]
        along[axis] = images.shape[axis]
        position = np.arange(images.shape[axis]).reshape(along)
        inside = inside & (position >= start) & (position < start + side)
    signs = [len(images), 1, 1, 1]
    signs[box.channel_axis + 1] = images.shape[box.channel_axis + 1]
    ends = np.where(rng.random(signs) < 0.5, least, greatest)
    tried: Images = np.where(inside, ends, images)
    return tried
