"""What runs on a worker of a Ray cluster: an engine, and what it tells of itself."""

from __future__ import annotations

import os
import platform
import socket
from contextlib import suppress
from typing import Any

import numpy as np

from repairkit.core.errors import SettingsError
from repairkit.core.game import Round
from repairkit.engine.dispatch import Part, answer
from repairkit.jobs.runs.run_document import versions
from repairkit.jobs.score.recipe import Recipe

_PROBE_ROWS = 5


class Engine:
    """What an actor is: a game of its own, opened from the recipe."""

    def __init__(self, recipe: Recipe, cores: int) -> None:
        self.found = recipe.open(cores)

    def describe(self) -> dict[str, Any]:
        """What it plays, with which versions, and the answers to a probe."""
        game = self.found.game
        n, pool = game.facts.n_players, game.facts.pool
        rng = np.random.default_rng(0)
        rows = rng.random((_PROBE_ROWS, n)) < np.linspace(1.0, 0.5, _PROBE_ROWS)[:, None]
        images = pool.draw(rng, _PROBE_ROWS)[:, None]
        with suppress(SettingsError):  # some metrics can only be judged on all images
            probe = game.play(Round(rows, images)).scores
            return self._told(probe)
        return self._told(np.zeros(0))

    def _told(self, probe: Any) -> dict[str, Any]:
        game = self.found.game
        return {
            "facts": game.facts,
            "path": game.path,
            "device": self.found.device,
            "precision": self.found.precision,
            "versions": engine_versions(),
            "place": f"{socket.gethostname()} ({platform.processor() or platform.machine()})",
            "probe": probe.tobytes(),
            "process": os.getpid(),
        }

    def play(self, part: Part) -> Any:
        """The scores of a part, or the error that it ended in."""
        try:
            return answer(self.found.game, part)
        except Exception as error:  # noqa: BLE001 - the driver decides what is to be done
            return error


def engine_versions() -> dict[str, str]:
    """Versions that must be the same everywhere."""
    import ray

    return {**versions(), "ray": ray.__version__}
