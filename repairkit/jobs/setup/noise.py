"""Noise of a model's input shape, for what needs images where the user gave none."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.data.preprocessing import is_tabular
from repairkit.graph.kinds.ensembles import spread_over_thresholds
from repairkit.jobs.setup.subject import Subject

# Those of known models, then any: a model with a dense layer behind its features takes one alone.
_KNOWN = (64, 224, 128, 256, 320, 299, 384, 416, 512, 640, 32, 28, 96, 48, 112, 160, 192, 227, 240)
SMALL_FIRST = (*_KNOWN, *(side for side in range(8, 385) if side not in _KNOWN))
"""Sides tried in turn where a model leaves its sizes open: cheap ones first."""
USUAL_FIRST = (224, *(side for side in SMALL_FIRST if side != 224))
"""Sides tried in turn, the one of most image models first."""

_TRIAL_SECONDS = 8.0
_MOST_NUMBERS = 1 << 26
_MOST_OF_AN_OPEN_INPUT = 1 << 22  # a volume gets a smaller side than a picture


def noise_images(
    subject: Subject, n_images: int = 8, *, sides: Sequence[int] = SMALL_FIRST
) -> Array:
    """Noise of the model's input shape, for a proof that has no real images.

    Args:
        subject: the model.
        n_images: at most.
        sides: for the sizes that the model leaves open; the first that it runs on is taken.

    Raises:
        ModelError: the input takes no numbers, or more than an image holds, or the model runs on
            none of the sides.
    """
    # Also no numbers of 8 bits or fewer with a point, which NumPy does not know.
    if not issubclass(subject.spec.dtype.type, np.floating | np.integer):
        raise ModelError(
            f"the input {subject.input_name!r} takes {subject.spec.dtype}, and images are numbers "
            "of 16 bits and more, or whole; export the model with such an input"
        )
    shape = _settled(subject, sides)
    n_numbers = math.prod(shape)
    if n_numbers > _MOST_NUMBERS:
        raise ModelError(
            f"the input {subject.input_name!r} takes {n_numbers} numbers of {subject.spec.dtype} "
            "per image, which is more than an image holds"
        )
    n_images = max(1, min(n_images, _MOST_NUMBERS // max(1, n_numbers)))
    return _noise(subject, shape, n_images)


def _noise(subject: Subject, shape: tuple[int, ...], n_images: int) -> Array:
    rng = np.random.default_rng(0)
    if np.issubdtype(subject.spec.dtype, np.floating):
        noise = rng.standard_normal((n_images, *shape)).astype(subject.spec.dtype)
        if is_tabular(subject.spec):
            return spread_over_thresholds(subject.model, subject.input_name, noise, rng)
        return noise
    limits = np.iinfo(subject.spec.dtype)
    return rng.integers(limits.min, limits.max, (n_images, *shape), subject.spec.dtype)


def _settled(subject: Subject, sides: Sequence[int]) -> tuple[int, ...]:
    """The input's shape; open sizes get the first side on which the model runs."""
    spec = subject.spec
    shapes = [tuple(size or side for size in spec.shape) for side in sides]
    if None not in spec.shape:
        return shapes[0]
    fitting = [s for s in shapes if math.prod(s) <= _MOST_OF_AN_OPEN_INPUT] or shapes[:1]
    runner = subject.opened(seconds=_TRIAL_SECONDS).as_written()
    started = time.monotonic()
    for shape in fitting:
        try:
            for _ in runner.raw(np.zeros((1, *shape), spec.dtype)):  # outputs of any kind
                pass
        except ModelError as error:
            fault = error
        else:
            return shape
        if time.monotonic() - started > _TRIAL_SECONDS:
            break
    raise ModelError(
        "the model leaves the size of its images open and runs on none of the sizes that were "
        f"tried; give images of its size with --data ({fault})"
    ) from fault
