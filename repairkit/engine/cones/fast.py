"""The fast evaluator: coalitions in the weights, and only what a change can reach run again.

Every path to an answer gives the same bits: a cone runs the nodes of a full pass on the same
numbers. The images of a run are cut into pieces whose size follows from the model and the round
alone, since a matrix product may round differently for another number of images.

The tensors of one coalition on some images are a state. States are kept from round to round within
a budget. A state belongs to one worker while it is in use, and that worker may change it. One that
was put back stays until newer states need the room. It is then computed again, with the same
result.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Coalitions, Executor
from repairkit.core.suite import Array, Indices, Suite
from repairkit.engine.cones.compiled import Compiled, Workspace, overwrite, put_back
from repairkit.engine.cones.routes import Move, RoutePlan, Row, Start, make_plan
from repairkit.engine.evaluator import Reduce, SerialExecutor, default_workers, keep_all
from repairkit.engine.ort import as_value, quarter_of_free_memory
from repairkit.graph.coalitions.cones import Tensors

MOST_CACHE_BYTES = 2**31
"""Of the usual cache; 2 GiB."""
_SMALL_CACHE_BYTES = 2**29
_LEAST_IMAGES = 8
_PRODUCT_IMAGES = 32  # the same where matrix products read their weights once for all of them
_PRODUCT_SHARE = 0.05  # of a pass, that products must be for that
_LEAST_MACS = 1e9  # of a run, so that its fixed cost is negligible
_ROWS_PER_JOB = 64
_ENOUGH_JOBS = 16
_SHARE_PRESENT = 0.9  # of the filters, where cones are proven
_CONE_IMAGES = 2  # enough to compare bits
_CONE_IMAGE_MACS = 8e9  # of them together, beyond which one image must do
_MOST_STEPS = 8
_FEWEST_STEPS = 4
_CONE_MACS = 2e10  # of the full passes that cones are compared with, beyond which steps are fewer
_MOST_ROWS = 4096


@dataclass(frozen=True)
class Job:
    """Rows, by number, on the same images, which begin at `column` of the rows' images."""

    rows: NDArray[np.intp]
    column: int
    positions: Indices


class FastEvaluator:
    """A compiled model and a suite.

    Args:
        compiled: the model.
        suite: the images.
        executor: maps over the jobs of a round.
        batch_size: images in one run at the most.
        cache_memory: bytes for states; see `usual_cache` if None.
        overwriting: write absent filters into cached tensors where that can be done.
    """

    def __init__(
        self,
        compiled: Compiled,
        suite: Suite,
        *,
        executor: Executor | None = None,
        batch_size: int = 128,
        cache_memory: int | None = None,
        overwriting: bool = True,
    ) -> None:
        self.compiled, self.suite = compiled, suite
        self.routes = compiled.routes(overwriting=overwriting)
        self.executor: Executor = SerialExecutor() if executor is None else executor
        self.path = f"{compiled.path} and cones"
        full = max(self.routes.full.cost, 1.0)
        many = compiled.product_cost >= _PRODUCT_SHARE * full
        fitting = max(_PRODUCT_IMAGES if many else _LEAST_IMAGES, round(_LEAST_MACS / full))
        self.grain = min(batch_size, fitting)
        self.states = States(usual_cache(self) if cache_memory is None else cache_memory)

    @property
    def macs(self) -> float:
        """Multiplications of a full pass of one image."""
        return self.routes.full.cost

    def answer(
        self, coalitions: Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """See `Evaluator`."""
        jobs = self._jobs(len(coalitions), images)
        desk = _Desk(self, np.ascontiguousarray(coalitions), reduce, self._affordable(jobs))
        parts = list(self.executor.map(desk.work, jobs))
        n_images = len(self.suite) if images is None else images.shape[1]
        # A detector may put several rows of output to an image.
        per_image = parts[0].shape[1] // len(jobs[0].positions)
        shape = (len(coalitions), n_images * per_image, *parts[0].shape[2:])
        answers = np.empty(shape, parts[0].dtype)
        for job, part in zip(jobs, parts, strict=True):
            first = job.column * per_image
            answers[job.rows, first : first + part.shape[1]] = part
        return answers

    def _jobs(self, n_rows: int, images: NDArray[np.intp] | None) -> list[Job]:
        """Rows on the same images together, and these images in pieces."""
        if images is None:
            all_images = np.arange(len(self.suite))
            enough = self._n_pieces(len(all_images)) >= _ENOUGH_JOBS
            step = n_rows if enough else _ROWS_PER_JOB
            parts = [np.arange(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]
            return [job for rows in parts for job in self._pieces(rows, all_images)]
        groups: dict[bytes, list[int]] = defaultdict(list)
        for number, row in enumerate(images):
            groups[row.tobytes()].append(number)
        return [
            job for rows in groups.values() for job in self._pieces(np.array(rows), images[rows[0]])
        ]

    def _pieces(self, rows: NDArray[np.intp], images: Indices) -> Iterator[Job]:
        column = 0
        for positions in np.array_split(images, self._n_pieces(len(images))):
            yield Job(rows, column, positions)
            column += len(positions)

    def _n_pieces(self, n_images: int) -> int:
        """An even number, if not one, so that two workers finish together."""
        n_pieces = -(-n_images // self.grain)
        return n_pieces if n_pieces == 1 else min(n_pieces + n_pieces % 2, n_images)

    def _affordable(self, jobs: list[Job]) -> Tensors:
        """What each state may hold, so that those in use, and those of a few walks, fit."""
        n_states = min(max(len(jobs), 1), _states_at_once(self))
        n_images = max(len(job.positions) for job in jobs)
        return self.routes.affordable(self.states.budget_bytes / n_states / n_images)


def _states_at_once(evaluator: FastEvaluator) -> int:
    """States in use, and as many that wait; more where they are small, for a few walks."""
    routes, workers = evaluator.routes, default_workers()
    each = evaluator.grain * routes.bytes_of(routes.worth_keeping)
    return (4 if 4 * workers * each <= _SMALL_CACHE_BYTES else 2) * workers


def usual_cache(evaluator: FastEvaluator) -> int:
    """Bytes for states where no limit was given: what they can hold, within two bounds.

    The bounds are 2 GiB and a quarter of the free memory. States beyond those at once are seldom
    found again before they are the oldest, and to compute one anew takes one pass of many.
    """
    routes = evaluator.routes
    each = evaluator.grain * routes.bytes_of(routes.worth_keeping)
    return min(_states_at_once(evaluator) * each, MOST_CACHE_BYTES, quarter_of_free_memory())


class _Desk:
    """One round under way."""

    def __init__(
        self, evaluator: FastEvaluator, rows: Coalitions, reduce: Reduce, keep: Tensors
    ) -> None:
        self.evaluator, self.rows, self.reduce, self.keep = evaluator, rows, reduce, keep
        self.routes, self.states = evaluator.routes, evaluator.states
        self.plans: dict[tuple[Any, ...], RoutePlan] = {}

    def work(self, job: Job) -> Array:
        """What is kept of the job's rows: (n_rows, n_images, ...)."""
        key = job.positions.tobytes()
        last = self.states.last_row(key, self.rows[job.rows[-1]])
        state = self.states.take(key)
        plan = self._plan(job, state, last)
        answers = []
        with self.evaluator.compiled.workspaces.lend() as workspace:
            walk = StateWalk(self.evaluator, workspace, job.positions, state)
            for move in plan.moves:
                outputs = walk.step(move)
                if move.number is not None:
                    answers.append(self.reduce(outputs, job.positions))
        if walk.state is not None:
            walk.state.n_bytes = len(job.positions) * self.routes.bytes_of(walk.state.cached)
            self.states.put(key, walk.state)
        return np.stack(answers)

    def _plan(self, job: Job, state: State | None, last: Row | None) -> RoutePlan:
        """Pieces of the same rows in the same state share a plan."""
        start = None if state is None else Start(state.coalition, state.cached)
        held = None if start is None else (start.coalition.tobytes(), start.cached)
        if len(job.rows) == 1:
            return make_plan(self.routes, self.rows[job.rows], start, self.keep, last)
        key = (job.rows.tobytes(), held)
        if key not in self.plans:
            self.plans[key] = make_plan(self.routes, self.rows[job.rows], start, self.keep)
        return self.plans[key]


def cones_fault(evaluator: FastEvaluator, images: NDArray[np.intp]) -> str | None:
    """Whether cones give other bits than full passes: None, or the fault in words.

    Tried are a star, whose rows lack one more filter each, and a walk, which loses them in turn.
    """
    n_players = len(evaluator.compiled.roster)
    cost = max(evaluator.routes.full.cost, 1.0)
    images = images[: int(np.clip(_CONE_IMAGE_MACS // cost, 1, _CONE_IMAGES))]
    each = 2 * len(images) * cost
    n_steps = int(np.clip(_CONE_MACS // each, _FEWEST_STEPS, _MOST_STEPS))
    rng = np.random.default_rng(1)
    base = rng.random(n_players) < _SHARE_PRESENT
    present = np.flatnonzero(base)
    if not len(present):
        return None
    steps = np.unique(np.linspace(0, len(present) - 1, n_steps).astype(int))
    leaving = rng.permutation(present[steps])
    star = np.repeat(base[None], len(leaving) + 1, axis=0)
    star[np.arange(1, len(star)), leaving] = False
    walk = star.copy()
    for row in range(1, len(walk)):
        walk[row] &= walk[row - 1]
    passes: dict[bytes, Array] = {}
    for rows in (star, walk):
        answers = evaluator.answer(rows, np.tile(images, (len(rows), 1)), keep_all)
        for ours, row in zip(answers, rows, strict=True):
            key = row.tobytes()
            if key not in passes:
                passes[key] = _full_pass(evaluator, row, images)
            if not np.array_equal(ours, passes[key], equal_nan=True):
                return "a cone gives other bits than a full pass"
    return None


def _full_pass(evaluator: FastEvaluator, row: NDArray[np.bool_], images: NDArray[np.intp]) -> Array:
    with evaluator.compiled.workspaces.lend() as workspace:
        walk = StateWalk(evaluator, workspace, images, None)
        return walk.step(Move(0, row, evaluator.routes.full, follow=False))


class StateWalk:
    """Takes moves one after another, in one thread.

    Args:
        evaluator: of the model and the images.
        workspace: lent to this thread.
        positions: the images of the walk.
        state: to start from, if there is one; changed by moves that are followed.
    """

    def __init__(
        self,
        evaluator: FastEvaluator,
        workspace: Workspace,
        positions: Indices,
        state: State | None,
    ) -> None:
        self.compiled, self.routes = evaluator.compiled, evaluator.routes
        self.workspace, self.state = workspace, state
        self._suite, self._positions = evaluator.suite, positions

    def step(self, move: Move) -> Array:
        """The model's outputs under the move's row."""
        held = State(move.row) if self.state is None else self.state
        route = move.route
        undo, differs = overwrite(
            self.compiled, route.overwritten, held.live, held.coalition, move.row
        )
        # Filters that yield on these images what they yield when absent change nothing.
        if held.outputs is not None and route.by_overwriting and not differs:
            if move.follow:
                held.coalition = move.row
            return held.outputs
        values = self._run(move, held)
        outputs: Array = values[self.routes.anatomy.output].numpy()
        if move.follow:
            self._follow(move, held, values, outputs)
        else:
            put_back(undo)
        return outputs

    def _run(self, move: Move, held: State) -> dict[str, Any]:
        route, anatomy = move.route, self.routes.anatomy
        if route.reads_switches:
            self.workspace.hold(move.row)
        live = held.live
        if anatomy.number[anatomy.image] in route.piece.fed:
            live = live | {anatomy.image: self._image}
        return self.compiled.run(route.piece, live, self.workspace)

    @cached_property
    def _image(self) -> Any:
        return as_value(np.ascontiguousarray(self._suite.batch(self._positions)))

    def _follow(self, move: Move, held: State, values: dict[str, Any], outputs: Array) -> None:
        anatomy, route = self.routes.anatomy, move.route
        for name in anatomy.names_of(route.lost):
            del held.live[name]
        held.live.update({name: values[name] for name in anatomy.names_of(route.renewed)})
        held.cached = held.cached & ~route.lost | route.renewed
        held.coalition, held.outputs = move.row, outputs
        self.state = held


@dataclass
class State:
    """`live` are runtime values by tensor name, `cached` the set of them.

    They, and the model's `outputs`, are those under `coalition`.
    """

    coalition: Row
    live: dict[str, Any] = field(default_factory=dict)
    cached: Tensors = 0
    outputs: Array | None = None
    n_bytes: int = 0


class States:
    """States by the images that they are about; the least recently used go first.

    `n_bytes` are held, `budget_bytes` may be.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._held: OrderedDict[bytes, list[State]] = OrderedDict()
        self.n_bytes = 0
        self._rows: OrderedDict[bytes, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: bytes) -> State | None:
        """A state, which is then the caller's."""
        with self._lock:
            states = self._held.get(key)
            if not states:
                return None
            state = states.pop()
            if not states:
                del self._held[key]
            self.n_bytes -= state.n_bytes
            return state

    def put(self, key: bytes, state: State) -> None:
        """Hand a state back."""
        with self._lock:
            self._held.setdefault(key, []).append(state)
            self._held.move_to_end(key)
            self.n_bytes += state.n_bytes
            while self.n_bytes > self.budget_bytes:
                oldest = next(iter(self._held))
                gone = self._held[oldest].pop(0)
                self.n_bytes -= gone.n_bytes
                if not self._held[oldest]:
                    del self._held[oldest]

    def last_row(self, key: bytes, row: Row) -> Row | None:
        """The row that was last answered on these images, if not long ago; from now on `row`."""
        with self._lock:
            last = self._rows.pop(key, None)
            self._rows[key] = np.packbits(row)
            if len(self._rows) > _MOST_ROWS:
                self._rows.popitem(last=False)
        return None if last is None else np.unpackbits(last, count=len(row)).astype(bool)
