"""Games that are played elsewhere: clusters, found by the entry points `repairkit.clusters`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from repairkit.core.errors import SettingsError
from repairkit.core.game import Game
from repairkit.engine.precision import Precision
from repairkit.jobs.score.recipe import Recipe

GROUP = "repairkit.clusters"


class PlacedGame(Game, Protocol):
    """A game that says how filters are turned off, for people."""

    @property
    def path(self) -> str: ...


class RemoteGame(PlacedGame, Protocol):
    """A game, and what its workers are."""

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> Precision: ...


class Cluster(Protocol):
    """Workers, started or joined when a game is opened, and left alone when it is closed."""

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
        workers: at the most; as many as the cluster has room for if None.
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
    raise SettingsError(
        f"nothing installed runs on a {name} cluster; install repairkit anew, with the extra: pip "
        f"install 'repairkit[{name}]'"
    )
