"""Images that are changed a little to be taken for something else; pure."""

from repairkit.attacks.box import PixelBox
from repairkit.attacks.pgd import Gradients, Pgd, pgd
from repairkit.attacks.square import Scores, Square, square
from repairkit.attacks.targets import random_targets

__all__ = [
    "Gradients",
    "Pgd",
    "PixelBox",
    "Scores",
    "Square",
    "pgd",
    "random_targets",
    "square",
]
