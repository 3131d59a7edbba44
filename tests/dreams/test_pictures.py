"""Laws of pictures: their waves are linear, their gradients true, their colours and range right."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.dreams.pictures import (
    CONTRAST,
    Palette,
    Pictures,
    low_pictures,
    measured_palette,
    plain_palette,
)


@st.composite
def pictures(draw: st.DrawFn) -> Pictures:
    height, width = draw(st.integers(1, 9)), draw(st.integers(2, 9))
    n_colours, seed = draw(st.integers(1, 4)), draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    palette = plain_palette(n_colours)
    if draw(st.booleans()):
        palette = measured_palette(rng.uniform(-1, 1, (50, n_colours)))
    most, falloff = draw(st.integers(1, 200)), draw(st.sampled_from([0.0, 0.5, 1.0]))
    return low_pictures(height, width, palette, most=most, falloff=falloff)


@settings(max_examples=40, deadline=None)
@given(pictures(), st.integers(0, 99))
def test_numbers_is_the_adjoint_of_waves(made: Pictures, seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers, waves = rng.standard_normal((3, made.size)), rng.standard_normal((3, *made.shape))
    forth, back = made.waves(numbers), made.numbers(waves)
    assert forth.shape == waves.shape
    np.testing.assert_allclose((forth * waves).sum(), (numbers * back).sum(), rtol=1e-9, atol=1e-9)
    # Waves of single numbers are orthogonal, and their sizes are known.
    alone = made.waves(np.eye(made.size)).reshape(made.size, -1)
    np.testing.assert_allclose(alone @ alone.T, np.diag(made.weights**2), atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(pictures(), st.integers(0, 99))
def test_gradients_of_pictures_are_true(made: Pictures, seed: int) -> None:
    rng = np.random.default_rng(seed)
    waves, step, slopes = (rng.standard_normal((2, *made.shape)) for _ in range(3))
    small = 1e-5 * step
    moved = made.developed(waves + small) - made.developed(waves - small)
    expected = (slopes * moved).sum() / 2
    told = (made.undeveloped(waves, slopes) * small).sum()
    np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(pictures(), st.floats(0.01, 1000), st.integers(0, 99))
def test_pictures_are_in_range_and_of_one_contrast(
    made: Pictures, factor: float, seed: int
) -> None:
    waves = made.waves(np.random.default_rng(seed).standard_normal((2, made.size)))
    developed = made.developed(waves)
    assert np.abs(developed).max() <= 1
    np.testing.assert_allclose(made.developed(factor * waves), developed, atol=1e-6)
    before = np.arctanh(np.clip(developed, -1 + 1e-12, 1 - 1e-12)) - made.palette.before_squash
    if np.abs(developed).max() < 1 - 1e-9:
        np.testing.assert_allclose(np.sqrt((before**2).mean(axis=(1, 2, 3))), CONTRAST, rtol=1e-4)


def test_the_axes_of_a_measured_palette_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    numbers = rng.standard_normal((20_000, 3)) * [0.3, 0.15, 0.01]
    palette = measured_palette(numbers @ axes.T + [0.2, 0.0, -0.1])
    np.testing.assert_allclose(palette.background, [0.2, 0.0, -0.1], atol=0.01)
    units = palette.axes / palette.lengths
    np.testing.assert_allclose(np.abs(units.T @ axes), np.eye(3), atol=0.02)
    # The shortest axis is kept at a fifth, so that rare colours stay in reach.
    np.testing.assert_allclose(palette.lengths, [1.0, 0.5, 0.2], atol=0.02)


def test_images_of_one_colour_have_a_palette_too() -> None:
    palette = measured_palette(np.full((9, 3), 1.0))
    assert isinstance(palette, Palette)
    assert np.isfinite(palette.blank).all()
    assert (palette.lengths > 0).all()


def test_brightness_has_more_waves_than_other_colours() -> None:
    made = low_pictures(16, 16, plain_palette(3), most=120)
    counts = np.bincount(made.places % 3)
    assert counts.sum() == 120
    assert counts[0] > 2 * counts[1]
    assert counts[1] == counts[2] or abs(int(counts[1]) - int(counts[2])) <= 2
