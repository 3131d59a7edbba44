"""What was freed goes back to the system, and large models are run on fewer images at once."""

import subprocess
import sys

import pytest

from repairkit.engine.cones.fast import FastEvaluator
from repairkit.engine.masks import MaskEvaluator, ScatteredEvaluator
from repairkit.engine.working import open_evaluator
from tests.engine.games import deep_model, set_up
from tests.models import images

_FREES = """
from pathlib import Path
from repairkit.engine.ort import release_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(100_000) for _ in range(2_000)]
last = bytearray(100_000)  # above the others, which so cannot go back by themselves
del blocks
before = resident()
release_freed()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone")
def test_freed_memory_goes_back_to_the_system() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _FREES], capture_output=True, text=True, check=True
    )
    assert int(told.stdout) > 100e6


def test_mixed_runs_hold_fewer_images_of_a_larger_model() -> None:
    setup = set_up(deep_model(), images(4))
    others = open_evaluator(setup.candidates, setup.reference())
    assert isinstance(others, FastEvaluator)
    masks = MaskEvaluator(setup.runner, setup.candidates.roster, setup.suite)
    sizes = [
        ScatteredEvaluator(others, masks, macs=macs).run_images for macs in (0, 1e6, 1e8, 1e12)
    ]
    assert sizes == [128, 128, 40, 8]
