"""Games that clusters of workers play, and the recipe that each worker gets.

A recipe is all that a worker needs to play the game of a bench: no paths, and only the images of
the game. Levels of absent filters define the game, so they are measured once, before. Clusters are
found by the entry points `repairkit.clusters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core import errors, filters, metric
from repairkit.core.game import Game
from repairkit.core.suite import Precision, Suite
from repairkit.engine import model_game, runner
from repairkit.engine.working import Effort, Working
from repairkit.formats.effects import Affects, affecting, settings_of
from repairkit.graph.kinds.sites import select_sites, survey
from repairkit.jobs.setup.workbench import Bench, Settings

# Paths, which a worker does not have, and settings that each worker chooses for itself.
_LEFT_BEHIND: dict[str, Any] = dict.fromkeys(
    (
        *(name for name, about in settings_of(Settings).items() if about.by_digest),
        *affecting(Settings, Affects.SPEED),
    )
)


@dataclass(frozen=True, eq=False)
class OpenGame:
    """A game, and where and in which precision it is played."""

    game: model_game.ModelGame
    device: str
    precision: Precision


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """A bench and a game on some of its images, as numbers that can travel.

    `model` holds the bytes of the working model (uint8), in one array that workers of one machine
    can share.
    """

    model: NDArray[np.uint8]
    image: str
    output: str
    step: int | None
    settings: Settings
    effort: Effort
    levels: filters.FilterMeans
    suite: Suite
    metrics: tuple[metric.Metric, ...]
    guard: metric.Metric | None
    auxiliaries: tuple[metric.Metric | None, ...] = ()

    @classmethod
    def of(
        cls,
        bench: Bench,
        part: Suite,
        metrics: Sequence[metric.Metric],
        guard: metric.Metric | None,
        auxiliaries: Sequence[metric.Metric | None] = (),
    ) -> Recipe:
        """The game of a bench on some images.

        Raises:
            ModelError: the model is too large to be sent.
        """
        try:
            content = bench.working.opened.model.SerializeToString()
        except Exception as error:
            raise errors.ModelError(
                f"{bench.subject.file.path}: cannot be sent to workers ({error}); models up to 2 "
                "GB can; leave --ray out"
            ) from error
        images = part.images
        if hasattr(images, "take"):
            images = images.take(part.indices)
            suite = Suite.whole(part.name, images, part.annotations)
        else:
            suite = part
        opened = bench.working.opened
        return cls(
            model=np.frombuffer(content, np.uint8),
            image=opened.image,
            output=opened.output,
            step=opened.step,
            settings=replace(bench.settings, **_LEFT_BEHIND),
            effort=replace(bench.working.effort, cache_memory=None),
            levels=bench.working.levels,
            suite=suite,
            metrics=tuple(metrics),
            guard=guard,
            auxiliaries=tuple(auxiliaries),
        )

    @property
    def n_bytes(self) -> int:
        """How many bytes of model and images are sent."""
        images = self.suite.images
        arrays = [v for v in vars(images).values() if isinstance(v, np.ndarray)]
        return self.model.nbytes + sum(array.nbytes for array in arrays)

    def open(self, threads: int) -> OpenGame:
        """The game, played by this number of threads.

        Raises:
            RepairkitError: the model cannot be run here.
        """
        model, settings = ModelProto.FromString(self.model.tobytes()), self.settings
        sites = survey(model, output=self.output, at=settings.sites_at, include=settings.include)
        working = Working(
            opened=runner.OpenModel(
                model=model,
                image=self.image,
                output=self.output,
                step=self.step,
                device=settings.device,
            ),
            survey=sites,
            roster=filters.Roster(select_sites(sites, settings.sites)),
            settle_levels=lambda _: self.levels,
            effort=replace(self.effort, workers=threads),
        )
        game = working.game(
            self.suite, self.metrics, guard=self.guard, auxiliaries=self.auxiliaries
        )
        return OpenGame(game, working.device, working.precision)


GROUP = "repairkit.clusters"


class PlacedGame(Game, Protocol):
    """A game that says in words how filters are turned off."""

    @property
    def path(self) -> str: ...


class RemoteGame(PlacedGame, Protocol):
    """A game, and the device and precision of its workers."""

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> Precision: ...


class Cluster(Protocol):
    """Workers that are started or joined when a game is opened, and kept when it is closed."""

    def open(self, recipe: Recipe, *, seed: int) -> AbstractContextManager[RemoteGame]:
        """The game of a recipe, played by the workers.

        Raises:
            RepairkitError: there is no cluster, or its workers cannot play the game.
        """
        ...


@dataclass(frozen=True)
class ClusterOptions:
    """Which workers to use.

    Attributes:
        address: `local`, `auto`, or where the cluster is.
        workers: the maximum; as many as the cluster has room for if None.
        cores: of each worker, on CPUs.
    """

    address: str
    workers: int | None = None
    cores: int = 1


def find_cluster(name: str, options: ClusterOptions) -> Cluster:
    """The cluster of that name, such as `ray`; nothing is started.

    Raises:
        SettingsError: no installed package gives one.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            cluster: Cluster = entry.load()(options)
            return cluster
    raise errors.SettingsError(
        f"nothing installed runs on a {name} cluster; install repairkit anew, with the extra: pip "
        f"install 'repairkit[{name}]'"
    )
