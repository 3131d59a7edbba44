"""Dreams by forward passes alone: a first look at random pictures, then an evolution strategy.

The first look is shared by all filters of a site: every random picture gives a response of each.
Regressing a filter's responses on the numbers of the pictures gives the direction in which it grows
fastest; physiologists find receptive fields so (reverse correlation; de Boer & Kuyper, "Triggered
correlation", 1968). From there a separable CMA-ES climbs (Ros & Hansen, "A simple modification in
CMA-ES achieving linear time and space complexity", 2008; the library `cmaes`), for all filters in
step, so that their candidates share runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from repairkit.dreams.pictures import Floats, Pictures

_AT_ONCE = 64
Respond = Callable[[Floats], Floats]
"""From pictures in -1 to 1, (n, height, width, n_colours), to responses, (n, n_channels)."""


@dataclass(frozen=True)
class Evolution:
    """Settings of the search.

    Attributes:
        n_first: random pictures of the first look.
        n_generations: steps of the evolution strategy.
        population: candidates of each filter in a step.
        most_numbers: of a picture.
        spread: of the first candidates around their start, as a share of its size.
        likeness: how much a dream pays for being like earlier ones of the same filter, as a share
            of the first dream's response.
    """

    n_first: int = 256
    n_generations: int = 64
    population: int = 8
    most_numbers: int = 120
    falloff: float = 0.5
    spread: float = 0.5
    likeness: float = 0.5


@dataclass(frozen=True)
class Evolved:
    """Waves of dreams, (n_filters, n_dreams, height, width, n_colours), and what they cost."""

    waves: Floats
    passes: int


def evolve(
    respond: Respond,
    channels: Sequence[int],
    pictures: Pictures,
    search: Evolution,
    *,
    seeds: Sequence[int],
    n_dreams: int = 1,
) -> Evolved:
    """Dreams of filters of one site.

    Args:
        respond: the responses of all filters of the site.
        channels: the filters.
        pictures: their basis.
        search: settings.
        seeds: of the first look, then one for each filter.
        n_dreams: of each filter, each unlike the ones before it.
    """
    rng = np.random.default_rng(seeds[0])
    first = rng.standard_normal((search.n_first, pictures.size))
    seen = np.concatenate([respond(pictures.developed(pictures.waves(p))) for p in _parts(first)])
    slopes = np.nan_to_num((seen - seen.mean(axis=0)).T @ first, posinf=0.0, neginf=0.0)
    climbs = [
        _Climb(channel, slopes[channel], float(seen[:, channel].mean()), seed, search)
        for channel, seed in zip(channels, seeds[1:], strict=True)
    ]
    passes = len(first)
    for number in range(n_dreams):
        for climb in climbs:
            climb.begin(number)
        for _ in range(search.n_generations):
            passes += _round(respond, climbs, [climb.ask() for climb in climbs], pictures)
            for climb in climbs:
                climb.step()
        passes += _round(respond, climbs, [climb.middle() for climb in climbs], pictures)
        for climb in climbs:
            climb.end(pictures)
    waves = np.stack([pictures.waves(np.stack(climb.kept)) for climb in climbs])
    return Evolved(waves, passes)


def _parts(numbers: Floats) -> list[Floats]:
    return [numbers[i : i + _AT_ONCE] for i in range(0, len(numbers), _AT_ONCE)]


def _round(
    respond: Respond, climbs: Sequence[_Climb], asked: Sequence[Floats], pictures: Pictures
) -> int:
    """Try candidates, (n, size) of each climb, and tell each of them its own; the passes."""
    together = np.concatenate(asked)
    answers = np.concatenate(
        [respond(pictures.developed(pictures.waves(part))) for part in _parts(together)]
    )
    end = 0
    for climb, numbers in zip(climbs, asked, strict=True):
        start, end = end, end + len(numbers)
        climb.tell(numbers, answers[start:end, climb.channel], pictures)
    return len(together)


class _Climb:
    """The search of one filter, which goes on from dream to dream."""

    def __init__(
        self, channel: int, slope: Floats, level: float, seed: int, search: Evolution
    ) -> None:
        """Begin.

        Args:
            channel: the filter.
            slope: the direction in which its response grows fastest.
            level: its mean response to random pictures.
            seed: of the strategy.
            search: settings.
        """
        self.channel, self.kept = channel, list[Floats]()
        self._slope, self._level, self._seed, self._search = slope, level, seed, search
        self._earlier: list[Floats] = []  # weighted numbers of dreams, of length 1
        self._gain = 0.0
        self._told: list[tuple[Floats, float]] = []

    def begin(self, number: int) -> None:
        """Start at the slope, without what earlier dreams hold of it."""
        from cmaes import SepCMA

        start = self._slope.copy()
        for dream in self.kept:
            start -= (start @ dream) / (dream @ dream) * dream
        start *= np.sqrt(len(start)) / (np.linalg.norm(start) or 1.0)
        self._best, self._best_worth, self._best_response = start, -np.inf, 0.0
        self._strategy = SepCMA(
            mean=start.copy(),
            sigma=self._search.spread,
            seed=(self._seed + number) % 2**32,
            population_size=self._search.population,
        )

    def ask(self) -> Floats:
        """Candidates, (population, size)."""
        return np.stack([self._strategy.ask() for _ in range(self._search.population)])

    def middle(self) -> Floats:
        """The centre of the search as the one candidate."""
        middle: Floats = self._strategy.mean.copy()[None]
        return middle

    def tell(self, numbers: Floats, responses: Floats, pictures: Pictures) -> None:
        """Learn the responses to candidates."""
        worth = responses - self._price(numbers, pictures)
        worth[np.isnan(worth)] = -np.inf
        self._told = [(x, -float(w)) for x, w in zip(numbers, worth, strict=True)]
        best = int(worth.argmax())
        if worth[best] > self._best_worth:
            self._best, self._best_worth = numbers[best], float(worth[best])
            self._best_response = float(responses[best])

    def step(self) -> None:
        """Move the search by what was told last."""
        self._strategy.tell(self._told)

    def end(self, pictures: Pictures) -> None:
        """Keep the best candidate as a dream."""
        self.kept.append(self._best)
        weighted = self._best * pictures.weights
        self._earlier.append(weighted / (np.linalg.norm(weighted) or 1.0))
        self._gain = self._gain or self._best_response - self._level

    def _price(self, numbers: Floats, pictures: Pictures) -> Floats:
        """What candidates pay for being like earlier dreams: by the squared cosine of each."""
        if not self._earlier:
            return np.zeros(len(numbers))
        weighted = numbers * pictures.weights
        weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
        alike = np.maximum(weighted @ np.stack(self._earlier).T, 0.0) ** 2
        price: Floats = self._search.likeness * self._gain * alike.sum(axis=1)
        return price
