"""TMAB-Shapley: truncated walks that sample only the players still near the boundary.

Ghorbani & Zou 2020, Algorithm 1, corrected. Each correction is a setting, on by default;
`Tmab.paper` is the algorithm exactly as published. The set U of players still open is fixed when a
walk begins, and a walk counts once it and all walks before it are complete. So neither the choice
of players in a walk nor the decision to count it depends on the values in that walk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, scores
from repairkit.estimators import questions, samples
from repairkit.estimators.walking import walks

Stop = Literal["lucb", "paper"]
_STOPS: tuple[Stop, ...] = ("lucb", "paper")


@dataclass(frozen=True, kw_only=True)
class Tmab:
    """Which are the top k, with probability at least 1 - delta and up to epsilon.

    Attributes:
        top_k: k; a tenth of the players, 1 to 100, if None.
        side: whether the `highest`, the `lowest` or `both` top k are asked for.
        epsilon: a difference in value that does not matter.
        delta: the probability of a wrong answer.
        value_range: R, the width of what one marginal of the first metric can be; twice the width
            of its values if None.
        truncate_at: v_T, the guard metric's value at which a walk is cut; None walks to the end.
        truncate_patience: values below `truncate_at` in a row that it takes to cut, since one
            value is noisy.
        batch_size: images in a walk.
        stop: `lucb` ends when the bounds of the top k and of the rest are apart; `paper` when every
            interval, drawn in by epsilon, excludes the k-th value.
        union_bound: whether delta holds for all players and looks together, or for each alone.
        fresh: once the top k are decided, they are sampled again, this many times as often as
            before, and their values come from these samples alone. The earlier samples are biased,
            since they chose the players by being large. 0 keeps the earlier ones.
        lanes: walks under way at once.
        chunk: rows of each walk in a round; rows behind a cut are wasted.
    """

    top_k: int | None = None
    side: questions.Side = "highest"
    epsilon: float = 1e-3
    delta: float = 0.1
    value_range: float | None = None
    truncate_at: float | None = None
    truncate_patience: int = 6
    batch_size: int = 128
    stop: Stop = "lucb"
    union_bound: bool = True
    fresh: float = 1.0
    lanes: int = 2
    chunk: int = 16

    def __post_init__(self) -> None:
        questions.check_question(self.top_k, self.side)
        questions.check_real("epsilon", self.epsilon, least=0.0)
        questions.check_positive("delta", self.delta, below=1.0)
        questions.check_real("fresh", self.fresh, least=0.0)
        for name in ("truncate_patience", "batch_size", "lanes", "chunk"):
            questions.check_whole(name, getattr(self, name), least=1)
        if self.value_range is not None:
            questions.check_positive("value_range", self.value_range)
        if self.truncate_at is not None:
            questions.check_real("truncate_at", self.truncate_at, least=-np.inf)
        if self.stop not in _STOPS:
            raise questions.unknown("stop", str(self.stop), _STOPS)

    @classmethod
    def paper(cls, **settings: Any) -> Tmab:
        """Algorithm 1 exactly as published, with the paper's settings, one walk after another.

        `settings` replace the paper's, such as `truncate_at=0.6`, its other threshold.
        """
        return cls(**(PAPER | settings))

    def start(self, facts: game.GameFacts, rng: np.random.Generator) -> TmabRun:
        """Begin; SettingsError for fewer players than `top_k`, or a metric of unknown range."""
        questions.check_bounded(facts, "tmab", self.value_range)
        return TmabRun(facts, self, rng)


PAPER: dict[str, Any] = {
    "top_k": 100,
    "epsilon": 1e-4,
    "delta": 0.1,
    "value_range": 1.0,
    "truncate_at": 0.2,
    "truncate_patience": 1,
    "batch_size": 128,
    "stop": "paper",
    "union_bound": False,
    "fresh": 0.0,
    "lanes": 1,
}
"""Settings of `Tmab` for Algorithm 1 as published (section 4.2 and appendix of the paper)."""


class TmabRun(questions.TopKRun):
    """`walks` are under way, by number; `moments` are those of the `n_walks` that count.

    `still_open` (n_players,) is U. Once it is empty, `fresh` are moments of the `n_fresh` walks of
    `n_fresh_wanted` in which `selected` (n_selected,) alone are sampled. `halves` and `curve`
    go into the details; the curve's mean value at a cut less V(none) is what truncation hides.
    """

    settings: Tmab

    def __init__(self, facts: game.GameFacts, settings: Tmab, rng: np.random.Generator) -> None:
        self.facts, self.settings = facts, settings
        self.top_k = questions.settle_top_k(settings.top_k, facts.n_players)
        self.moments = samples.Moments.empty(facts.n_players, facts.n_metrics)
        self.still_open = np.ones(facts.n_players, bool)
        self.entropy = samples.draw_entropy(rng)
        self.n_begun = self.n_walks = self.n_evaluations = 0
        self.halves = samples.HalvedSamples.empty(facts.n_players)
        self.curve = walks.Curve.empty(facts.n_players, facts.n_metrics)
        self.fresh = samples.Moments.empty(facts.n_players, facts.n_metrics)
        self.selected = np.zeros(0, np.int64)
        self.n_fresh, self.n_fresh_wanted = 0, 0
        self.walks: list[walks.PlayerWalk] = []
        self._fill_lanes()

    @property
    def enough_evaluations(self) -> int:
        return 2 + self.settings.lanes * (self.facts.n_players + 1)

    @property
    def least_evaluations(self) -> int:
        """The first walk of every lane; a truncated walk may need any number below that."""
        return self.enough_evaluations - 2 if self.settings.truncate_at is None else 1

    @property
    def conclusion(self) -> str:
        decided = super().conclusion
        again = f", and estimated again by {self.n_fresh} fresh walks"
        return decided + again if self.n_fresh else decided

    @property
    def details(self) -> dict[str, Any]:
        return self.curve.as_details(self.facts) | {"convergence": self.halves.as_details()}

    @property
    def statistics(self) -> dict[str, float]:
        """Of the walks that count; the values at the cut are the first metric's."""
        curve = self.curve
        known = {"walks": self.n_walks, "truncated_walks": curve.n_cut, "fresh_walks": self.n_fresh}
        counts = {name: float(count) for name, count in known.items()}
        cut = {"mean_cut": curve.mean_cut, "mean_value_at_cut": float(curve.mean_value_at_cut[0])}
        return counts | cut if curve.n_cut else counts

    @property
    def _over(self) -> bool:
        return not self.still_open.any() and self.n_fresh >= self.n_fresh_wanted

    def ask(self) -> game.Round:
        if self._over:
            return game.Round.nothing(self.facts.n_players)
        return walks.ask_for(self.walks, self.settings.chunk, self.facts.n_players)

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: a walk goes on from wherever it is."""
        return n_rows > 0

    def tell(self, outcomes: game.Outcomes) -> None:
        rule = walks.Truncation(self.settings.truncate_at, self.settings.truncate_patience)
        chunk, guard = self.settings.chunk, self.facts.guard
        walks.advance(self.walks, outcomes.values, chunk, guard=guard, rule=rule)
        self.n_evaluations += len(outcomes.values)
        deciding = bool(self.still_open.any())
        counted = self.n_walks
        while self.walks and self.walks[0].done:
            walk = self.walks.pop(0)
            if deciding:
                self._count(walk)
            else:
                self.fresh.add(walk.players, walks.marginals(walk))
                self.n_fresh += 1
        if self.n_walks > counted:
            radius, in_paper = self._radius(self.moments), self.settings.stop == "paper"
            self.still_open = self._contested(self.moments.means, radius, as_in_paper=in_paper)
            if not self.still_open.any():
                self._begin_fresh()
        if not self._over:
            self._fill_lanes()

    def _count(self, walk: walks.PlayerWalk) -> None:
        losses = walks.marginals(walk)
        self.moments.add(walk.players, losses)
        self.halves.add(walk.players, losses, self.n_evaluations)
        self.curve.add(walk, self.facts.guard)
        self.n_walks += 1

    def _begin_fresh(self) -> None:
        """From now on, sample the selected players alone."""
        values = self.moments.means[:, 0]
        self.selected = questions.selected(values, top_k=self.top_k, side=self.settings.side)
        most = int(self.moments.counts[self.selected].max())
        self.n_fresh_wanted = math.ceil(self.settings.fresh * most)
        self.walks = []

    def _fill_lanes(self) -> None:
        """Begin walks. One that is done but waits for an earlier one occupies no lane."""
        players = np.flatnonzero(self.still_open) if self.still_open.any() else self.selected
        size = self.settings.batch_size
        while sum(not walk.done for walk in self.walks) < self.settings.lanes:
            self.walks.append(
                walks.begin_walk(
                    self.facts, self.entropy, self.n_begun, players=players, batch_size=size
                )
            )
            self.n_begun += 1

    def _radius(self, moments: samples.Moments) -> NDArray[np.float64]:
        settings = self.settings
        ranges = samples.marginal_ranges(self.facts, settings.value_range)
        delta, union_bound = settings.delta, settings.union_bound
        return samples.moments_radius(moments, ranges, delta=delta, union_bound=union_bound)

    def read(self) -> scores.Scores:
        values, errors = self.moments.means.copy(), self.moments.std_errors()
        # Values lie within the natural range without any sample; a given range may be wrong.
        natural = samples.marginal_ranges(self.facts, None)
        everything = samples.merge(self.moments, self.fresh)
        bounds = samples.around(everything.means, self._radius(everything))
        low, high = samples.within_range(*bounds, natural)
        counts = everything.counts.copy()
        if self.n_fresh >= max(self.n_fresh_wanted, 1):
            again = self.selected
            values[again] = self.fresh.means[again]
            errors[again] = self.fresh.std_errors()[again]
            counts[again] = self.fresh.counts[again]
            low, high = np.minimum(low, values), np.maximum(high, values)
        scope = "for all filters and looks together" if self.settings.union_bound else "for each"
        return scores.Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=errors,
            ci_low=low,
            ci_high=high,
            samples=counts,
            decided=~self.still_open,
            confidence=1 - self.settings.delta,
            interval=f"{samples.BERNSTEIN}, {scope}",
            joint=(
                np.stack([low[:, 0], high[:, 0]], axis=1) if self.settings.union_bound else None
            ),
        )
