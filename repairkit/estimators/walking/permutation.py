"""Shapley values by Monte Carlo over permutations (Castro, Gomez & Tejada 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, scores
from repairkit.estimators import questions, samples
from repairkit.estimators.walking import walks

CONFIDENCE = 0.95
Stop = Literal["decided", "never"]
_FEW_WALKS = 16


@dataclass(frozen=True, kw_only=True)
class Permutation:
    """Every player in every walk, until the top k are apart from the rest or the budget ends.

    A walk counts when it is complete: then its shares add up to V(all) - V(none) on its images.
    Below about 16 walks the intervals are wider than a player's own samples suggest. The run looks
    at its bounds after 16, 32, 64, ... walks, and stops by bounds that hold for all players and all
    these looks together.

    Attributes:
        batch_size: images in a walk.
        truncate_at: the guard metric's value at which a walk is cut and the players still present
            get nothing; None walks to the end.
        truncate_patience: values below `truncate_at` in a row that it takes to cut.
        chunk: rows in a round.
        top_k: the question that `decided` answers; a tenth of the players, 1 to 100, if None.
        side: whether the `highest`, the `lowest` or `both` top k are asked for.
        stop: once the question is `decided`, or `never` before the budget ends.
    """

    batch_size: int = 128
    truncate_at: float | None = None
    truncate_patience: int = 6
    chunk: int = 64
    top_k: int | None = None
    side: questions.Side = "highest"
    stop: Stop = "decided"

    def __post_init__(self) -> None:
        questions.check_whole("batch_size", self.batch_size, least=1)
        questions.check_whole("truncate_patience", self.truncate_patience, least=1)
        questions.check_whole("chunk", self.chunk, least=1)
        if self.truncate_at is not None:
            questions.check_real("truncate_at", self.truncate_at, least=-np.inf)
        questions.check_question(self.top_k, self.side)
        if self.stop not in get_args(Stop):
            raise questions.unknown("stop", str(self.stop), get_args(Stop))

    def start(self, facts: game.GameFacts, rng: np.random.Generator) -> PermutationRun:
        """Begin; SettingsError if the game has fewer players than `top_k`."""
        return PermutationRun(facts, self, rng)


class PermutationRun:
    """`moments` of the walks completed; `walk` is under way.

    `halves` and `curve` go into the details.
    """

    def __init__(
        self, facts: game.GameFacts, settings: Permutation, rng: np.random.Generator
    ) -> None:
        self.facts, self.settings = facts, settings
        self.top_k = questions.settle_top_k(settings.top_k, facts.n_players)
        self.moments = samples.Moments.empty(facts.n_players, facts.n_metrics)
        self.entropy = samples.draw_entropy(rng)
        self.n_walks, self.n_evaluations = 0, 0
        self.n_looks, self.look_at = 0, _FEW_WALKS
        self.still_open = np.ones(facts.n_players, bool)
        self.halves = samples.HalvedSamples.empty(facts.n_players)
        self.curve = walks.Curve.empty(facts.n_players, facts.n_metrics)
        self._begin()

    @property
    def endless(self) -> bool:
        return self.settings.stop == "never"

    @property
    def conclusion(self) -> str:
        return questions.conclusion(self.top_k, self.settings.side)

    @property
    def n_undecided(self) -> int:
        return int(self.still_open.sum())

    @property
    def details(self) -> dict[str, Any]:
        return self.curve.as_details(self.facts) | {"convergence": self.halves.as_details()}

    @property
    def enough_evaluations(self) -> int:
        """Of a walk that is not truncated, beside all players and none."""
        return 2 + self.facts.n_players + 1

    @property
    def least_evaluations(self) -> int:
        """A walk; a truncated walk may need any number below that."""
        return self.facts.n_players + 1 if self.settings.truncate_at is None else 1

    def ask(self) -> game.Round:
        if not self.endless and not self.still_open.any():
            return game.Round.nothing(self.facts.n_players)
        return walks.ask_for([self.walk], self.settings.chunk, self.facts.n_players)

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: a walk goes on from wherever it is."""
        return n_rows > 0

    def ask_ahead(self, pending: Sequence[game.Round]) -> game.Round | None:
        """See `driving.playing`: a walk that is never cut depends on no outcomes."""
        if self.settings.truncate_at is not None:
            return None
        walk, chunk = self.walk, self.settings.chunk
        n_asked = walk.n_known
        for round in pending:
            n_asked += len(round)
            if n_asked >= len(walk.prefixes):
                if walk.number + 1 == self.look_at and not self.endless:
                    return None  # what is asked then depends on the look
                walk, n_asked = self._walk(walk.number + 1), 0
        return walks.ask_for([replace(walk, n_known=n_asked)], chunk, self.facts.n_players)

    def tell(self, outcomes: game.Outcomes) -> None:
        rule = walks.Truncation(self.settings.truncate_at, self.settings.truncate_patience)
        chunk, guard = self.settings.chunk, self.facts.guard
        walks.advance([self.walk], outcomes.values, chunk, guard=guard, rule=rule)
        self.n_evaluations += len(outcomes.values)
        if self.walk.done:
            losses = walks.marginals(self.walk)
            self.moments.add(self.walk.players, losses)
            self.halves.add(self.walk.players, losses, self.n_evaluations)
            self.curve.add(self.walk, self.facts.guard)
            self.n_walks += 1
            if self.n_walks == self.look_at and not self.endless:
                self.n_looks += 1
                self.look_at *= 2
                self.still_open = self._contested(self._joint(self.n_looks))
            self._begin()

    def _joint(self, look: int) -> NDArray[np.float64]:
        """Bounds for all players and looks together, (n_players, 2)."""
        confidence = (
            1 - (1 - CONFIDENCE) / self.facts.n_players
            if self.endless
            else samples.confidence_at_look(CONFIDENCE, look, self.facts.n_players)
        )
        errors = self._cautious_errors()
        return samples.joint_bounds(
            self.moments.means, errors, confidence, max(self.n_walks - 1, 1)
        )

    def _contested(self, joint: NDArray[np.float64]) -> NDArray[np.bool_]:
        (low, high), values, side = joint.T, self.moments.means[:, 0], self.settings.side
        return questions.contested(low, high, values, top_k=self.top_k, side=side, epsilon=0.0)

    def _begin(self) -> None:
        self.walk = self._walk(self.n_walks)

    def _walk(self, number: int) -> walks.PlayerWalk:
        everyone, size = np.arange(self.facts.n_players), self.settings.batch_size
        return walks.begin_walk(self.facts, self.entropy, number, players=everyone, batch_size=size)

    def _cautious_errors(self) -> NDArray[np.float64]:
        """Standard errors that a few lucky walks cannot make small, (n_players, n_metrics).

        A player often changes nothing and sometimes much. A few walks may miss all large changes,
        and their spread is then far too small. So no player's variance counts as less than a share
        of the mean over all players, which shrinks as walks become many.
        """
        variances, counts = self.moments.variances(), self.moments.counts[:, None]
        share = np.minimum(1.0, _FEW_WALKS / np.maximum(counts, 1))
        least = share * np.mean(variances, axis=0, keepdims=True)
        errors: NDArray[np.float64] = np.sqrt(np.maximum(variances, least) / np.maximum(counts, 1))
        return errors

    def read(self) -> scores.Scores:
        values, errors = self.moments.means.copy(), self.moments.std_errors()
        quantile = samples.student_quantile(CONFIDENCE, max(self.n_walks - 1, 1))
        low, high = samples.around(values, quantile * self._cautious_errors())
        # A read at any moment counts as one more look.
        joint = self._joint(self.n_looks + 1)
        return scores.Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=errors,
            ci_low=low,
            ci_high=high,
            samples=self.moments.counts.copy(),
            decided=~(self.still_open & self._contested(joint)),
            confidence=CONFIDENCE,
            interval=(
                "Student's t over walks, cautious if they are few, for one filter at one look"
            ),
            efficient=self.settings.truncate_at is None,
            joint=joint,
        )
