"""What a metric is: model outputs and annotations to a figure, in its natural direction."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.suite import Annotations


class Metric(Protocol):
    """A performance figure V.

    Where `per_image` is true, V = sum_i w_i s_i: s are `score`'s numbers, one per image, and w are
    `weights` (non-negative, adding up to one). Else `score` gives one number for the images
    together, and `weights` only say how often each image is best drawn into a batch.
    """

    @property
    def name(self) -> str: ...

    @property
    def per_image(self) -> bool: ...

    @property
    def greater_is_better(self) -> bool:
        """False for a metric such as an error, of which less is better."""
        ...

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest number that `score` can give; infinite where not known."""
        ...

    @property
    def scorer(self) -> object:
        """Metrics whose scorers are equal give the same scores, so that one of them is asked."""
        ...

    def weights(self, annotations: Annotations) -> NDArray[np.float64]:
        """Shape (n_images,)."""
        ...

    def score(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        """Shape (n_images,) where `per_image` is true, else ()."""
        ...
