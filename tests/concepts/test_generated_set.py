"""Drawn concepts: the same for a seed, of the stated sizes, in colour and in grey."""

from __future__ import annotations

import numpy as np
import pytest

from repairkit.concepts.generated_set import concepts_drawn, draw_concepts


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((28, 40), 1)])
def test_a_seed_gives_the_same_images_and_another_gives_others(
    size: tuple[int, int], channels: int
) -> None:
    first, again, other = (draw_concepts(size, channels, blocks=2, seed=s) for s in (3, 3, 4))
    assert first.pixels.shape == (2 * len(first.concepts), *size, channels)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert (first.pixels != other.pixels).mean() > 0.5


def test_every_concept_covers_about_half_a_per_cent() -> None:
    drawn = draw_concepts((48, 48), 3, blocks=16, seed=0)
    for concept in range(len(drawn.concepts)):
        share = drawn.masks[drawn.shown == concept].sum() / drawn.masks.size
        assert 0.002 < share < 0.0075, drawn.concepts[concept]
    assert {c.category for c in drawn.concepts} == {
        "colour", "orientation", "frequency", "texture", "shape",
    }  # fmt: skip


def test_colours_are_those_that_are_named() -> None:
    drawn = draw_concepts((32, 32), 3, blocks=6, seed=1)
    names = [concept.name for concept in drawn.concepts]
    for name, strong in (("red", 0), ("green", 1), ("blue", 2)):
        inside = drawn.shown == names.index(name)
        mean = drawn.pixels[inside][drawn.masks[inside]].mean(axis=0)
        assert mean.argmax() == strong


def test_grey_images_have_no_colours_but_black_and_white() -> None:
    names = [concept.name for concept in concepts_drawn(1) if concept.category == "colour"]
    assert names == ["black", "white"]
    assert [c.number for c in concepts_drawn(3)] == list(range(1, len(concepts_drawn(3)) + 1))
