"""Attacks: images that are changed a little so that a model takes them for another class.

Preprocessing is affine in each channel. So a ball around an image of pixels is a box around the
model's input, of another width in each channel, and attacks work on the model's input itself: the
sign of a gradient, which is all that they take from it, is the same in both scales.

`pgd` is targeted projected gradient descent within an L-infinity ball (Madry et al., "Towards Deep
Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2; targeted as in Kurakin et
al., "Adversarial Machine Learning at Scale", ICLR 2017). Its defaults are those of Ghorbani & Zou,
"Neuron Shapley", NeurIPS 2020, section 4.

`square` is the Square attack, which needs a model's scores alone and no gradient (Andriushchenko et
al., "Square Attack: a query-efficient black-box adversarial attack via random search", ECCV 2020,
algorithm 2 and section 3.3, with a target). An image begins with stripes at the ends of its ball.
Then squares of it, smaller and smaller, are set to one end in each channel, and a change is kept
where it brings the target nearer. An image that is already taken for its target stays as it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError, SettingsError

Labels = NDArray[np.intp]
"""Shape (n_images,): class numbers."""
Images = NDArray[np.floating[Any]]
"""Shape (n_images, *one image), in the scale of the model's input."""

# The share of the pixel range by which rounding may put images beyond it.
_SLACK = 1e-5
Gradients = Callable[[Images, Labels], Images]
"""Images and a class for each to the gradient of the loss for that class, of the images' shape."""
ClassScores = Callable[[Images], NDArray[np.floating[Any]]]
"""Images to a row of scores each, one per class: logits or log-probabilities."""

# After how many of 10,000 queries the squares' share of the image is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def random_targets(labels: Labels, n_classes: int, rng: np.random.Generator) -> Labels:
    """For each image any class but its own, each as likely.

    Raises:
        SettingsError: there are fewer than two classes.
    """
    if n_classes < 2:
        raise SettingsError(
            f"a targeted attack needs two classes or more and the model has {n_classes}"
        )
    shift = rng.integers(1, n_classes, len(labels))
    targets: Labels = ((labels + shift) % n_classes).astype(np.intp)
    return targets


@dataclass(frozen=True)
class PixelBox:
    """What the darkest and the brightest pixel become in the model's input.

    Attributes:
        low: of the darkest; broadcasts against one image.
        high: of the brightest; likewise.
        channel_axis: of one image; 0 (NCHW) or 2 (NHWC).

    Raises:
        SettingsError: `low` is not below `high`.
    """

    low: Images
    high: Images
    channel_axis: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise SettingsError("the pixel range must be finite")
        if not (self.low < self.high).all():
            raise SettingsError("the pixel range is empty; its lower end must be below its upper")

    def around(self, images: Images, epsilon: float) -> tuple[Images, Images]:
        """The least and the greatest image within `epsilon` of each, and within the range.

        Args:
            images: see `Images`.
            epsilon: a share of the pixel range.
        """
        reach = epsilon * (self.high - self.low)
        least = np.maximum(images - reach, self.low).astype(images.dtype)
        greatest = np.minimum(images + reach, self.high).astype(images.dtype)
        return least, greatest

    def distance(self, images: Images, others: Images) -> float:
        """The greatest difference of two pixels, as a share of the pixel range."""
        return float((np.abs(images - others) / (self.high - self.low)).max(initial=0.0))

    def check(self, images: Images) -> None:
        """Refuse images that reach beyond the range.

        Raises:
            DataError: there is one.
        """
        slack = _SLACK * (self.high - self.low)
        if ((images < self.low - slack) | (images > self.high + slack)).any():
            raise DataError(
                f"the images hold values from {images.min():g} to {images.max():g} and the pixel "
                f"range is {self.low.min():g} to {self.high.max():g} in the model's input; give "
                "the range that they have with --range LOW,HIGH"
            )


@dataclass(frozen=True)
class Pgd:
    """Settings of the attack.

    Attributes:
        epsilon: how far a pixel may move, as a share of the pixel range.
        n_steps: gradients taken.
        step_size: how far a pixel moves in a step, as a share of the pixel range.
        random_start: begin at a point of the ball drawn evenly rather than at the image.
    """

    epsilon: float = 16 / 255
    n_steps: int = 30
    step_size: float = 0.8 / 255
    random_start: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1 or not 0 < self.step_size <= 1:
            raise SettingsError(
                f"epsilon is {self.epsilon:g} and the step {self.step_size:g}; both are shares of "
                "the pixel range, above 0 and at most 1, such as 16/255"
            )
        if self.n_steps < 1:
            raise SettingsError(f"{self.n_steps} steps make no attack; give 1 or more")


def pgd(
    images: Images,
    targets: Labels,
    gradients: Gradients,
    box: PixelBox,
    settings: Pgd,
    rng: np.random.Generator,
) -> Images:
    """Images close to those given, changed so that the model predicts their targets.

    Args:
        images: within the box; never modified.
        targets: the class that the model is to predict for each.
        gradients: of the attacked model's loss; called once a step.
        box: the pixel range.
        settings: of the attack.
        rng: draws the start.
    """
    least, greatest = box.around(images, settings.epsilon)
    step = (settings.step_size * (box.high - box.low)).astype(images.dtype)
    current = images.copy()
    if settings.random_start:
        reach = settings.epsilon * (box.high - box.low)
        drawn = images + rng.uniform(-1.0, 1.0, images.shape) * reach
        current = np.clip(drawn.astype(images.dtype), least, greatest)
    for _ in range(settings.n_steps):
        # Down the loss of the target: towards it.
        moved = current - step * np.sign(gradients(current, targets))
        current = np.clip(moved.astype(images.dtype), least, greatest)
    return current


@dataclass(frozen=True)
class Square:
    """Settings of the attack.

    Attributes:
        epsilon: how far a pixel may move, as a share of the pixel range.
        n_queries: how often an image is shown to the model at most.
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
    scores: ClassScores,
    box: PixelBox,
    settings: Square,
    rng: np.random.Generator,
) -> Images:
    """Images close to those given, changed so that the model predicts their targets.

    Args:
        images: shape (n_images, three axes), within the box; never modified.
        targets: the class that the model is to predict for each.
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
        tried_margins = _margins(scores(tried), targets[left])
        better = tried_margins > margins[left]
        current[left[better]] = tried[better]
        margins[left[better]] = tried_margins[better]
    return current


def _margins(scores: NDArray[np.floating[Any]], targets: Labels) -> NDArray[np.float64]:
    """By how much each target is ahead of every other class: (n_images,); -inf for a NaN."""
    rows = np.arange(len(scores))
    others = scores.astype(np.float64)
    of_target = others[rows, targets]
    others[rows, targets] = -np.inf
    with np.errstate(invalid="ignore"):
        margins = of_target - others.max(axis=1)
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
    """Where an image begins dark: one draw for each column and channel, for its whole height."""
    height, _ = _spatial(shape, channel_axis)
    drawn = rng.random([1 if axis == height else size for axis, size in enumerate(shape)]) < 0.5
    return np.broadcast_to(drawn, shape)


def _side(query: int, settings: Square, shape: tuple[int, ...], channel_axis: int) -> int:
    """The side of the squares of a query, in pixels."""
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
    inside = np.ones((len(images), 1, 1, 1), bool)
    for axis in (height, width):
        start = rng.integers(0, images.shape[axis] - side + 1, (len(images), 1, 1, 1))
        along = [-1 if other == axis else 1 for other in range(4)]
        position = np.arange(images.shape[axis]).reshape(along)
        inside = inside & (position >= start) & (position < start + side)
    signs = [len(images), 1, 1, 1]
    signs[box.channel_axis + 1] = images.shape[box.channel_axis + 1]
    ends = np.where(rng.random(signs) < 0.5, least, greatest)
    tried: Images = np.where(inside, ends, images)
    return tried
