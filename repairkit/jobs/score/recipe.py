"""All that a worker needs to play the game of a bench by itself, and nothing more.

No path, and no image but those of the game. Levels of absent filters are measured once, by whoever
hands out the recipe: they define the game.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.metric import Metric
from repairkit.core.suite import Suite
from repairkit.data import Dataset, InputSpec, Parts
from repairkit.engine.game import ModelGame
from repairkit.engine.precision import Precision
from repairkit.engine.runner import Batching
from repairkit.graph.kinds.sites import select_sites, survey
from repairkit.graph.stored.files import ModelFile
from repairkit.jobs.setup.bench import Bench
from repairkit.jobs.setup.settings import Settings
from repairkit.jobs.setup.subject import Subject
from repairkit.metrics import OutputForm

_NOWHERE = Path("model")


@dataclass(frozen=True, eq=False)
class OpenGame:
    """A game, and where and in which precision it is played."""

    game: ModelGame
    device: str
    precision: Precision


@dataclass(frozen=True, eq=False)
class Recipe:
    """A bench and a game on some of its images, as numbers that can travel.

    `model` holds the bytes of the working model (uint8), in one array that workers of one machine
    can share.
    """

    model: NDArray[np.uint8]
    digest: str
    input_name: str
    spec: InputSpec
    output: str
    step: int | None
    how: str
    settings: Settings
    form: OutputForm | None
    n_classes: int
    means: FilterMeans
    suite: Suite
    metrics: tuple[Metric, ...]
    guard: Metric | None

    @classmethod
    def of(
        cls, bench: Bench, part: Suite, metrics: Sequence[Metric], guard: Metric | None
    ) -> Recipe:
        """The game of a bench on some images.

        Raises:
            ModelError: the model is too large to be sent.
        """
        try:
            content = bench.batching.model.SerializeToString()
        except Exception as error:
            raise ModelError(
                f"{bench.subject.file.path}: cannot be sent to workers ({error}); models up to 2 "
                "GB can; leave --ray out"
            ) from error
        images = part.images
        if hasattr(images, "take"):
            images = images.take(part.indices)
            suite = Suite.whole(part.name, images, part.annotations)
        else:
            suite = part
        settings = replace(bench.settings, data=None, means=None, cache_memory=None)
        return cls(
            np.frombuffer(content, np.uint8),
            bench.subject.file.digest,
            bench.subject.input_name,
            bench.subject.spec,
            bench.subject.output,
            bench.batching.step,
            bench.batching.how,
            settings,
            bench.form,
            bench.n_classes,
            bench.means,
            suite,
            tuple(metrics),
            guard,
        )

    @property
    def n_bytes(self) -> int:
        """What model and images take on their way."""
        images = self.suite.images
        arrays = [v for v in vars(images).values() if isinstance(v, np.ndarray)]
        return self.model.nbytes + sum(array.nbytes for array in arrays)

    def open(self, threads: int) -> OpenGame:
        """The game, played by so many threads.

        Raises:
            RepairkitError: the model cannot be run here.
        """
        model = ModelProto.FromString(self.model.tobytes())
        settings = replace(self.settings, workers=threads)
        found = survey(model, output=self.output, at=settings.sites_at, include=settings.include)
        bench = Bench(
            Subject(
                ModelFile(_NOWHERE, model, self.digest), self.input_name, self.spec, self.output
            ),
            settings,
            found,
            found,
            Roster(select_sites(found, settings.sites)),
            Batching(model, self.step, self.how),
            Dataset(self.suite.images, self.suite.annotations, None, self.digest),
            Parts(self.suite, self.suite, self.suite, (), ""),
            self.form,
            self.n_classes,
        )
        vars(bench)["means"] = self.means  # as they were measured, once for all
        game = bench.game(self.suite, self.metrics, guard=self.guard)
        return OpenGame(game, bench.device, bench.precision)
