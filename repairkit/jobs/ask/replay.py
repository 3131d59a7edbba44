"""The game of a run played again from its kept rows, and the run's values for other metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, game
from repairkit.core.attacked import is_attacked
from repairkit.core.metric import Metric
from repairkit.core.outputs import OutputForm
from repairkit.core.scores import Run, Scores, first_metrics
from repairkit.core.suite import Annotations, Array, Indices, Suite
from repairkit.engine.evaluator import Reduce, reduced
from repairkit.engine.model_game import ModelGame, some_images
from repairkit.estimators.driving.checkpoint import CheckpointStore
from repairkit.estimators.driving.playing import as_told, seen_by_run
from repairkit.estimators.linear.fits import LEAST_ROWS
from repairkit.estimators.registry import make_estimator
from repairkit.estimators.revaluing import FEW_ROWS, KeptOutcomes, cut, revalued, rows_of
from repairkit.formats.rows_file import KeptRows
from repairkit.formats.run_file import RunDocument, RunFolder
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.definition import auxiliary_of, check_defined
from repairkit.metrics.image_metrics import ACCURACY
from repairkit.metrics.robustness import CLEAN_ACCURACY

_TRIED = 64  # images on which a user's own metric is tried out


@dataclass
class KeptEvaluator:
    """Answers with outputs that were kept, row after row, whatever the coalitions.

    `outputs` (n_rows, n_images, ...) are those of a round, of which `n_given` rows were given.
    `positions` are the images of which alone it answers where rows hold all of them.
    """

    outputs: Array
    positions: Indices | None = None
    n_given: int = 0

    def show(self, outputs: Array) -> None:
        """The outputs of the next round."""
        self.outputs, self.n_given = outputs, 0

    @property
    def path(self) -> str:
        """See `Evaluator`."""
        return "kept rows"

    def answer(
        self,
        coalitions: game.Coalitions,
        images: NDArray[np.intp] | None,
        reduce: Reduce,
    ) -> Array:
        """See `Evaluator`."""
        first, self.n_given = self.n_given, self.n_given + len(coalitions)
        outputs = np.asarray(self.outputs[first : self.n_given])
        if images is None and self.positions is not None:
            outputs = outputs[:, self.positions]
        return reduced(outputs, images, reduce)


class _NoImages:
    """The images of a game that is played from kept rows: none is asked for."""

    def __init__(self, n_images: int) -> None:
        self.n_images = n_images

    def __len__(self) -> int:
        return self.n_images

    def batch(self, indices: Indices) -> Array:
        del indices
        raise AssertionError("kept rows need no image")


@dataclass(frozen=True, eq=False)
class Replayed:
    """Values by some metrics, and what they rest on.

    Attributes:
        scores: without the guard.
        run: as it would be for these metrics on these images.
        ends: V(all) and V(none) on these images, (2, n_metrics).
        n_rows: rows that saw one of these images, of `n_all`.
        n_unseen: images that no row saw.
        widened: whether errors were widened, since rows are few.
    """

    scores: Scores
    run: Run
    ends: NDArray[np.float64]
    n_rows: int
    n_all: int
    n_unseen: int
    widened: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """A run that is over, and its rows.

    Attributes:
        folder: of the run.
        document: its `run.json`.
        rows: that it kept.
    """

    folder: Path
    document: RunDocument
    rows: KeptRows

    @property
    def suite(self) -> Suite:
        """The images that were scored."""
        scored = self.rows.scored
        return Suite(
            name=self.rows.document["part"],
            images=_NoImages(self.rows.document["n_data"]),
            annotations=scored.annotations,
            indices=scored.numbers.astype(np.intp),
        )

    @property
    def roster(self) -> filters.Roster:
        """The filters, by their names alone."""
        return filters.Roster(
            tuple(
                filters.Site(
                    name=site["site"],
                    kind="",
                    tensor="",
                    node="",
                    channel_axis=1,
                    n_channels=site["channels"],
                    rank=4,
                )
                for site in self.rows.document["sites"]
            )
        )

    def answer(self, names: Sequence[str], positions: Indices | None, *, same: bool) -> Replayed:
        """The values by some metrics on the images at some positions; on all if None.

        Args:
            names: of the metrics, the first of which ranks.
            positions: among the scored images.
            same: whether this is what the run itself was asked.

        Raises:
            SettingsError: the rows cannot answer this.
            DataError: a metric needs a class or group of which there is no image.
        """
        metrics = metrics_of(self, names)
        part = self.suite if positions is None else self.suite.take(positions)
        for metric in metrics:
            check_defined(metric, part.annotations, part.name)
        if self.rows.document["of_sets"]:
            return self._together(metrics, part, positions, same=same)
        played = _game(self, metrics, self.suite, drawn=self.rows.scored.pool.probabilities)
        _check_drawn(self, metrics)
        facts = replace(played.facts, pool=self.rows.scored.pool)
        run = _revalued(self, played, facts, same=same)
        ends, drawn = _ends(self, played, len(metrics)), rows_of(run).all_images()
        if positions is None:
            return self._read(run, metrics, ends, np.arange(len(self.suite)), drawn)
        ends = _ends(self, _game(self, metrics, part, positions=positions), len(metrics))
        guard = _guard(self, metrics, part)
        some = some_images(facts, self.suite, metrics, positions, guard=guard)
        part_of = None if some is None else cut(run, some)
        if not np.isin(drawn, positions).any():
            raise errors.DataError(
                f"no row of {self.folder} saw {'this image' if len(positions) == 1 else 'these'}; "
                "ask of more images, or score with a larger --max-evaluations and --keep-rows"
            )
        if part_of is None:
            raise errors.SettingsError(
                f"{self.folder}: its rows hold several images each, so that nothing can be said of "
                "some of them; score with --set images_per_coalition=1 --keep-rows"
            )
        answer = self._read(part_of, metrics, ends, positions, drawn)
        few = LEAST_ROWS <= answer.n_rows < FEW_ROWS * self.rows.n_filters
        return replace(answer, widened=few)

    def _together(
        self, metrics: tuple[Metric, ...], part: Suite, positions: Indices | None, *, same: bool
    ) -> Replayed:
        """Where every row holds all images."""
        played = _game(self, metrics, part, positions=positions)
        run = _revalued(self, played, replace(played.facts, of_sets=True), same=same)
        ends, everyone = _ends(self, played, len(metrics)), np.arange(len(part))
        every_row = np.tile(everyone, (len(rows_of(run)), 1))
        return self._read(run, metrics, ends, everyone, every_row)

    def _read(
        self,
        run: Run,
        metrics: tuple[Metric, ...],
        ends: NDArray[np.float64],
        positions: Indices,
        drawn: NDArray[np.int64],
    ) -> Replayed:
        seen = np.isin(drawn, positions)
        return Replayed(
            scores=first_metrics(run.read(), len(metrics)),
            run=run,
            ends=ends,
            n_rows=int(seen.any(axis=1).sum()),
            n_all=len(drawn),
            n_unseen=int((~np.isin(positions, drawn)).sum()),
        )


def metrics_of(replay: Replay, names: Sequence[str]) -> tuple[Metric, ...]:
    """Metrics of the kept outputs, by name.

    Raises:
        SettingsError: one is unknown, or these rows cannot answer it.
        DataError: the labels are not what it needs.
    """
    form, about = replay.rows.document["form"], replay.rows.scored.annotations
    whole = replay.rows.ends[0]
    made = tuple(
        make_metric(
            name,
            form=None
            if form is None
            else OutputForm(
                form["kind"],
                None if form["columns"] is None else (form["columns"][0], form["columns"][1]),
                form["threshold"],
            ),
            annotations=about,
            n_classes=replay.rows.document["n_classes"],
            sample=np.asarray(whole[:_TRIED]),
            places=np.arange(min(len(whole), _TRIED)),
        )
        for name in names
    )
    for metric in made:
        if not metric.per_image and not replay.rows.document["of_sets"]:
            raise errors.SettingsError(
                f"{metric.name} judges images together, and each row of {replay.folder} holds "
                "one image or a few: ask for a mean over images, such as accuracy --where "
                f"\"group == 'a'\", or score with --metric {metric.name} --method regression "
                "--keep-rows"
            )
    return made


def _game(
    replay: Replay,
    metrics: tuple[Metric, ...],
    part: Suite,
    *,
    positions: Indices | None = None,
    drawn: NDArray[np.float64] | None = None,
) -> ModelGame:
    evaluator = KeptEvaluator(replay.rows.ends, positions)
    guard = _guard(replay, metrics, part)
    borrows = "auxiliary" in replay.document and all(metric.per_image for metric in metrics)
    beside = tuple(map(auxiliary_of, metrics)) if borrows else ()
    return ModelGame(
        evaluator, replay.roster, part, metrics, guard=guard, drawn=drawn, auxiliaries=beside
    )


def _guard(replay: Replay, metrics: tuple[Metric, ...], part: Suite) -> Metric | None:
    """The metric that tells where V collapses, as a scoring by these metrics would have it."""
    name = accuracy_of(part.annotations)
    if metrics[0].name == name or replay.rows.document["n_classes"] == 0:
        return None
    return metrics_of(replay, (name,))[0]


def _ends(replay: Replay, played: ModelGame, n_metrics: int) -> NDArray[np.float64]:
    return _play_ends(replay, played).values[:, :n_metrics]


def _play_ends(replay: Replay, played: ModelGame) -> game.Outcomes:
    assert isinstance(played.evaluator, KeptEvaluator)
    played.evaluator.show(replay.rows.ends)
    n = replay.rows.n_filters
    return played.play(game.Round(np.stack([np.ones(n, bool), np.zeros(n, bool)])))


def _revalued(replay: Replay, played: ModelGame, facts: game.GameFacts, *, same: bool) -> Run:
    seen = seen_by_run(facts)
    kept = KeptOutcomes(_play_ends(replay, played), _rounds(replay, played, facts))
    return revalued(_checkpointed(replay, seen), seen, kept, same=same)


def _rounds(
    replay: Replay, played: ModelGame, facts: game.GameFacts
) -> Iterator[tuple[game.Round, game.Outcomes]]:
    assert isinstance(played.evaluator, KeptEvaluator)
    for kept in replay.rows.rounds():
        played.evaluator.show(kept.outputs)
        outcomes, asked = played.play(kept.asked), kept.asked
        if facts.of_sets:  # the run saw a pool of one image, which stands for all
            asked = game.Round(asked.coalitions, np.zeros((len(asked), 1), np.intp))
        yield asked, as_told(outcomes, asked, facts)


def _checkpointed(replay: Replay, facts: game.GameFacts) -> Run:
    """The run as it ended."""
    settings = replay.document["settings"]
    taken = replay.document.get("taken")
    method = settings["method"] if taken is None else taken["method"]
    estimator = make_estimator(method, **settings["estimator"])
    run = estimator.start(facts, np.random.default_rng(settings["seed"]))
    if CheckpointStore(RunFolder(replay.folder).checkpoint).load(run, None) is None:
        raise errors.RunFolderError(
            f"{replay.folder}: has no checkpoint, without which its rows cannot be read; score "
            "again with --keep-rows"
        )
    return run


def _check_drawn(replay: Replay, metrics: tuple[Metric, ...]) -> None:
    """Refuse a metric that counts images which were never drawn.

    Raises:
        SettingsError: there is one.
    """
    drawn = replay.rows.scored.pool.probabilities > 0
    for metric in metrics:
        counted = metric.weights(replay.rows.scored.annotations) > 0
        if (counted & ~drawn).any():
            raise errors.SettingsError(
                f"{metric.name} counts {int(counted.sum())} images, and the rows of "
                f"{replay.folder} saw {int((counted & drawn).sum())} of them, since they were "
                f"drawn for {', '.join(replay.document['metrics'])}; score with --metric "
                f"{metric.name} --keep-rows"
            )


def accuracy_of(about: Annotations) -> str:
    """The metric that stands for accuracy: where images were attacked, that on clean ones."""
    return (CLEAN_ACCURACY if is_attacked(about) else ACCURACY).name
