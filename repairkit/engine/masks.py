"""Answers by the instrumented model: coalition by coalition, or many coalitions in one run.

In weight space every coalition is a run of its own, and with one or two images the fixed cost of a
run exceeds its arithmetic. The instrumented model answers 128 coalitions of one
image in a few runs, with a mask row per image, at about two plain passes. The number of a row's
images alone decides how it is answered. Every such run has the same number of images, the last one
filled up, since a matrix product may round differently for another number. So a row's answer
depends on nothing that comes with it.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, game
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Indices, Precision, Suite
from repairkit.engine.evaluator import (
    Evaluator,
    ExpectedAnswers,
    Reduce,
    SerialExecutor,
    difference,
    keep_all,
)
from repairkit.engine.ort import session_device
from repairkit.engine.runner import Feeds, Masks, Runner
from repairkit.graph.coalitions import masking

_RUNS_PER_PIECE = 8
logger = logging.getLogger(__name__)

_FEW = 8  # images to a row, up to which masks are faster than weights
_RUN_IMAGES = 128  # for a small model: the fixed cost of a run is then negligible
_RUN_MACS = 4e9  # for a large one: memory is the limit
_LEAST_IMAGES = 8
_SHARES_PRESENT = (1.0, 0.9, 0.5, 0.0)


class MaskEvaluator:
    """The instrumented model, the definition of an absent filter.

    No run holds images of two rows, so that an answer depends on its row and the batch size alone.

    Args:
        runner: of the instrumented model; its first output is judged.
        roster: the filters, in the order of the players.
        suite: the images.
        executor: maps over the runs.
        batch_size: images in one run at the most.
    """

    def __init__(
        self,
        runner: Runner,
        roster: filters.Roster,
        suite: Suite,
        *,
        executor: game.Executor | None = None,
        batch_size: int = 128,
    ) -> None:
        self.runner, self.roster, self.suite = runner, roster, suite
        self.executor: game.Executor = SerialExecutor() if executor is None else executor
        self.batch_size = batch_size

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return session_device(self.runner.session)

    @property
    def path(self) -> str:
        """See `Evaluator`."""
        return "instrumented" if self.runner.optimised else "instrumented, as written"

    def with_runner(self, runner: Runner) -> MaskEvaluator:
        """The same by another runner of the instrumented model."""
        twin = copy.copy(self)
        twin.runner = runner
        return twin

    def answer(
        self, coalitions: game.Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """See `Evaluator`."""
        if images is None:
            pieces = self._pieces(np.arange(len(self.suite)))
            parts = self.executor.map(lambda piece: self._all(coalitions, piece, reduce), pieces)
            return np.concatenate(list(parts), axis=1)

        def answer_row(number: int) -> Array:
            row = coalitions[number : number + 1]
            parts = [self._all(row, piece, reduce) for piece in self._pieces(images[number])]
            return np.concatenate(parts, axis=1)

        return np.concatenate(list(self.executor.map(answer_row, range(len(coalitions)))))

    def run(self, coalitions: game.Coalitions, positions: Indices) -> Array:
        """One run: the outputs for images of the suite, under one row or a row for each image."""
        suite = self.suite
        return self._run(suite.batch(positions), coalitions, suite.feeds(positions))

    def _pieces(self, positions: Indices) -> list[Indices]:
        # Where runs have a fixed number of images, pieces change no answer and feed more workers.
        step = self.runner.step
        size = self.batch_size if step is None else _RUNS_PER_PIECE * step
        return [positions[i : i + size] for i in range(0, len(positions), size)]

    def _all(self, coalitions: game.Coalitions, positions: Indices, reduce: Reduce) -> Array:
        """Every row on the same images."""
        batch, feeds = self.suite.batch(positions), self.suite.feeds(positions)
        return np.stack(
            [reduce(self._run(batch, row[None], feeds), positions) for row in coalitions]
        )

    def _run(self, images: Array, coalitions: game.Coalitions, feeds: Feeds) -> Array:
        answers = self.runner.run(images, self._masks(coalitions), feeds)
        return answers[self.runner.outputs[0]]

    def _masks(self, coalitions: game.Coalitions) -> Masks:
        return {
            masking.mask_name(site): coalitions[:, self.roster.slices[site.name]].reshape(
                masking.mask_shape(site, len(coalitions))
            )
            for site in self.roster.sites
        }


class AffineMasks:
    """Runs of many coalitions through affine masks, and by the masks where that breaks down.

    Args:
        runner: of the model with affine masks.
        masks: of the instrumented model.
        means: the levels of absent filters.
    """

    def __init__(self, runner: Runner, masks: MaskEvaluator, means: filters.FilterMeans) -> None:
        self.runner, self.masks = runner, masks
        sites = masks.roster.sites
        self._levels = [np.asarray(means[site.name], np.float32) for site in sites]
        self._constant: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def run(self, coalitions: game.Coalitions, positions: Indices) -> Array:
        """One run: the outputs for images of the suite, under a row for each image."""
        feeds: dict[str, Array] = {}
        for site, levels in zip(self.masks.roster.sites, self._levels, strict=True):
            present = coalitions[:, self.masks.roster.slices[site.name]]
            zeros, ones = self._zeros_and_ones(present.size)
            numbers = {
                masking.SCALE: present.astype(np.float32).reshape(-1),
                masking.OFFSET: np.where(present, np.float32(0), levels).reshape(-1),
                masking.ZEROS: zeros,
                masking.ONES: ones,
            }
            feeds |= {masking.affine_input(site, part): x for part, x in numbers.items()}
        images = self.masks.suite.batch(positions)
        beside = self.masks.suite.feeds(positions)
        outputs = self.runner.run(images, feeds, beside)[self.runner.outputs[0]]
        if not np.isfinite(outputs).all():  # 0 * inf is not a number; masks do without products
            return self.masks.run(coalitions, positions)
        return outputs

    def _zeros_and_ones(self, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if size not in self._constant:
            self._constant[size] = np.zeros(size, np.float32), np.ones(size, np.float32)
        return self._constant[size]


class ScatteredEvaluator:
    """Rows of few images by masks, all others by another evaluator.

    Args:
        others: answers rows of many images.
        masks: of the instrumented model, whose masks may have a row per image.
        mixer: what runs them; the instrumented model itself if None.
        macs: multiplications of a full pass of one image; 0 where they are not known.
    """

    def __init__(
        self,
        others: Evaluator,
        masks: MaskEvaluator,
        mixer: AffineMasks | None = None,
        *,
        macs: float = 0.0,
    ) -> None:
        self.others, self.masks = others, masks
        self.mixer: AffineMasks | MaskEvaluator = masks if mixer is None else mixer
        most = masks.batch_size  # a GPU is fastest on full batches
        fitting = np.clip(_RUN_MACS / max(macs, 1.0), _LEAST_IMAGES, _RUN_IMAGES)
        self.run_images = min(int(fitting), most) if masks.device == "cpu" else most
        mask = "a mask" if mixer is None else "an affine mask"
        self.path = f"{others.path}; {mask} per image where a row has few"

    def answer(
        self, coalitions: game.Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """See `Evaluator`."""
        if images is None or images.shape[1] > min(_FEW, self.run_images):
            return self.others.answer(coalitions, images, reduce)
        step = max(1, self.run_images // images.shape[1])
        drawn: NDArray[np.intp] = images

        def mix(start: int) -> Array:
            rows = slice(start, start + step)
            return self._mixed(coalitions[rows], drawn[rows], step, reduce)

        return np.concatenate(list(self.masks.executor.map(mix, range(0, len(coalitions), step))))

    def _mixed(
        self, coalitions: game.Coalitions, images: NDArray[np.intp], step: int, reduce: Reduce
    ) -> Array:
        """One run of `step` rows, of which those given are wanted."""
        real, n_images = images.shape
        last = np.minimum(np.arange(step), real - 1)
        positions = images[last].reshape(-1)
        outputs = self.mixer.run(coalitions[last].repeat(n_images, axis=0), positions)
        # A detector may put several rows of output to an image.
        per_image = len(outputs) // len(positions)
        kept = reduce(outputs[: real * n_images * per_image], positions[: real * n_images])
        return kept.reshape(real, n_images * per_image, *kept.shape[1:])


class LateScattered:
    """Rows of few images share runs; nothing is prepared for that until the first of them comes.

    Args:
        others: answers rows of many images.
        settle: makes and proves what answers rows of few; called once.
    """

    def __init__(self, others: Evaluator, settle: Callable[[], Evaluator]) -> None:
        self.others, self._settle = others, settle
        self._settled: Evaluator | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """See `Evaluator`; it names mixed rows once there were any."""
        return (self._settled or self.others).path

    def answer(
        self, coalitions: game.Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """See `Evaluator`."""
        if images is None or images.shape[1] > _FEW:
            return self.others.answer(coalitions, images, reduce)
        with self._lock:
            if self._settled is None:
                self._settled = self._settle()
        return self._settled.answer(coalitions, images, reduce)


@stage("proving that rows can share a run")
def with_scattered(
    others: Evaluator,
    masks: MaskEvaluator,
    *,
    mixer: AffineMasks | None = None,
    macs: float = 0.0,
    precision: Precision = "float32",
    proven: dict[str, str | None] | None = None,
    bits: bool = False,
) -> Evaluator:
    """An evaluator that mixes coalitions in one run, if the model keeps its images apart.

    A model whose batch entries are no whole images (tiles, frames) would apply a mask to the wrong
    image; its answers row by row show that. On the CPU a row must also get the same bits at every
    place in a run, and beside any other rows; GPU kernels do not promise that.

    Args:
        others: answers rows of many images.
        masks: of the instrumented model.
        mixer: a faster way to run it, taken if it gives the same; never where `bits` count.
        macs: see `ScatteredEvaluator`.
        precision: of `masks`.
        proven: see `Candidates`; nothing is known before if None.
        bits: see `ExpectedAnswers.fault`.
    """
    if masks.runner.step is not None:
        return others
    proven = {} if proven is None else proven
    alone: ExpectedAnswers | None = None
    # A fused multiply and add may round otherwise, and a few rows cannot show that it never does.
    for way in (None,) if bits or mixer is None else (mixer, None):
        scattered = ScatteredEvaluator(others, masks, way, macs=macs)
        if scattered.path not in proven:
            alone = _rows_alone(masks) if alone is None else alone
            proven[scattered.path] = fault = _fault(scattered, alone, precision, bits=bits)
            if fault is not None:
                logger.info("coalitions do not share runs of %s: %s", scattered.path, fault)
        if proven[scattered.path] is None:
            return scattered
    return others


def _rows_alone(masks: MaskEvaluator) -> ExpectedAnswers:
    """Rows with ever more filters absent, each on an image of its own and run by itself."""
    rng, n_players = np.random.default_rng(0), len(masks.roster)
    rows = np.stack([rng.random(n_players) < share for share in _SHARES_PRESENT])
    positions = rng.integers(0, len(masks.suite), (len(rows), 1))
    return ExpectedAnswers(rows, positions, masks.answer(rows, positions, keep_all))


def _fault(
    scattered: ScatteredEvaluator, alone: ExpectedAnswers, precision: Precision, *, bits: bool
) -> str | None:
    """What is wrong with rows that share a run, given the answers of each alone."""
    rows, positions = alone.coalitions, alone.images
    try:
        together = scattered.answer(rows, positions, keep_all)
        backwards = scattered.answer(rows[::-1], positions[::-1], keep_all)[::-1]
    except errors.ModelError as error:
        return str(error)
    on_cpu = scattered.masks.device == "cpu"
    if on_cpu and not np.array_equal(together, backwards, equal_nan=True):
        return "an answer depends on its place in a run"
    return difference(together[:, 0], alone.expected[:, 0], precision=precision, bits=bits)
