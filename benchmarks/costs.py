"""What an image of a round costs on the CPU, in passes of the untouched model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Round
from repairkit.engine.masks import MaskEvaluator
from repairkit.engine.model_game import ModelGame
from repairkit.jobs.setup.workbench import Bench

Kind = Literal["whole", "shared", "own", "scattered"]

_FEW = 8
_PASSES = 8_192


def kind_of(asked: Round) -> Kind:
    """How the engine can play a round: `shared` rows have their images and most players alike."""
    if asked.images is None:
        return "whole"
    if len(asked) > 1 and bool((asked.images[0] == asked.images[1]).all()):
        changes = (asked.coalitions[1:] != asked.coalitions[:-1]).sum(axis=1)
        if np.median(changes) <= max(2, asked.coalitions.shape[1] // 50):
            return "shared"
    return "scattered" if asked.images.shape[1] <= _FEW else "own"


class Costs(Protocol):
    """Plain passes per image."""

    @property
    def masks(self) -> float:
        """Of a coalition on 128 images, evaluated with mask nodes."""
        ...

    def of(self, asked: Round) -> float: ...


@dataclass(frozen=True)
class UsualCosts:
    """Middling figures of the engine's own benchmark, for games that no model is behind."""

    masks: float = 1.4
    by_kind: dict[Kind, float] = field(
        default_factory=lambda: {"whole": 1.0, "shared": 0.35, "own": 1.1, "scattered": 2.0}
    )

    def of(self, asked: Round) -> float:
        return self.by_kind[kind_of(asked)]

    def __str__(self) -> str:
        return ", ".join(f"{kind} {cost:.2f}" for kind, cost in self.by_kind.items())


class MeasuredCosts:
    """Measured on a model, each kind of round when it is first met; in processor seconds.

    Args:
        bench: the workbench of the model, with one worker.
        game: played on it.
    """

    def __init__(self, bench: Bench, game: ModelGame) -> None:
        self.bench, self.game = bench, game
        self.known: dict[tuple[str, int], float] = {}
        self._rng = np.random.default_rng(0)
        self._plain = _Plain(bench, game)

    @property
    def masks(self) -> float:
        key = ("masks", 128)
        if key not in self.known:
            reference = MaskEvaluator(self.bench.working.judge, self.bench.roster, self.game.suite)
            by_masks = ModelGame(
                reference, self.bench.roster, self.game.suite, self.bench.metrics(("accuracy",))
            )
            self.known[key] = self._measure(by_masks.play, lambda: self._like("own", 128))
        return self.known[key]

    def of(self, asked: Round) -> float:
        kind = kind_of(asked)
        per_row = len(self.game.suite) if asked.images is None else asked.images.shape[1]
        if (kind, per_row) not in self.known:
            self.known[kind, per_row] = self._measure(
                self.game.play, lambda: self._like(kind, per_row)
            )
        return self.known[kind, per_row]

    def __str__(self) -> str:
        return ", ".join(f"{kind} ({per}) {cost:.2f}" for (kind, per), cost in self.known.items())

    def _like(self, kind: Kind, per_row: int) -> Round:
        """A round of that kind."""
        n_rows = max(2, _PASSES // per_row)
        if kind == "whole":
            return Round(self._rows(n_rows))
        if kind != "shared":
            return Round(self._rows(n_rows), self._images(n_rows, per_row))
        n = self.game.facts.n_players
        ranks = self._rng.permutation(n)
        # A walk, from where a twentieth is gone.
        coalitions = ranks >= n // 20 + np.arange(min(n_rows, n // 2))[:, None]
        return Round(coalitions, np.tile(self._images(1, per_row), (len(coalitions), 1)))

    def _rows(self, n_rows: int) -> NDArray[np.bool_]:
        return self._rng.random((n_rows, self.game.facts.n_players)) < 0.9

    def _images(self, n_rows: int, per_row: int) -> NDArray[np.int64]:
        return self._rng.integers(0, len(self.game.suite), (n_rows, per_row))

    def _measure(self, play: Callable[[Round], object], draw: Callable[[], Round]) -> float:
        """The median of five ratios, each against plain passes timed beside it.

        Every round is a fresh one, since the engine remembers those that it has met.
        """
        play(draw())
        ratios = []
        for _ in range(5):
            round = draw()
            per_row = len(self.game.suite) if round.images is None else round.images.shape[1]
            began = time.process_time()
            play(round)
            spent = time.process_time() - began
            ratios.append(spent / (len(round) * per_row) / self._plain.seconds())
        return float(np.median(ratios))


class _Plain:
    """The untouched model on batches of 128."""

    def __init__(self, bench: Bench, game: ModelGame) -> None:
        self.bench = bench
        self.suite = game.suite.take(np.arange(min(1024, len(game.suite))))

    def seconds(self) -> float:
        """Processor seconds of an image."""
        began = time.process_time()
        self.bench.working.run_plain(self.suite)
        return (time.process_time() - began) / len(self.suite)
