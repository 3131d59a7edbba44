"""Stars whose players are sampled by spread and cost.

A star is one coalition on a block of images, and beside it the same coalition with one player
changed. Every player takes part in the stars of a pilot. Its marginals there tell how much they
vary; what one costs is known beforehand. From then on a player takes part in as many stars as
`allocation` gives it: a filter of a late layer is cheap to change and gets more images for the
same work.

No allocation biases a value. All stars of a run, used or not, are fixed in advance: the images
are dealt into blocks at random, and each block has its coalition. A value is the mean over two
strata: the stars of the pilot, all of which were played, and the others, of which each player has a
systematic sample. How many that are follows from the pilot, and the weights of the strata do not.
So the mean over the others is unbiased whatever the pilot said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, game, scores
from repairkit.estimators import questions, samples
from repairkit.estimators.walking import allocation, marginals
from repairkit.estimators.walking.strata import Strata

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
_CHUNK = 1024
_CYCLE = 8
_LEAST_STARS = 1  # beside the pilot, without which a stratum would be unknown
_FEWEST = 8  # stars of a run; rows of eight images or fewer are dear, so that blocks stay large
_MOST_TURNS_OF = 256  # stars, where coalitions differ and images are few


@dataclass(frozen=True, kw_only=True)
class Stars:
    """Marginals at random coalitions, or of the full one; images go by spread and cost.

    A value is the mean of V(S + i) - V(S - i) over coalitions S that lack `least_removed` to
    `most_removed` of the players, all sizes equally likely. With 0 and 1, the default, it is
    Shapley's value; with `most_removed` 0 it is what the full coalition loses without the player
    (leave-one-out).

    Attributes:
        least_removed: the smallest number of removals, as a share of the players.
        most_removed: the largest.
        share: what may be spent, as a share of what all players in all stars would cost.
        turns: how often each image is used, each time in another coalition. If None, once for the
            full coalition, and else so often that there are 256 stars.
        batch_size: images of a star, at the most.
        pilot: stars in which all players take part.
        even: give all players as many stars each, whatever they vary and cost.
        costs: what a marginal of an image costs, in plain passes, as pairs of a number of players
            and their cost, in the order of the players; the same for all if None.
    """

    least_removed: float = 0.0
    most_removed: float = 1.0
    share: float = 0.25
    turns: int | None = None
    batch_size: int = 16
    pilot: int = 4
    even: bool = False
    costs: tuple[tuple[int, float], ...] | None = None

    def __post_init__(self) -> None:
        above_one = math.nextafter(1, 2)
        questions.check_real("least_removed", self.least_removed, least=0.0, below=above_one)
        questions.check_real("most_removed", self.most_removed, least=0.0, below=above_one)
        if self.least_removed > self.most_removed:
            raise errors.SettingsError(
                f"least_removed is {self.least_removed} and most_removed {self.most_removed}; give "
                "the smaller share first"
            )
        questions.check_positive("share", self.share, below=above_one)
        questions.check_whole("batch_size", self.batch_size, least=1)
        questions.check_whole("pilot", self.pilot, least=2)
        if self.turns is not None:
            questions.check_whole("turns", self.turns, least=1)
        for _, cost in self.costs or ():
            questions.check_positive("costs", cost)

    def start(self, facts: game.GameFacts, rng: np.random.Generator) -> StarsRun:
        """Begin; SettingsError for costs of another number of players."""
        return StarsRun(facts, self, rng)


@dataclass(frozen=True)
class StarPlan:
    """Which stars there are, before anything is known: of a game, settings and a seed.

    `images` (n_images,) are those that are ever drawn; `counts` (n_images,) what the score of each
    is multiplied by, so that the mean over images is V. `least` and `most` bound the number of
    removals.
    """

    n_players: int
    images: NDArray[np.int64]
    counts: Floats
    least: int
    most: int
    n_blocks: int
    n_turns: int
    n_pilot: int
    entropy: tuple[int, int]

    @classmethod
    def of(cls, facts: game.GameFacts, settings: Stars, entropy: tuple[int, int]) -> StarPlan:
        images = np.flatnonzero(facts.pool.probabilities > 0).astype(np.int64)
        n, n_images = facts.n_players, len(images)
        least, most = math.floor(settings.least_removed * n), math.ceil(settings.most_removed * n)
        turns = settings.turns
        if turns is None:
            per_turn = -(-n_images // settings.batch_size)
            turns = 1 if most == 0 else -(-_MOST_TURNS_OF // per_turn)
        block = int(np.clip(n_images * turns // _FEWEST, 1, settings.batch_size))
        n_blocks = -(-n_images // block)
        return cls(
            n_players=n,
            images=images,
            counts=facts.pool.probabilities[images] * n_images,
            least=least,
            most=most,
            n_blocks=n_blocks,
            n_turns=turns,
            n_pilot=min(settings.pilot, -(-n_blocks * turns // 2)),
            entropy=entropy,
        )

    @property
    def n_stars(self) -> int:
        return self.n_blocks * self.n_turns

    @property
    def n_others(self) -> int:
        """Stars beside those of the pilot."""
        return self.n_stars - self.n_pilot

    def places(self, number: int) -> NDArray[np.int64]:
        """Where the images of a star stand in `images`: dealt at random, anew in every turn."""
        turn, block = divmod(number, self.n_blocks)
        rng = np.random.default_rng([*self.entropy, 0, turn])
        return np.array_split(rng.permutation(len(self.images)), self.n_blocks)[block]

    def coalition(self, number: int) -> NDArray[np.bool_]:
        """The coalition of a star; sizes of eight in a row are spread evenly."""
        cycle, place = divmod(number, _CYCLE)
        order = np.random.default_rng([*self.entropy, 1, cycle]).permutation(_CYCLE)
        rng = np.random.default_rng([*self.entropy, 2, number])
        point = (int(order[place]) + rng.random()) / _CYCLE
        size = min(self.least + int(point * (self.most - self.least + 1)), self.most)
        present = np.ones(self.n_players, bool)
        present[rng.permutation(self.n_players)[:size]] = False
        return present

    def scale(self, number: int) -> float:
        """A star's share of the images over the mean star's."""
        return len(self.places(number)) * self.n_blocks / len(self.images)


class StarsRun:
    """`star` is under way, `n_stars` are complete.

    `strata` hold what the stars say, and `base` (n_images, n_metrics) the scores of the coalition
    of `star`. `rates` (n_players,) say in
    which share of the other stars a player takes part, zero until the pilot is complete; `starts`
    (n_players,) where its turn begins. `passes` are the plain passes that were spent,
    `passes_of_marginals` those of them beside the coalitions themselves, and `n_sampled` the
    marginals that these gave, image by image.
    """

    def __init__(self, facts: game.GameFacts, settings: Stars, rng: np.random.Generator) -> None:
        self.facts, self.settings = facts, settings
        self.costs = _costs(settings, facts.n_players)
        self.plan = StarPlan.of(facts, settings, samples.draw_entropy(rng))
        self.strata = Strata.empty(
            (facts.n_players, facts.n_metrics),
            share=self.plan.n_pilot / self.plan.n_stars,
            per_star=len(self.plan.images) / self.plan.n_blocks,
            alike=self.plan.most == 0,
        )
        self.base = np.zeros((0, facts.n_metrics))
        self.rates = np.zeros(facts.n_players)
        self.starts = np.random.default_rng([*self.plan.entropy, 3]).random(facts.n_players)
        self.n_stars, self.n_sampled = 0, 0
        self.passes, self.passes_of_marginals = 0.0, 0.0
        self.star = self._begin()

    @property
    def least_evaluations(self) -> int:
        return self.facts.n_players + 1

    @property
    def conclusion(self) -> str:
        return f"all {self.plan.n_stars:,} stars were played"

    @property
    def n_undecided(self) -> int | None:
        """Unknown until the moments are read."""
        return None

    @property
    def statistics(self) -> dict[str, float]:
        """What was spent, and what it bought; see `docs/guide/estimators.md`."""
        known = {
            "stars": float(self.n_stars),
            "plain_passes": self.passes,
            "passes_per_marginal": self.passes_of_marginals / max(self.n_sampled, 1),
            "passes_per_marginal_if_even": float(self.costs.mean()),
        }
        errors = self.strata.errors()[:, 0]
        known["squared_error_times_passes"] = float((errors**2).mean()) * self.passes
        if self.rates.any():
            spreads = np.sqrt(self.strata.variances()[:, 0])
            gain = allocation.gain_over_even(spreads, self.costs, self.rates)
            known["gain_over_even_images"] = gain
        return known

    @property
    def details(self) -> dict[str, Any]:
        """The rate of each player, which is the inverse of what a sample of it counts."""
        return {"rates": self.rates.tolist()}

    def ask(self) -> game.Round:
        if self.n_stars == self.plan.n_stars:
            return game.Round.nothing(self.facts.n_players)
        return marginals.ask_for_star(self.star, _CHUNK)

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: a star goes on from wherever it is."""
        return n_rows > 0

    def tell(self, outcomes: game.Outcomes) -> None:
        plan, star = self.plan, self.star
        counts = plan.counts[plan.places(self.n_stars)]
        by_image = outcomes.scores * counts[:, None]
        begins = not star.n_known
        marginals.learn_star(star, by_image.mean(axis=1))
        if begins:
            self.base, by_image = by_image[0].copy(), by_image[1:]
        n_rows, n_images = len(by_image), len(counts)
        players = star.players[star.n_known - 1 - n_rows : star.n_known - 1]
        self.strata.add_images(players, by_image - self.base)
        of_rows = float(self.costs[players].sum())
        self.passes_of_marginals += of_rows * n_images
        self.passes += (of_rows + begins) * n_images
        self.n_sampled += n_rows * n_images
        if star.done:
            self._learn(plan, star)

    def _learn(self, plan: StarPlan, star: marginals.Star) -> None:
        strata = self.strata
        stratum = strata.of_pilot if self.n_stars < plan.n_pilot else strata.of_others
        stratum.add(star.players, plan.scale(self.n_stars) * marginals.star_marginals(star))
        self.n_stars += 1
        if self.n_stars == plan.n_pilot and plan.n_others:
            self.rates = self._allocated(plan)
        if self.n_stars < plan.n_stars:
            self.star = self._begin()

    def _allocated(self, plan: StarPlan) -> Floats:
        """Rates by spread and cost, from what is left of the share."""
        whole = 1 + float(self.costs.sum())
        left = self.settings.share * plan.n_stars * whole - plan.n_pilot * whole
        least = min(_LEAST_STARS / plan.n_others, 1.0)
        cost = left / plan.n_others - 1
        if self.settings.even:
            rate = float(np.clip(cost / self.costs.sum(), least, 1.0))
            return np.full(len(self.costs), rate)
        spreads = np.sqrt(self.strata.variances()[:, 0])
        return allocation.sampling_rates(spreads, self.costs, cost=cost, least=least)

    def _begin(self) -> marginals.Star:
        """The next star, of the players that take part in it."""
        plan, number = self.plan, self.n_stars
        players = np.arange(self.facts.n_players)
        if number >= plan.n_pilot:
            part = allocation.taken(self.rates, self.starts, number - plan.n_pilot)
            players = np.flatnonzero(part)
        return marginals.Star(
            present=plan.coalition(number),
            images=plan.images[plan.places(number)],
            players=players,
            weight=1.0,
            values=np.zeros((1 + len(players), self.facts.n_metrics)),
        )

    def read(self) -> scores.Scores:
        counts, values, std_errors = self.strata.counts, self.strata.means(), self.strata.errors()
        alone = self.strata.quantiles(CONFIDENCE)
        low, high = samples.around(values, alone[:, None] * std_errors)
        together = self.strata.quantiles(1 - (1 - CONFIDENCE) / len(counts))
        joint = np.stack(samples.around(values[:, 0], together * std_errors[:, 0]), axis=1)
        return scores.Scores(
            metrics=self.facts.metrics,
            values=values,
            std_errors=std_errors,
            ci_low=low,
            ci_high=high,
            samples=counts,
            decided=(joint[:, 0] > 0) | (joint[:, 1] < 0),
            confidence=CONFIDENCE,
            interval=_describe(self.plan),
            joint=joint,
        )


def _costs(settings: Stars, n_players: int) -> Floats:
    """Of a marginal of each player, (n_players,), in plain passes."""
    if settings.costs is None:
        return np.ones(n_players)
    counts, costs = zip(*settings.costs, strict=True) if settings.costs else ((), ())
    if sum(counts) != n_players:
        raise errors.SettingsError(
            f"costs are given for {sum(counts)} players and the game has {n_players}; give a cost "
            "for each, or none"
        )
    return np.repeat(np.array(costs, np.float64), counts)


def _describe(plan: StarPlan) -> str:
    words = (
        "Student's t over stars, for other images like these; decided where it excludes zero for "
        "all filters together"
    )
    if plan.most == 0:
        return f"{words}; what the full network loses with each filter alone"
    if (plan.least, plan.most) == (0, plan.n_players):
        return words
    return f"{words}; a semivalue over {plan.least} to {plan.most} of {plan.n_players} removals"
