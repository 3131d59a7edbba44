"""What runs on a worker of a Ray cluster: an engine, and how it describes itself."""

from __future__ import annotations

import os
import platform
import socket
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Precision
from repairkit.core.errors import SettingsError
from repairkit.core.game import GameFacts, Round
from repairkit.engine.dispatch import Part, answer
from repairkit.engine.ort.runtime import versions
from repairkit.jobs.score.elsewhere import Recipe

_PROBE_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """How a worker describes itself, and the game that it plays.

    Attributes:
        facts: of the game.
        path: how filters are turned off, for people.
        device: on which it plays.
        precision: in which it plays.
        versions: that must be the same everywhere.
        place: host and processor, for people.
        probe: the bytes of the scores of a few coalitions; empty where they cannot be had.
        process: its id on its host.
    """

    facts: GameFacts
    path: str
    device: str
    precision: Precision
    versions: dict[str, str]
    place: str
    probe: bytes
    process: int


class Engine:
    """An actor: it opens the game of a recipe, and plays parts of rounds."""

    def __init__(self, recipe: Recipe, cores: int) -> None:
        self.opened = recipe.open(cores)

    def describe(self) -> WorkerFacts:
        game = self.opened.game
        n, pool = game.facts.n_players, game.facts.pool
        rng = np.random.default_rng(0)
        rows = rng.random((_PROBE_ROWS, n)) < np.linspace(1.0, 0.5, _PROBE_ROWS)[:, None]
        images = pool.draw(rng, _PROBE_ROWS)[:, None]
        probe = np.zeros(0)
        with suppress(SettingsError):  # some metrics can only be judged on all images
            probe = game.play(Round(rows, images)).scores
        return WorkerFacts(
            facts=game.facts,
            path=game.path,
            device=self.opened.device,
            precision=self.opened.precision,
            versions=engine_versions(),
            place=f"{socket.gethostname()} ({platform.processor() or platform.machine()})",
            probe=probe.tobytes(),
            process=os.getpid(),
        )

    def play(self, part: Part) -> NDArray[np.float64] | Exception:
        """The scores of a part, or the error that it ended in."""
        try:
            return answer(self.opened.game, part)
        except Exception as error:  # noqa: BLE001 - the driver decides what to do about it
            return error


def engine_versions() -> dict[str, str]:
    """Versions that must be the same everywhere."""
    import ray

    return {**versions(), "ray": ray.__version__}
