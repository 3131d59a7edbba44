"""Filters are called by the names that people know: trees, and layers of the framework."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.process.nouns import by_layers, in_trees, learn, naming, worded

LAYERS = {"conv": "stem.0", "conv_1": "layer1.0.conv2", "/a/b.c": "head", "x": "filters"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 filters are frozen", "3 trees are frozen"),
        ("Filters frozen", "Trees frozen"),
        ("no filter's value", "no tree's value"),
        ("a filter.", "a tree."),
        ("runs/filter/a and filter.csv", "runs/filter/a and filter.csv"),
        ("the class 'filter'", "the class 'filter'"),
        ("filter:3 and a-filter", "filter:3 and a-filter"),
        ('<a href="#filters" class="filter">Filters', '<a href="#filters" class="filter">Trees'),
        ("filtered", "filtered"),
    ],
)  # fmt: skip
def test_the_word_alone_changes(text: str, expected: str) -> None:
    assert in_trees(text) == expected
    assert in_trees(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("freezing conv_1:7 and conv:0 (best)", "freezing layer1.0.conv2:7 and stem.0:0 (best)"),
        ("/a/b.c:12", "head:12"),
        ("conv", "stem.0"),
        ("site 'conv_1' has 4 filters", "layer 'layer1.0.conv2' has 4 filters"),
        ("my conv:x and xconv:3 and conv_10:3", "my conv:x and xconv:3 and conv_10:3"),
        ("a conv of mine", "a conv of mine"),
    ],
)
def test_ids_of_known_sites_get_their_layers(text: str, expected: str) -> None:
    assert by_layers(text, LAYERS) == expected


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1), min_size=1), st.data())
def test_every_id_becomes_the_channel_of_its_own_layer(
    layers: dict[str, str], data: st.DataObject
) -> None:
    """No name of a site is mistaken for another, whatever signs are in them."""
    site = data.draw(st.sampled_from(sorted(layers)))
    assert by_layers(f"{site}:5", layers) == f"{layers[site]}:5" or f"{site}:5" in layers


@given(st.text())
def test_without_layers_nothing_changes(text: str) -> None:
    assert by_layers(text, {}) == text
    assert worded(text) == text


def test_what_is_learnt_holds_until_the_block_ends() -> None:
    learn(of_trees=True)
    with naming():
        assert worded("a filter of conv:1") == "a filter of conv:1"
        learn(layers={"conv": "stem"})
        learn(of_trees=True)
        assert worded("a filter of conv:1") == "a tree of stem:1"
        with naming():
            assert worded("a filter of conv:1") == "a filter of conv:1"
        assert worded("filters") == "trees"
    assert worded("filters of conv:1") == "filters of conv:1"
