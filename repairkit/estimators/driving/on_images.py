"""Values from some of the images of a finished run, as if the game had held no others.

A run may have a method `on_images(some)`: the run that it would be if the images of `some` were all
there are, made from what it was told of them alone; None where it cannot tell. Rows of a regression
carry their image, and leave-one-out knows what each image loses. Estimators that are told means
over batches of several images (walks, marginals) or over all of them (enumeration) cannot.
"""

from __future__ import annotations

from typing import Any

from repairkit.core.game import SomeImages
from repairkit.core.scores import Run, Scores


def scores_on(run: Run, some: SomeImages) -> Scores | None:
    """What the run says of these images; None where it cannot tell."""
    cut: Any = getattr(run, "on_images", None)
    part: Run | None = None if cut is None else cut(some)
    return None if part is None else part.read()
