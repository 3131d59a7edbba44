"""The fast evaluator: coalitions in the weights, and only what a change can reach run again.

Every path to an answer gives the same bits: a cone runs the nodes of a full pass on the same
numbers. The images of a run are cut into pieces whose size follows from the model and the round
alone, since a matrix product may round differently for another number of images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Coalitions, Executor
from repairkit.core.suite import Indices, Suite
from repairkit.engine.evaluator import Reduce
from repairkit.engine.executor import SerialExecutor, default_workers
from repairkit.engine.overwriting import overwrite, put_back
from repairkit.engine.planner import Plan, Start, make_plan
from repairkit.engine.routes import Routes, Row
from repairkit.engine.sessions import as_value
from repairkit.engine.states import State, States, quarter_of_free_memory
from repairkit.engine.workspace import Workspace
from repairkit.graph.cones import Tensors

_LEAST_IMAGES = 8
_LEAST_MACS = 1e9  # of a run, so that what surrounds it does not count
_ROWS_PER_JOB = 64
_ENOUGH_JOBS = 16


@dataclass(frozen=True)
class _Job:
    """Rows, by number, on the same images."""

    rows: NDArray[np.intp]
    positions: Indices

    @property
    def key(self) -> bytes:
        return self.positions.tobytes()


class FastEvaluator:
    """A compiled model and a suite.

    Args:
        routes: of the compiled model.
        suite: the images.
        executor: maps over pieces of a round.
        batch_size: images in one run at the most.
        cache_memory: bytes for states; a quarter of the free memory if None.
    """

    def __init__(
        self,
        routes: Routes,
        suite: Suite,
        *,
        executor: Executor | None = None,
        batch_size: int = 128,
        cache_memory: int | None = None,
    ) -> None:
        self.routes, self.compiled, self.suite = routes, routes.compiled, suite
        self.executor: Executor = SerialExecutor() if executor is None else executor
        budget = quarter_of_free_memory() if cache_memory is None else cache_memory
        self.states = States(budget)
        self.path = f"{self.compiled.path} and cones"
        fitting = max(_LEAST_IMAGES, -(-_LEAST_MACS // max(routes.full.cost, 1.0)))
        self._grain = int(min(batch_size, fitting))

    def answer(
        self, coalitions: Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> NDArray[Any]:
        """See `Evaluator`."""
        rows = np.ascontiguousarray(coalitions)
        n_images = len(self.suite) if images is None else images.shape[1]
        jobs = list(self._jobs(len(rows), images))
        keep = self._affordable(jobs)
        plans: dict[tuple[Any, ...], Plan] = {}

        def work(job: _Job) -> NDArray[Any]:
            return self._work(job, rows[job.rows], keep, reduce, plans)

        answers: NDArray[Any] | None = None
        starts = self._columns(jobs, images)
        for job, start, part in zip(jobs, starts, self.executor.map(work, jobs), strict=True):
            if answers is None:
                per_image = part.shape[1] // len(job.positions)
                shape = (len(rows), n_images * per_image, *part.shape[2:])
                answers = np.empty(shape, part.dtype)
            first = start * per_image
            answers[job.rows, first : first + part.shape[1]] = part
        assert answers is not None
        return answers
