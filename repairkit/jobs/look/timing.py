"""How long one image takes through a model, and what scoring its filters would take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from repairkit.core.errors import RepairkitError
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array
from repairkit.engine.runner import Runner
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.mixing import find_mixers
from repairkit.jobs.setup.subject import USUAL_FIRST, noise_images
from repairkit.jobs.setup.workbench import Subject

PASSES_PER_FILTER = (10, 150, 500)
MEASURING_SECONDS = 2.0
_RUN_SECONDS = 8.0
_BATCH = 8
_QUICK_SECONDS = 0.1  # of an image, up to which several share a run
_RUNS = 5


@dataclass(frozen=True)
class PassTime:
    """One image through the model as it is, on one core.

    Attributes:
        seconds: of an image; None where the model could not be run.
        batch: the images of one run.
        shape: of an image.
        n_filters: of the model.
        reason: why there are no seconds.
    """

    seconds: float | None
    batch: int
    shape: tuple[int, ...]
    n_filters: int
    reason: str = ""

    def seconds_of(self, passes_per_filter: int) -> float | None:
        """What so many passes for each filter take."""
        return None if self.seconds is None else passes_per_filter * self.n_filters * self.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "cores": 1,
            "batch": self.batch,
            "image": list(self.shape),
            "per_filter": {str(n): self.seconds_of(n) for n in PASSES_PER_FILTER},
            "note": self.reason,
        }


@stage("timing a pass")
def time_passes(subject: Subject, n_filters: int) -> PassTime:
    """Run the model on noise for about two seconds at the most, or once where that takes longer.

    Seconds are those that a core computes, so that they hold on a busy machine too; of a few runs
    the shortest counts. Where the model leaves sizes open, an image has the usual ones.

    Args:
        subject: the model.
        n_filters: of all its sites.
    """
    step = fixed_batch(subject.model, subject.input_name)
    batch, shape = step or 1, tuple(size or 0 for size in subject.spec.shape)
    try:
        images = noise_images(subject, 1, sides=USUAL_FIRST)
        images, shape = np.repeat(images, batch, axis=0), images.shape[1:]
        runner = subject.opened(seconds=_RUN_SECONDS).runner(outputs=(subject.output,))
        end = time.monotonic() + MEASURING_SECONDS
        each = _fastest(runner, images, end)
        alone = step is not None or find_mixers(
            subject.model, subject.input_name, (subject.output,)
        )
        if not alone and each < _QUICK_SECONDS:
            many = np.repeat(images, _BATCH, axis=0)
            try:
                each = _fastest(runner.sharing(step=None), many, end) / _BATCH
                batch = _BATCH
            except RepairkitError:  # a batch that is fixed within the graph
                batch = 1
    except RepairkitError as error:
        return PassTime(None, batch, shape, n_filters, f"a pass cannot be timed: {error}")
    return PassTime(each / (step or 1), batch, shape, n_filters)


def _fastest(runner: Runner, images: Array, end: float) -> float:
    """Seconds of the fastest of a few runs; the first warms up, and counts only if it is alone."""
    seconds: list[float] = []
    for _ in range(_RUNS + 1):
        started, busy = time.monotonic(), time.thread_time()
        runner.run(images)
        lasted = time.monotonic() - started
        seconds.append(time.thread_time() - busy or lasted)  # some systems count in coarse ticks
        if started + 2 * lasted > end:
            break
    return min(seconds[1:] or seconds)
