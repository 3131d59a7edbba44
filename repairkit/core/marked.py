"""Images that a repair is to mend, told from all others by a column of the data."""

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite

TO_FIX = "to_fix"
"""The column that is 1 for an image that a repair is to mend, else 0."""


def is_marked(annotations: suite.Annotations) -> bool:
    """Whether the data says of each image if it is to be mended."""
    column = annotations.attributes.get(TO_FIX)
    return column is not None and column.dtype.kind in "iub" and bool(np.isin(column, (0, 1)).all())


def to_fix(annotations: suite.Annotations) -> NDArray[np.bool_]:
    """Shape (n_images,): which images are to be mended.

    Raises:
        SettingsError: the data has no column that says it.
    """
    if not is_marked(annotations):
        raise errors.SettingsError(
            "metrics of images to fix need to know which they are, and the data has no column "
            f"{TO_FIX} (0 or 1); name another column, or a list of images, with patch --fix"
        )
    marked: NDArray[np.bool_] = annotations.attributes[TO_FIX].astype(bool)
    return marked


def marks_of(annotations: suite.Annotations) -> NDArray[np.int64]:
    """Shape (n_images,): 1 for an image to be mended; all 0 where the data does not say."""
    if not is_marked(annotations):
        return np.zeros(len(annotations), np.int64)
    return to_fix(annotations).astype(np.int64)
