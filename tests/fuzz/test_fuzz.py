"""Spoilt inputs end in a result or in one clear line; `make fuzz` tries many more of them."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from tests import models
from tests.fuzz import mutations
from tests.fuzz.driver import Child, drive
from tests.fuzz.guided import DrawnFromBytes
from tests.fuzz.targets import TARGETS
from tests.fuzz.trial import attempt

SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize("target", TARGETS)
@settings(deadline=None, max_examples=12)
@given(seed=SEEDS)
def test_a_spoilt_input_ends_in_a_result_or_in_one_line(target: str, seed: int) -> None:
    assert attempt(target, seed) is None


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(sorted(models.LAYERS)), seed=SEEDS)
@example(name="own_bias", seed=0)
def test_a_seed_names_its_change_and_changes_stay_parsable(name: str, seed: int) -> None:
    sound = models.LAYERS[name]().SerializeToString()
    spoilt = mutations.spoil_model(sound, random.Random(seed))
    assert spoilt == mutations.spoil_model(sound, random.Random(seed))
    ModelProto.FromString(spoilt)


@given(data=st.binary(max_size=64))
def test_bytes_can_take_the_place_of_a_generator(data: bytes) -> None:
    drawn = [DrawnFromBytes(data) for _ in range(2)]
    ours, theirs = ([r.randrange(7), r.random(), r.choice("abc"), r.randbytes(3)] for r in drawn)
    assert ours == theirs
    assert 0 <= ours[0] < 7
    assert 0 <= ours[1] < 1


def test_changes_are_of_every_kind() -> None:
    """A mutation that changed nothing, or always the same, would find nothing."""
    sound = models.own_bias().SerializeToString()
    for spoil in (mutations.spoil_model, mutations.spoil_bytes):
        found = {spoil(sound, random.Random(seed)) for seed in range(300)}
        assert len(found) > 200
        assert sound not in found or len(found) > 250


@pytest.mark.slow
def test_the_driver_runs_what_it_is_told() -> None:
    found = drive(["project", "archive"], 0, 8, 120.0)
    assert sum(found.done.values()) == 8
    assert not found.broken
    assert 0 < found.most_memory < 2 << 30


@pytest.mark.slow
def test_the_driver_sees_a_process_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import os; print('{\"ready\": 1}', flush=True); os.abort()"]
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _command, **more: real(command, **more))
    found = drive(["project"], 3, 4, 60.0)
    assert [(target, seed) for target, seed, _ in found.broken] == [("project", 3)]
    assert "crash" in found.broken[0][2]
    child = Child(["project"], 0, 1)
    assert child.read(30.0) == {"ready": 1}
    child.end()
