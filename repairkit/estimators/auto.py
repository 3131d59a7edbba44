"""Auto: regression over all players, then marginals for those near the boundary.

The regression is solved whenever its rows have doubled. The players whose bounds prevent an answer
are the contenders. For these the cost of a unit of precision is estimated by rows of the regression
and by marginals, and the cheaper kind goes on: few contenders favour marginals.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, scores
from repairkit.estimators import questions, samples
from repairkit.estimators.linear.fits import Fit
from repairkit.estimators.linear.pooling import BORROWED
from repairkit.estimators.linear.regression import (
    CONFIDENCE,
    Regression,
    RegressionRun,
    borrowed_from,
)
from repairkit.estimators.walking import marginals

_ROWS_PER_PLAYER = 8
_LEAST_ROWS = 4096
_WITHIN = 0.8
_CHUNK = 1024
_TRIAL = 0.1
_KNOWN_AFTER = 4
_NEAR = 2.0


@dataclass(frozen=True, kw_only=True)
class Auto:
    """Which are the top k, and the values of all players.

    Attributes:
        top_k, side, epsilon: see `Tmab`.
        marginal_cost: what an image costs in a star (one coalition, and many with one player
            changed), in plain passes of the model.
        scattered_cost: what it costs where each image has a coalition of its own.
        images_per_coalition: of the regression.
        batch_size: images of a star.
        most_contenders: players in a star at most; those nearest to the boundary.
        round_rows: the most coalitions of the regression in a round.
        pilot_rows: coalitions of the regression's pilot, which few players do not need.
    """

    top_k: int | None = None
    side: questions.Side = "both"
    epsilon: float = 1e-3
    marginal_cost: float = 0.35
    scattered_cost: float = 1.3
    images_per_coalition: int = 1
    batch_size: int = 16
    most_contenders: int = 64
    round_rows: int = 4096
    pilot_rows: int = 512

    def __post_init__(self) -> None:
        questions.check_question(self.top_k, self.side)
        questions.check_real("epsilon", self.epsilon, least=0.0)
        questions.check_positive("marginal_cost", self.marginal_cost)
        questions.check_positive("scattered_cost", self.scattered_cost)
        for name in (
            "images_per_coalition", "batch_size", "most_contenders", "round_rows", "pilot_rows",
        ):  # fmt: skip
            questions.check_whole(name, getattr(self, name), least=1)

    def regression(self, top_k: int) -> Regression:
        """The regression in a game in which `top_k` players are asked for."""
        return Regression(
            images_per_coalition=self.images_per_coalition,
            round_rows=self.round_rows,
            top_k=top_k,
            side=self.side,
            pilot_rows=min(self.pilot_rows, self.round_rows),
        )

    def start(self, facts: game.GameFacts, rng: np.random.Generator) -> AutoRun:
        """Begin; SettingsError if the game has fewer players than `top_k`."""
        return AutoRun(facts, self, rng)


class AutoRun(questions.TopKRun):
    """`regression` and `star` are asked in turn; `moments` are those of the stars.

    A unit of precision costs variance times expense; of the regression, `regression_price`.

    `still_open` and `contenders` (n_players,) are those of the last of `n_looks`; the next is at
    `look_at` rows. `costs` are spent, in plain image passes: on the regression, on stars.
    """

    settings: Auto
    stored_types: ClassVar[tuple[type, ...]] = (Fit, marginals.Star)

    def __init__(self, facts: game.GameFacts, settings: Auto, rng: np.random.Generator) -> None:
        self.facts, self.settings = facts, settings
        self.top_k = questions.settle_top_k(settings.top_k, facts.n_players)
        self.regression = settings.regression(self.top_k).start(facts, rng)
        self.entropy = samples.draw_entropy(rng)
        self.moments = samples.Moments.empty(facts.n_players, facts.n_metrics)
        self.star: marginals.Star | None = None
        self.n_stars, self.n_looks = 0, 0
        self.look_at = min(max(_ROWS_PER_PLAYER * facts.n_players, _LEAST_ROWS),
                           4 * settings.round_rows)  # fmt: skip
        self.still_open = np.ones(facts.n_players, bool)
        self.contenders = np.zeros(facts.n_players, bool)
        self.costs = np.zeros(2)
        self.regression_price = 0.0

    @property
    def endless(self) -> bool:
        return self.regression.endless

    @property
    def least_evaluations(self) -> int:
        return self.regression.least_evaluations

    @property
    def statistics(self) -> dict[str, float]:
        return self.regression.statistics | {
            "stars": float(self.n_stars),
            "contenders": float(self.contenders.sum()),
            "plain_passes_regression": float(self.costs[0]),
            "plain_passes_marginals": float(self.costs[1]),
        }

    @property
    def details(self) -> dict[str, Any]:
        return self.regression.details

    def ask(self) -> game.Round:
        if not self.still_open.any():
            return game.Round.nothing(self.facts.n_players)
        return (
            self.regression.ask()
            if self.star is None
            else marginals.ask_for_star(self.star, _CHUNK)
        )

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`."""
        return self.star is not None or self.regression.can_be_told(n_rows)

    def ask_ahead(self, pending: Sequence[game.Round]) -> game.Round | None:
        """See `driving.playing`: up to the next look, and as long as no star is due."""
        following = self.regression.ask_ahead(pending)
        if self.star is not None or following is None:
            return None
        n_rows, costs = len(self.regression.rows), float(self.costs[0])
        for images in [round.images for round in pending if round.images is not None]:
            n_rows += len(images)
            costs += images.size * self.settings.scattered_cost
            if n_rows >= self.look_at or _star_is_due(self, costs):
                return None
        return following

    def tell(self, outcomes: game.Outcomes) -> None:
        n_passes = outcomes.scores.shape[0] * outcomes.scores.shape[1]
        if self.star is None:
            whole = not len(self.regression.ends)
            self.costs[0] += n_passes * (1.0 if whole else self.settings.scattered_cost)
            self.regression.tell(outcomes)
        else:
            self.costs[1] += n_passes * self.settings.marginal_cost
            marginals.learn_star(self.star, outcomes.values)
            if not self.star.done:
                return
            self.moments.add(self.star.players, marginals.star_marginals(self.star))
            self.n_stars += 1
        if len(self.regression.rows) >= self.look_at or self.facts.n_players == 1:
            self._look()
        self.star = _next_star(self)

    def on_images(self, some: game.SomeImages) -> AutoRun | None:
        """See `RegressionRun.on_images`; marginals, whose batches mix images, are left out."""
        regression = self.regression.on_images(some)
        if regression is None:
            return None
        part = copy.copy(self)
        part.facts, part.regression = some.facts, regression
        part.moments = samples.Moments.empty(part.facts.n_players, part.facts.n_metrics)
        part.still_open = np.ones_like(self.still_open)
        return part

    def _look(self) -> None:
        """Solve, and find the players that still prevent an answer."""
        self.n_looks += 1
        self.look_at = 2 * len(self.regression.rows)
        values, errors, _ = self._estimates()
        quantile = _joint_quantile(self.n_looks, self.facts.n_players)
        self.still_open = self._contested(values, quantile * errors)
        self.contenders = questions.nearest(
            values[:, 0],
            self._contested(values, _NEAR * errors),
            top_k=self.top_k,
            side=self.settings.side,
            most=self.settings.most_contenders,
        )
        errors = self.regression.estimates()[1][self.contenders, 0]
        self.regression_price = float(self.costs[0] * (errors**2).mean()) if len(errors) else 0.0

    def _estimates(self) -> tuple[samples.Floats, samples.Floats, samples.Floats]:
        left_out = 0.0 if self.regression.whole_law else samples.LEFT_OUT
        return samples.combine(*self.regression.estimates(), self.moments, left_out=left_out)

    def read(self) -> scores.Scores:
        values, errors, noise = self._estimates()
        low, high = samples.around(values, NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * errors)
        # A read at any moment counts as one more look.
        quantile = _joint_quantile(self.n_looks + 1, self.facts.n_players)
        still_open = self._contested(values, quantile * errors)
        counts = self.regression.rows.counts + self.moments.counts
        known = bool(np.isfinite(errors).any())
        return scores.Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=errors,
            ci_low=low,
            ci_high=high,
            samples=np.maximum(counts, 1) if known else np.zeros_like(counts),
            decided=~(self.still_open & still_open),
            confidence=CONFIDENCE,
            interval=_describe(self.regression),
            joint=np.stack(samples.around(values[:, 0], quantile * errors[:, 0]), axis=1),
            noise=noise[:, 0],
        )


def _next_star(run: AutoRun) -> marginals.Star | None:
    """One more star, if stars are worth it and have not had their share yet."""
    if not _star_is_due(run, float(run.costs[0])):
        return None
    n, most = run.facts.n_players, run.regression.most
    return marginals.begin_star(
        run.facts,
        run.entropy,
        run.n_stars,
        players=np.flatnonzero(run.contenders),
        sizes=star_sizes(n, most),
        batch_size=run.settings.batch_size,
    )


def star_sizes(n_players: int, most: int) -> marginals.Sizes:
    """The law of the sizes of stars where V survives `most` removals."""
    return marginals.Sizes(n_players, min(most, n_players - 1), _WITHIN)


def _star_is_due(run: AutoRun, spent: float) -> bool:
    """Whether stars have had less than their share of what the regression `spent`.

    None is due while there are more contenders than a star takes: only rows tell which of them are
    nearest to the boundary. Then the share is a tenth at first, for a trial. It becomes as much
    again where a unit of precision costs less by stars, and nothing otherwise; and it stays a tenth
    while the regression has rows behind the collapse on trial, which need rows to come to an end.
    """
    n_contenders = int(run.contenders.sum())
    if not 0 < n_contenders < run.settings.most_contenders:
        return False
    known = run.contenders & (run.moments.counts >= _KNOWN_AFTER)
    share = _TRIAL
    if known.sum() >= 0.5 * n_contenders:
        cheaper = _star_price(run, known) < run.regression_price
        most = _TRIAL if run.regression.beyond.on_trial else 1.0
        share = most if cheaper else 0.0
    return bool(run.costs[1] < share * spent)


def _star_price(run: AutoRun, known: NDArray[np.bool_]) -> float:
    """Of a unit of precision for a player, by the marginals of those known so far."""
    rows = 1 + int(run.contenders.sum())
    per_star = rows * run.settings.batch_size * run.settings.marginal_cost
    return per_star * float(samples.pooled_variances(run.moments)[known, 0].mean())


def _joint_quantile(look: int, n_players: int) -> float:
    """Of the bounds that hold for all players and looks together."""
    confidence = samples.confidence_at_look(CONFIDENCE, look, n_players)
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _describe(run: RegressionRun) -> str:
    errors = "normal, for one filter at one look: sandwich errors over rows of the regression"
    if not run.whole_law:
        errors += " and a tenth of its value for the sizes it leaves out"
    stars = ", with marginals where there are any"
    return errors + stars + (BORROWED if borrowed_from(run) else "")
