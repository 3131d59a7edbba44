"""Dreams by gradients: Adam on the numbers of pictures, under small moves.

Adam is that of Kingma & Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1, with a
step that falls to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.dreams.moves import MoveSizes, SmallMove, random_move
from repairkit.dreams.pictures import Floats, Pictures

RespondWithSlopes = Callable[[Floats, NDArray[np.intp]], tuple[Floats, Floats]]
"""From pictures and a channel for each, to responses, (n,), and their gradients by picture."""
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-12


@dataclass(frozen=True)
class Ascent:
    """Settings of gradient ascent.

    Attributes:
        n_steps: gradients taken for each dream.
        step: of Adam at the start; numbers are about 1.
        most_numbers: of a picture; all waves that fit if more.
        falloff: see `low_pictures`.
        moves: how far pictures are moved.
        likeness: how much a dream pays for being like earlier ones of the same filter, as a share
            of the first dream's response.
    """

    n_steps: int = 96
    step: float = 0.2
    most_numbers: int = 3 * 128 * 128
    falloff: float = 1.0
    moves: MoveSizes = field(default_factory=MoveSizes)
    likeness: float = 0.5


@dataclass(frozen=True)
class Ascended:
    """Waves of dreams, (n_filters, n_dreams, height, width, n_colours), and what they cost."""

    waves: Floats
    passes: int


def ascend(
    respond: RespondWithSlopes,
    channels: Sequence[int],
    pictures: Pictures,
    settings: Ascent,
    *,
    seeds: Sequence[int],
    n_dreams: int = 1,
) -> Ascended:
    """Dreams of filters of one site.

    Args:
        respond: responses and gradients.
        channels: the filters.
        pictures: their basis.
        settings: of the ascent.
        seeds: one for each filter; a filter's dreams depend on its own alone.
        n_dreams: of each filter, each unlike the ones before it.
    """
    asked = np.asarray(channels, np.intp)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    earlier: list[Floats] = []  # weighted numbers of dreams, of length 1, (n_filters, size)
    gains = np.zeros(len(asked))
    dreams: list[Floats] = []
    for _ in range(n_dreams):
        numbers = np.stack([rng.standard_normal(pictures.size) for rng in rngs])
        first, _slopes = respond(pictures.developed(pictures.waves(numbers)), asked)
        price = _Price(earlier, settings.likeness * gains, pictures.weights)
        numbers = _climb(respond, asked, pictures, settings, numbers, rngs, price)
        waves = pictures.waves(numbers)
        if not earlier and n_dreams > 1:
            last, _slopes = respond(pictures.developed(waves), asked)
            gains = np.maximum(last - first, 0.0)
        earlier.append(_units(numbers * pictures.weights))
        dreams.append(waves)
    passes = len(asked) * (n_dreams * (settings.n_steps + 1) + (n_dreams > 1))
    return Ascended(np.stack(dreams, axis=1), passes)


def _climb(
    respond: RespondWithSlopes,
    channels: NDArray[np.intp],
    pictures: Pictures,
    settings: Ascent,
    numbers: Floats,
    rngs: Sequence[np.random.Generator],
    price: _Price,
) -> Floats:
    """Numbers after all steps."""
    height, width, _ = pictures.shape
    speed, power = np.zeros_like(numbers), np.zeros_like(numbers)
    for step in range(settings.n_steps):
        moves = [random_move(height, width, settings.moves, rng) for rng in rngs]
        moved = _each(moves, pictures.waves(numbers), SmallMove.moved)
        _, slopes = respond(pictures.developed(moved), channels)
        by_wave = _each(moves, pictures.undeveloped(moved, slopes), SmallMove.moved_back)
        gradient = pictures.numbers(by_wave) - price.slopes(numbers)
        gradient = np.nan_to_num(gradient, posinf=0.0, neginf=0.0)
        gradient /= np.linalg.norm(gradient, axis=1, keepdims=True) + _TINY
        speed = _FIRST * speed + (1 - _FIRST) * gradient
        power = _SECOND * power + (1 - _SECOND) * gradient**2
        ahead, spread = speed / (1 - _FIRST ** (step + 1)), power / (1 - _SECOND ** (step + 1))
        rate = settings.step * (1 - step / settings.n_steps)
        numbers = numbers + rate * ahead / (np.sqrt(spread) + _TINY)
    return numbers


def _each(
    moves: Sequence[SmallMove], waves: Floats, how: Callable[[SmallMove, Floats], Floats]
) -> Floats:
    """Each wave through its own move."""
    return np.concatenate([how(move, waves[i : i + 1]) for i, move in enumerate(moves)])


def _units(numbers: Floats) -> Floats:
    lengths = np.linalg.norm(numbers, axis=1, keepdims=True) + _TINY
    units: Floats = numbers / lengths
    return units


@dataclass(frozen=True, eq=False)
class _Price:
    """What dreams pay for being like earlier ones: by the squared cosine of each."""

    earlier: Sequence[Floats]
    rates: Floats
    weights: Floats

    def slopes(self, numbers: Floats) -> Floats:
        """Gradients of the price, (n_filters, size)."""
        total = np.zeros_like(numbers)
        weighted = numbers * self.weights
        lengths = np.linalg.norm(weighted, axis=1, keepdims=True) + _TINY
        units = weighted / lengths
        for dream in self.earlier:
            cosines = np.maximum((units * dream).sum(axis=1, keepdims=True), 0.0)
            total += 2 * cosines * (dream - cosines * units) / lengths * self.weights
        return total * self.rates[:, None]
