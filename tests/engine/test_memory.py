"""What was freed goes back to the system, and large models are run on fewer images at once."""

import subprocess
import sys

import pytest

from repairkit.engine.cones import fast
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


def test_the_usual_cache_is_what_the_model_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(deep_model(), images(4))
    evaluator = open_evaluator(setup.candidates, setup.reference())
    assert isinstance(evaluator, FastEvaluator)
    routes, usual = evaluator.routes, evaluator.states.budget_bytes
    each = routes.bytes_of(routes.worth_keeping)
    assert usual % (each * evaluator.grain) == 0
    assert 0 < usual < 2**28
    monkeypatch.setattr(fast, "default_workers", lambda: 1 << 20)
    monkeypatch.setattr(fast, "quarter_of_free_memory", lambda: 2**40)
    assert fast.usual_cache(evaluator) == fast.MOST_CACHE_BYTES == 2 * 2**30
    monkeypatch.setattr(fast, "quarter_of_free_memory", lambda: 12_345)
    assert fast.usual_cache(evaluator) == 12_345


def test_sessions_share_their_memory() -> None:
    """A pool for each session would hold the most that each of them ever took."""
    told = subprocess.run(
        [sys.executable, "-c", _SESSIONS], capture_output=True, text=True, check=True
    )
    first, more = map(int, told.stdout.split())
    assert first > 40e6  # the runtime keeps it
    assert more < first / 2


_SESSIONS = """
from pathlib import Path
import numpy as np
from onnx import TensorProto, helper
from repairkit.engine.ort import open_session

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

shape = ["n", 3, 512, 512]
nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Abs", ["a"], ["b"]),
         helper.make_node("Relu", ["b"], ["c"]), helper.make_node("ReduceMean", ["c"], ["y"])]
values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in
          (("x", shape), ("y", None))]
graph = helper.make_graph(nodes, "g", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
images = np.ones((16, 3, 512, 512), np.float32)
kept, sizes = [], [resident()]
for number in range(3):
    kept.append(open_session(model, optimise=False))
    kept[-1].run(None, {"x": images})
    sizes.append(resident())
print(sizes[1] - sizes[0], sizes[3] - sizes[1])
"""
