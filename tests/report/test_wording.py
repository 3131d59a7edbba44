"""The commands of a page read the images as the job did."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.data.preprocessing import Preprocessing
from repairkit.report.wording import reading_words, shell

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


WORDS = st.lists(
    st.text(st.sampled_from("ab ~/\"'$`\\\n\t*=-;&<\u00e9\u00a0\u202e\x1b\x7f"), max_size=6),
    min_size=30,
    max_size=60,
)


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@given(WORDS.map(lambda words: [word for word in words if not word.startswith("~/")]))
@settings(deadline=None, max_examples=5)
def test_bash_reads_the_words_back_and_every_character_shows(words: list[str]) -> None:
    command = shell(*words)
    assert command.isprintable()
    script = f"repairkit() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env=environment)
    assert done.stdout.decode().split("\0")[:-1] == words


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_a_home_at_the_start_of_a_word_stays_the_home() -> None:
    script = f"repairkit() {{ printf '%s\\0' \"$@\"; }}\n{shell('~/a b', 'x~/c', '~')}"
    environment = {"HOME": "/home/eve", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env=environment)
    assert done.stdout.decode().split("\0")[:-1] == ["/home/eve/a b", "x~/c", "~"]
