"""Targeted projected gradient descent within an L-infinity ball.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2;
targeted as in Kurakin et al., "Adversarial Machine Learning at Scale", ICLR 2017. The defaults are
those of Ghorbani & Zou, "Neuron Shapley", NeurIPS 2020, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from repairkit.attacks.box import Images, PixelBox
from repairkit.attacks.targets import Labels
from repairkit.core.errors import SettingsError

Gradients = Callable[[Images, Labels], Images]
"""Images and a class for each to the gradient of the loss for that class, of the images' shape."""


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
    """Images close to those given that the model is to take for the targets.

    Args:
        images: within the box; never modified.
        targets: the class that each is to be taken for.
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
