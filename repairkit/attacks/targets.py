"""The classes that an attack wants images to be taken for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError

Labels = NDArray[np.intp]
"""Shape (n_images,): class numbers."""


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
