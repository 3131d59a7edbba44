"""Images and those made from them, by an attack or a corruption, told apart by columns of the data.

An image and all that was made from it are *twins*: they stay in one part and in one fold, and they
count as one image where intervals and tests ask how many there are.
"""

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite

ADVERSARIAL = "adversarial"
"""The column that is 1 for an image that an attack made, else 0."""
TARGET = "target"
"""The column with the class that the attack wants the model to predict."""
IMAGE = "image"
"""The column with a number for each clean image, shared by the images made from it."""
CORRUPTION = "corruption"
"""The column with the name of what spoiled an image, `CLEAN` for an image as it is."""
CLEAN = "none"


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


def is_corrupted(annotations: suite.Annotations) -> bool:
    """Whether the data has images and spoiled copies of them, told apart by a column."""
    columns = annotations.attributes
    return {CORRUPTION, IMAGE} <= set(columns) and columns[CORRUPTION].dtype.kind == "U"


def made(annotations: suite.Annotations) -> NDArray[np.bool_]:
    """Which images an attack or a corruption made, (n_images,)."""
    if is_attacked(annotations):
        return adversarial(annotations)
    if is_corrupted(annotations):
        return np.asarray(annotations.attributes[CORRUPTION] != CLEAN)
    return np.zeros(len(annotations), bool)


def twins_of(annotations: suite.Annotations) -> NDArray[np.intp] | None:
    """A number for each image, shared by an image and those made from it; None without such."""
    numbers = annotations.attributes.get(IMAGE)
    if numbers is None or not (is_attacked(annotations) or is_corrupted(annotations)):
        return None
    return np.unique(numbers, return_inverse=True)[1].astype(np.intp)


def copies_of(annotations: suite.Annotations) -> NDArray[np.intp] | None:
    """The twins of data with spoiled copies, all of which count; None for other data.

    Figures leave adversarial images out or look at nothing else, so they never count an image
    twice.
    """
    return None if is_attacked(annotations) else twins_of(annotations)


def leaders(annotations: suite.Annotations) -> tuple[suite.Indices, suite.Indices]:
    """The image that stands for its twins, and for each image the place of its leader among these.

    An image as it is comes before what was made from it. Without twins each image is its own.
    """
    twins = twins_of(annotations)
    everyone = np.arange(len(annotations))
    if twins is None:
        return everyone, everyone
    order = np.lexsort((made(annotations), twins))
    _, first = np.unique(twins[order], return_index=True)
    return order[first], twins


def with_twins(annotations: suite.Annotations, halves: NDArray[np.intp]) -> NDArray[np.intp]:
    """The half of each image; what was made from an image goes to the half of that image.

    Args:
        annotations: of the images.
        halves: shape (n_images,), drawn for each image independently.
    """
    leading, place = leaders(annotations)
    return halves[leading][place]
