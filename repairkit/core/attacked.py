"""Clean images and the adversarial ones made of them, told apart by two columns of the data."""

from __future__ import annotations

import numpy as np

from repairkit.core.suite import Annotations

ADVERSARIAL = "adversarial"
"""The column that is 1 for an image that an attack made, else 0."""
TARGET = "target"
"""The column with the class that the attack wants an image to be taken for."""


def is_attacked(annotations: Annotations) -> bool:
    """Whether the images are clean and adversarial ones, as `repairkit attack` writes them."""
    columns = annotations.attributes
    if not {ADVERSARIAL, TARGET} <= set(columns):
        return False
    numbers = columns[ADVERSARIAL].dtype.kind in "iub" and columns[TARGET].dtype.kind in "iu"
    return bool(numbers and np.isin(columns[ADVERSARIAL], (0, 1)).all())
