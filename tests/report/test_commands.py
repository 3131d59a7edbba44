"""The commands of a page read the images as the job did."""

from __future__ import annotations

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from repairkit.data.preprocessing import Preprocessing
from repairkit.report.commands import accepting_words, reading_words

SIZES = st.tuples(st.integers(1, 999), st.integers(1, 999))
NUMBERS = st.lists(st.floats(0.001, 300), max_size=3).map(tuple)
WAYS = st.builds(
    Preprocessing,
    resize=st.none() | SIZES | st.integers(1, 999),
    crop=st.none() | SIZES,
    color=st.sampled_from([None, "rgb", "bgr", "gray"]),
    scale=st.floats(1e-6, 10),
    mean=NUMBERS.map(lambda numbers: tuple(-n for n in numbers)),
    std=NUMBERS,
    layout=st.sampled_from([None, "nchw", "nhwc"]),
)


@given(WAYS)
def test_the_options_say_the_preprocessing_again(way: Preprocessing) -> None:
    document = json.loads(json.dumps(dataclasses.asdict(way)))
    given_again = dict(word.removeprefix("--").split("=", 1) for word in reading_words(document))
    assert Preprocessing.from_mapping(given_again, "options") == way


def test_names_that_no_option_can_hold_are_left_out() -> None:
    assert reading_words({}, ["cat", "dog"]) == ["--classes=cat,dog"]
    assert reading_words(None, ["cat, wild", "dog"]) == []


def test_a_doubt_that_was_accepted_is_accepted_again() -> None:
    doubt = {"first_look": {"doubt": "at chance", "accepted": True}}
    assert accepting_words(doubt) == ["--accept-preprocessing"]
    assert accepting_words({"first_look": {"doubt": "", "accepted": True}}) == []
    assert accepting_words({"first_look": {"metric": "mean_absolute_error"}}) == []
    assert accepting_words({}) == accepting_words(None) == []
