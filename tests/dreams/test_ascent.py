"""Gradient ascent finds the best picture of filters that are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.dreams.ascent import Ascent, ascend
from repairkit.dreams.pictures import Floats, low_pictures, plain_palette
from tests.dreams.known_filters import REACH, correlation, either_or, kernels

PICTURES = low_pictures(REACH, REACH, plain_palette(3), most=999)


def linear(pictures: Floats, channels: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Responses and gradients of the known filters."""
    own = kernels()[channels]
    return (pictures * own).sum(axis=(1, 2, 3)), own


def either(pictures: Floats, channels: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Those of a filter that answers to one of two gratings or the other."""
    del channels
    both = np.einsum("nhwc,khwc->nk", pictures, either_or())
    slopes = np.einsum("nk,khwc->nhwc", (both > 0).astype(float), either_or())
    return np.maximum(both, 0).sum(axis=1), slopes


def test_dreams_of_known_filters_are_their_kernels() -> None:
    made = ascend(linear, [0, 1, 2], PICTURES, Ascent(), seeds=[0, 1, 2])
    dreams = PICTURES.developed(made.waves[:, 0])
    alike = [correlation(dream, kernel) for dream, kernel in zip(dreams, kernels(), strict=True)]
    assert min(alike) >= 0.8, alike
    channels = np.arange(3)
    best = linear(PICTURES.developed(kernels()), channels)[0]
    assert (linear(dreams, channels)[0] >= 0.95 * best).all()


def test_steps_are_counted_and_the_seed_decides() -> None:
    few = Ascent(n_steps=5)
    calls: list[int] = []

    def counted(pictures: Floats, channels: NDArray[np.intp]) -> tuple[Floats, Floats]:
        calls.append(len(pictures))
        return linear(pictures, channels)

    first = ascend(counted, [0, 2], PICTURES, few, seeds=[3, 4], n_dreams=2)
    assert first.passes == sum(calls)
    again = ascend(linear, [0, 2], PICTURES, few, seeds=[3, 4], n_dreams=2)
    assert first.waves.tobytes() == again.waves.tobytes()
    alone = ascend(linear, [2], PICTURES, few, seeds=[4], n_dreams=2)
    np.testing.assert_allclose(alone.waves[0], first.waves[1], rtol=1e-9, atol=1e-12)
    other = ascend(linear, [0, 2], PICTURES, few, seeds=[3, 5])
    assert other.waves[1].tobytes() != first.waves[1, :1].tobytes()


def test_diverse_dreams_differ_and_all_excite() -> None:
    made = ascend(either, [0], PICTURES, Ascent(), seeds=[0], n_dreams=3)
    dreams = PICTURES.developed(made.waves[0])
    plain = [ascend(either, [0], PICTURES, Ascent(), seeds=[s]) for s in (0, 1)]
    usual = correlation(*(PICTURES.developed(one.waves[:, 0]) for one in plain))
    assert correlation(dreams[0], dreams[1]) < usual - 0.2
    rng = np.random.default_rng(1)
    random = PICTURES.developed(PICTURES.waves(rng.standard_normal((2000, PICTURES.size))))
    nothing = np.zeros(2000, np.intp)
    assert (either(dreams, nothing)[0] > either(random, nothing)[0].max()).all()


def test_a_filter_without_a_gradient_has_a_dream_all_the_same() -> None:
    def dead(pictures: Floats, channels: NDArray[np.intp]) -> tuple[Floats, Floats]:
        return np.zeros(len(channels)), np.full_like(pictures, np.nan)

    made = ascend(dead, [0], PICTURES, Ascent(n_steps=3), seeds=[0])
    assert np.isfinite(PICTURES.developed(made.waves[:, 0])).all()
