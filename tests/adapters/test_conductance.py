"""Conductance adds up, and stands as a baseline where the source of a model is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("captum", reason="Captum is not installed")

from repairkit_adapters.pytorch.model import PyTorchModel  # noqa: E402
from tests.adapters.conftest import FACTORY, images  # noqa: E402
from tests.conftest import Answer  # noqa: E402


@pytest.mark.usefixtures("factory")
def test_what_flows_through_a_layer_adds_up_to_the_score() -> None:
    import small_network

    module = small_network.make()
    model = PyTorchModel(module, (2, 8, 8))
    given, labels = images(40), np.arange(40) % 3
    found = model.conductance(given, labels)
    assert {name: value.shape for name, value in found.items()} == {"0": (40, 6), "2": (40, 5)}
    module.eval()
    with torch.no_grad():
        scores = module(torch.from_numpy(given)).numpy()[np.arange(40), labels]
        zero = module(torch.zeros(1, 2, 8, 8)).numpy()[0, labels]
    for value in found.values():
        assert value.sum(axis=1) == pytest.approx(scores - zero, abs=0.02)
    frozen = value.mean(axis=0)
    assert np.ptp(frozen) > 0


@pytest.mark.slow
def test_conductance_is_a_baseline_where_the_source_is_named(
    factory: str, repairkit: Callable[..., Answer], tmp_path: Path
) -> None:
    import small_network

    torch.save(small_network.make().state_dict(), tmp_path / "weights.pt")
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", x=images(90), y=rng.integers(0, 3, 90))
    shape = ("--input-shape", "2,8,8")
    exported = repairkit("export", factory, *shape, "-o", "model.onnx")
    assert exported.code == 0, exported.err
    common = ("patch", "model.onnx", "--data", "data.npz", "--baselines", "--quiet")
    sites = json.loads(repairkit("inspect", "model.onnx", "--json").out)["sites"]
    common += ("--remove", f"{sites[0]['site']}:1", "--max-evaluations", "400")
    done = repairkit(*common, "--source", factory, "-o", "a.onnx")
    assert done.code == 0, done.err
    rows = {r["method"]: r for r in json.loads(Path("a.report.json").read_text())["baselines"]}
    assert rows["conductance"]["figures"]["accuracy"]["difference"]["ci_low"] <= 1
    assert rows["conductance"]["n_frozen"] == 1

    (tmp_path / "small_network2.py").write_text(FACTORY.replace("seed(0)", "seed(1)"))
    wrong = repairkit(*common, "--source", "small_network2:make", "-o", "b.onnx")
    assert wrong.code == 0, wrong.err
    rows = {r["method"]: r for r in json.loads(Path("b.report.json").read_text())["baselines"]}
    assert rows["conductance"]["figures"] == {}
    assert "does not compute what" in rows["conductance"]["note"]
