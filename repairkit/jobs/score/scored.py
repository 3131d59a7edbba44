"""A finished scoring, and what it says of some of its images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repairkit.core import game, metric, suite
from repairkit.core.process.stages import Deadline
from repairkit.core.scores import Run, Scores, first_metrics
from repairkit.engine.model_game import some_images
from repairkit.estimators.driving.driver import scores_on
from repairkit.formats.documents import finite_rows
from repairkit.formats.run_file import RunDocument, scores_table
from repairkit.formats.score_size import with_sizes
from repairkit.jobs.setup.workbench import Bench
from repairkit.notebook.values import ValueTable


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What values rest on: the run, and the game that it played.

    Attributes:
        run: as it ended.
        facts: of the game.
        asked: the images that were to be scored.
        images: those that were; fewer than `asked` where a time limit allowed no more.
        metrics: of the game, without the guard.
        guard: see `engine.model_game.ModelGame`.
    """

    run: Run
    facts: game.GameFacts
    asked: suite.Suite
    images: suite.Suite
    metrics: tuple[metric.Metric, ...]
    guard: metric.Metric | None

    def on(self, positions: suite.Indices) -> Scores | None:
        """See `Scored.on`."""
        rows = np.flatnonzero(np.isin(self.images.indices, self.asked.indices[positions]))
        if not len(rows):
            return None
        some = some_images(self.facts, self.images, self.metrics, rows, guard=self.guard)
        scores = None if some is None else scores_on(self.run, some)
        return None if scores is None else first_metrics(scores, len(self.metrics))


@dataclass(frozen=True, kw_only=True, repr=False)
class Scored(ValueTable):
    """A finished (or interrupted and saved) scoring.

    `evidence` is None where no game was played (norms), or the scoring was read from a folder.
    """

    scores: Scores
    bench: Bench
    document: RunDocument
    folder: Path | None
    details: Mapping[str, Any] = field(default_factory=dict)
    excluded: frozenset[int] = frozenset()
    evidence: Evidence | None = field(default=None, repr=False)

    def on(self, positions: suite.Indices) -> Scores | None:
        """The values that the images at `positions` of the scored suite tell by themselves.

        It is as if the suite had held only them: the labels, groups and outputs of the others play
        no part, and metrics weigh these images as they would weigh a suite of their own. It takes
        no forward passes. `regression`, `repair` and `auto` solve the rows of these images anew
        (`auto` without its marginals; how many filters a coalition may lack was found once, by a
        pilot on all images), `leave-one-out` averages the changes image by image, and norms and
        `random` look at no image. Images that a time limit left out tell nothing.

        None where that cannot be: `tmab`, `permutation`, `marginals`, `exact`, an estimator of the
        user's own without a method `on_images`, images that share coalitions, metrics that judge
        images together, a leave-one-out table above 256 MiB, and positions without a scored image.

        Raises:
            DataError: a metric needs a class or group of which there is no image here.
        """
        if self.evidence is None:
            return self.scores
        return self.evidence.on(positions)

    def table(self) -> list[dict[str, Any]]:
        layers = self.bench.subject.layer_map
        filters = self.bench.roster.filters
        rows = scores_table(self.scores, filters, layers, without=self.excluded)
        return with_sizes(rows, self.document.get("score_size"))

    def to_json(self) -> dict[str, Any]:
        details = {"details": dict(self.details)} if self.details else {}
        return {**self.document, **details, "scores": finite_rows(self.table())}


@dataclass(frozen=True, kw_only=True)
class Around:
    """What is done before and after a scoring, while its folder is locked.

    Attributes:
        prepare: the bench that is scored, from that of the model and the images.
        finish: what is made of the scoring; it is given the deadline of the command.
    """

    prepare: Callable[[Bench], Bench] = lambda bench: bench
    finish: Callable[[Scored, Deadline | None], Scored] = lambda scored, _: scored
