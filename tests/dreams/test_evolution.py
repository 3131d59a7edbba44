"""The search by forward passes finds the best picture of filters that are known."""

from __future__ import annotations

import numpy as np
import pytest

from repairkit.dreams.evolution import Evolution, Evolved, evolve
from repairkit.dreams.pictures import Floats, Pictures, low_pictures, plain_palette
from tests.dreams.known_filters import REACH, correlation, either_or, kernels

PICTURES = low_pictures(REACH, REACH, plain_palette(3), most=Evolution().most_numbers, falloff=0.5)


def linear(pictures: Floats) -> Floats:
    """The responses of the known filters."""
    return pictures.reshape(len(pictures), -1) @ kernels().reshape(3, -1).T


def either(pictures: Floats) -> Floats:
    """The response of a filter that answers to one of two gratings or the other."""
    both = pictures.reshape(len(pictures), -1) @ either_or().reshape(2, -1).T
    return np.maximum(both, 0).sum(axis=1, keepdims=True)


def dreams(made: Evolved, pictures: Pictures = PICTURES) -> Floats:
    """Of each filter the first dream."""
    return pictures.developed(made.waves[:, 0])


def test_dreams_of_known_filters_are_their_kernels() -> None:
    made = evolve(linear, [0, 1, 2], PICTURES, Evolution(), seeds=[0, 1, 2, 3])
    found = dreams(made)
    alike = [correlation(dream, kernel) for dream, kernel in zip(found, kernels(), strict=True)]
    assert min(alike) >= 0.8, alike
    # They excite nearly as much as the kernels themselves, at the same contrast.
    best = np.diag(linear(PICTURES.developed(kernels())))
    assert (np.diag(linear(found)) >= 0.95 * best).all()


def test_a_dream_exceeds_every_random_picture() -> None:
    made = evolve(linear, [0, 1, 2], PICTURES, Evolution(), seeds=[0, 1, 2, 3])
    rng = np.random.default_rng(1)
    random = PICTURES.developed(PICTURES.waves(rng.standard_normal((5000, PICTURES.size))))
    assert (np.diag(linear(dreams(made))) > 1.3 * linear(random).max(axis=0)).all()


def test_passes_are_counted_and_the_seed_decides() -> None:
    calls: list[int] = []

    def counted(pictures: Floats) -> Floats:
        calls.append(len(pictures))
        return linear(pictures)

    search = Evolution(n_first=100, n_generations=3, population=4)
    first = evolve(counted, [2, 0], PICTURES, search, seeds=[5, 6, 7])
    assert first.passes == sum(calls) == 100 + 2 * (3 * 4 + 1)
    again = evolve(linear, [2, 0], PICTURES, search, seeds=[5, 6, 7])
    assert first.waves.tobytes() == again.waves.tobytes()
    other = evolve(linear, [2, 0], PICTURES, search, seeds=[5, 6, 8])
    assert other.waves[0].tobytes() == first.waves[0].tobytes()
    assert other.waves[1].tobytes() != first.waves[1].tobytes()


def test_a_filter_alone_has_the_dream_that_it_has_beside_others() -> None:
    search = Evolution(n_first=64, n_generations=4)
    together = evolve(linear, [0, 1, 2], PICTURES, search, seeds=[0, 1, 2, 3])
    alone = evolve(linear, [1], PICTURES, search, seeds=[0, 2])
    np.testing.assert_allclose(alone.waves[0], together.waves[1], rtol=1e-9, atol=1e-12)


def test_diverse_dreams_differ_and_all_excite() -> None:
    search = Evolution(n_generations=40)
    diverse = evolve(either, [0], PICTURES, search, seeds=[0, 1], n_dreams=2)
    plain = [evolve(either, [0], PICTURES, search, seeds=[0, s]) for s in (1, 2)]
    first, second = PICTURES.developed(diverse.waves[0])
    usual = correlation(dreams(plain[0])[0], dreams(plain[1])[0])
    assert correlation(first, second) < usual - 0.2
    rng = np.random.default_rng(1)
    random = either(PICTURES.developed(PICTURES.waves(rng.standard_normal((2000, PICTURES.size)))))
    assert (either(np.stack([first, second])) > random.max()).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_filter_that_says_nothing_has_a_dream_all_the_same(value: float) -> None:
    def dead(pictures: Floats) -> Floats:
        return np.full((len(pictures), 1), value)

    search = Evolution(n_first=8, n_generations=2)
    with np.errstate(invalid="ignore"):
        made = evolve(dead, [0], PICTURES, search, seeds=[0, 1])
    assert np.isfinite(PICTURES.developed(made.waves[:, 0])).all()
