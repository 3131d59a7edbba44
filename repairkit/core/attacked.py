"""Clean images and the adversarial images made from them, told apart by columns of the data."""

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite

ADVERSARIAL = "adversarial"
"""The column that is 1 for an image that an attack made, else 0."""
TARGET = "target"
"""The column with the class that the attack wants the model to predict."""
IMAGE = "image"
"""The column with a number for each clean image, shared by the images made from it."""


def is_attacked(annotations: suite.Annotations) -> bool:
    """Whether the images are clean and adversarial ones, as `repairkit attack` writes them."""
    columns = annotations.attributes
    if not {ADVERSARIAL, TARGET} <= set(columns):
        return False
    numbers = columns[ADVERSARIAL].dtype.kind in "iub" and columns[TARGET].dtype.kind in "iu"
    return bool(numbers and np.isin(columns[ADVERSARIAL], (0, 1)).all())


def adversarial(annotations: suite.Annotations) -> NDArray[np.bool_]:
    """Shape (n_images,): which images an attack made.

    Raises:
        SettingsError: the data has no columns that say it.
    """
    if not is_attacked(annotations):
        raise errors.SettingsError(
            "metrics of robustness need clean and adversarial images side by side, and the data "
            f"has no columns {ADVERSARIAL} (0 or 1) and {TARGET} (a class number); make it with "
            "repairkit attack"
        )
    made: NDArray[np.bool_] = annotations.attributes[ADVERSARIAL].astype(bool)
    return made


def twins_of(annotations: suite.Annotations) -> NDArray[np.intp] | None:
    """A number for each image, shared by a clean image and those made from it; else None."""
    numbers = annotations.attributes.get(IMAGE)
    if not is_attacked(annotations) or numbers is None:
        return None
    return np.unique(numbers, return_inverse=True)[1].astype(np.intp)


def with_twins(annotations: suite.Annotations, halves: NDArray[np.intp]) -> NDArray[np.intp]:
    """The half of each image; an adversarial image goes to the half of its clean image.

    Args:
        annotations: of the images.
        halves: shape (n_images,), drawn for each image independently.
    """
    numbers = annotations.attributes.get(IMAGE)
    if not is_attacked(annotations) or numbers is None:
        return halves
    made = adversarial(annotations)
    of_clean = dict(zip(numbers[~made].tolist(), halves[~made].tolist(), strict=True))
    joined = halves.copy()
    joined[made] = [
        of_clean.get(number, half)
        for number, half in zip(numbers[made].tolist(), halves[made].tolist(), strict=True)
    ]
    return joined
