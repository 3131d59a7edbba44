"""A game whose rounds are cut into parts and answered by a crew of workers.

An answer depends on its row alone (see `engine.evaluator.Evaluator`), and parts are put together by
number: neither the cut, nor the worker, nor the order of answers can change a bit of an outcome. A
part is named by seed, round and number. It may be handed out again at any time, to any worker, and
the first answer to it counts.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DeviceError, RepairkitError
from repairkit.core.game import Coalitions, GameFacts, Outcomes, Round

logger = logging.getLogger(__name__)

Key = tuple[int, int, int]
"""Seed, round and part."""

_UNDER_WAY = 2  # parts a worker has at once, so that it never waits for the next
_RUN_IMAGES = 128  # as in engine.masks
_FEW_IMAGES = 8
_LEAST_ROWS = 8  # that share their images: the first costs as much as a few of the others
_PARTS_PER_WORKER = 4
_PATIENCE = 9  # for a part: an error counts 3; a lost worker, perhaps not its fault, counts 1


@dataclass(frozen=True)
class Part:
    """Rows of a round: packed coalitions (n_rows, ceil(n_players / 8)), and their images."""

    key: Key
    bits: NDArray[np.uint8]
    images: NDArray[np.intp] | None

    def round(self, n_players: int) -> Round:
        rows: Coalitions = np.unpackbits(self.bits, axis=1, count=n_players).astype(bool)
        return Round(rows, self.images)


@dataclass(frozen=True)
class Report:
    """What a worker reports: an answer, an error, or that it is ready or lost (`key` is None).

    `scores` (n_rows, n_images, n_metrics) are `Outcomes.scores` of the part. A lost worker says
    why in `error`; all that it had under way is lost with it.
    """

    worker: int
    key: Key | None = None
    scores: NDArray[np.float64] | None = None
    error: Exception | None = None
    lost: bool = False


class Crew(Protocol):
    """Workers that answer parts of the same game."""

    @property
    def n_workers(self) -> int:
        """As many as there are once all are ready."""
        ...

    def hand_out(self, worker: int, part: Part) -> None:
        """Send a part to a worker that was reported ready; returns at once."""
        ...

    def gather(self, timeout_seconds: float) -> Sequence[Report]:
        """Wait for at least one report, or until the time is over.

        A lost worker is replaced if that can be; then it is reported ready again.

        Raises:
            RepairkitError: no worker is left.
        """
        ...


@dataclass
class _Pending:
    """A round under way: the answers to its parts, None where they are awaited."""

    answers: list[NDArray[np.float64] | None]
    n_missing: int


@dataclass
class _Errand:
    """A part that is handed out: to which workers, since when, and its failures so far."""

    part: Part
    holders: dict[int, float] = field(default_factory=dict)
    n_tries: int = 0
    impatience: int = 0

    def failed(self, error: Exception | None, cost: int) -> bool:
        """Whether the part is to be handed out again, after one more failure.

        Raises:
            RepairkitError: it would fail elsewhere too, or has failed too often.
        """
        if isinstance(error, RepairkitError):
            raise error
        self.n_tries += 1
        self.impatience += cost
        if self.holders:
            return False
        if self.impatience >= _PATIENCE:
            _, round_number, number = self.part.key
            raise DeviceError(
                f"part {number} of round {round_number} failed on {self.n_tries} workers, the last "
                f"time with {type(error).__name__}: {error}; look at the workers' logs, or give "
                "each worker more memory"
            ) from error
        return True


class DispatchedGame:
    """See the module; a `Game` that can have several rounds under way.

    Args:
        crew: the workers.
        facts: of the game that each of them plays.
        path: how filters are turned off, for people.
        seed: of the run.
        late_seconds: after which a part is handed out a second time where a worker is idle; more
            where parts take long.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        crew: Crew,
        facts: GameFacts,
        *,
        path: str,
        seed: int,
        late_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.crew, self.facts, self.path, self.seed = crew, facts, path, seed
        self.late_seconds, self.clock = late_seconds, clock
        self.n_repeated = 0
        self._n_rounds = 0
        self._rounds: dict[int, _Pending] = {}
        self._queue: deque[Key] = deque()
        self._errands: dict[Key, _Errand] = {}
        # A worker that is ready stands here once for each part that it may take.
        self._free: deque[int] = deque()
        self._ready: set[int] = set()
        self._held: dict[int, set[Key]] = {}
        self._longest = 0.0

    def play(self, round: Round) -> Outcomes:
        """See `core.game.Game`."""
        return self.finish(self.begin(round))

    @property
    def hungry(self) -> bool:
        """Whether workers may soon wait unless a further round is begun."""
        first = min(self._rounds, default=0)
        waiting = sum(1 for key in self._errands if key[1] != first)
        return waiting < _UNDER_WAY * self.crew.n_workers

    def begin(self, round: Round) -> int:
        """Put a round under way; its number, to `finish` it by."""
        number, self._n_rounds = self._n_rounds, self._n_rounds + 1
        cuts = cut(round, self.crew.n_workers)
        self._rounds[number] = _Pending([None] * len(cuts), len(cuts))
        for position, rows in enumerate(cuts):
            key = (self.seed, number, position)
            images = None if round.images is None else np.ascontiguousarray(round.images[rows])
            bits = np.packbits(round.coalitions[rows], axis=1)
            self._errands[key] = _Errand(Part(key, bits, images))
            self._queue.append(key)
        self._hand_out()
        return number

    def finish(self, number: int) -> Outcomes:
        """The outcomes of a round that was begun.

        Raises:
            RepairkitError: a part fails wherever it is tried, or no worker is left.
        """
        pending = self._rounds[number]
        while pending.n_missing:
            for report in self.crew.gather(self.late_seconds / 4):
                self._take(report)
            self._hand_out()
        del self._rounds[number]
        answers = [answer for answer in pending.answers if answer is not None]
        if not answers:
            return Outcomes(np.zeros((0, 1, self.facts.n_metrics)))
        return Outcomes(np.concatenate(answers))

    def _hand_out(self) -> None:
        while self._free and self._queue:
            key = self._queue.popleft()
            if key in self._errands:
                self._send(self._free.popleft(), key)
        if self._free:
            patience = max(self.late_seconds, 4 * self._longest)
            for key in _late(self._errands, self.clock() - patience)[: len(self._free)]:
                self._send_again(key)

    def _send(self, worker: int, key: Key) -> None:
        self._errands[key].holders[worker] = self.clock()
        self._held[worker].add(key)
        self.crew.hand_out(worker, self._errands[key].part)

    def _send_again(self, key: Key) -> None:
        others = [worker for worker in self._free if worker not in self._errands[key].holders]
        if others:
            logger.warning("part %s is late and handed out again", key)
            self._free.remove(others[0])
            self._send(others[0], key)

    def _take(self, report: Report) -> None:
        worker = report.worker
        if report.lost:
            self._lose(worker, report.error)
        elif report.key is None:
            self._ready.add(worker)
            self._held[worker] = set()
            self._free.extend([worker] * _UNDER_WAY)
        else:
            if worker in self._ready and report.key in self._held[worker]:
                self._held[worker].discard(report.key)
                self._free.append(worker)
            self._settle(worker, report)

    def _settle(self, worker: int, report: Report) -> None:
        """Count an answer, if it is the first to its part."""
        assert report.key is not None
        errand = self._errands.get(report.key)
        if errand is None:
            self.n_repeated += 1
            return
        began = errand.holders.pop(worker, None)
        if report.scores is None:
            self._try_again(errand, report.error, cost=3)
            return
        if len(report.scores) != len(errand.part.bits):
            error = ValueError("the answer has other rows than the part")
            self._try_again(errand, error, cost=3)
            return
        if began is not None:
            self._longest = max(self._longest, self.clock() - began)
        del self._errands[report.key]
        pending = self._rounds[report.key[1]]
        pending.answers[report.key[2]] = report.scores
        pending.n_missing -= 1

    def _try_again(self, errand: _Errand, error: Exception | None, *, cost: int) -> None:
        """Hand a part out again, before all others, unless it has failed too often."""
        if errand.failed(error, cost):
            self._queue.appendleft(errand.part.key)

    def _lose(self, worker: int, error: Exception | None) -> None:
        self._ready.discard(worker)
        self._free = deque(w for w in self._free if w != worker)
        for key in sorted(self._held.pop(worker, set()), reverse=True):
            errand = self._errands.get(key)
            if errand is not None:
                errand.holders.pop(worker, None)
                self._try_again(errand, error, cost=1)


def _late(errands: Mapping[Key, _Errand], deadline: float) -> list[Key]:
    """Parts that one worker alone has, since before the deadline."""
    return [
        key
        for key, errand in errands.items()
        if len(errand.holders) == 1 and min(errand.holders.values()) < deadline
    ]


def answer(game: Any, part: Part) -> NDArray[np.float64]:
    """The scores of a part, computed by a worker that has the game."""
    scores: NDArray[np.float64] = game.play(part.round(game.facts.n_players)).scores
    return scores


def cut(round: Round, n_workers: int) -> list[slice]:
    """The rows of each part: enough parts for all workers, none so small that cutting costs.

    Rows of few images are answered in runs of a fixed size; rows on the same images share work.
    """
    n_rows, parts = len(round), _PARTS_PER_WORKER * n_workers
    if not n_rows:
        return []
    if round.images is not None and 0 < round.images.shape[1] <= _FEW_IMAGES:
        run = max(1, _RUN_IMAGES // round.images.shape[1])
        step = run * max(1, -(-n_rows // run) // parts)
        return _steps(0, n_rows, step)
    if round.images is None:
        return _steps(0, n_rows, max(1, -(-n_rows // parts)))
    changes = np.flatnonzero((round.images[1:] != round.images[:-1]).any(axis=1)) + 1
    edges = [0, *changes.tolist(), n_rows]
    step = max(_LEAST_ROWS, -(-n_rows // parts))
    return [rows for first, last in pairwise(edges) for rows in _steps(first, last, step)]


def _steps(first: int, last: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, last)) for i in range(first, last, step)]
