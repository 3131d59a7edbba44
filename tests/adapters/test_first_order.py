"""First-order values agree with small steps towards the constant, and screen for a repair."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from repairkit_adapters.pytorch.model import PyTorchModel  # noqa: E402
from tests.adapters.conftest import images  # noqa: E402
from tests.conftest import Answer  # noqa: E402


@pytest.mark.usefixtures("factory")
@pytest.mark.parametrize("step", [None, 8])
def test_a_small_step_towards_the_constant_changes_the_likelihood_as_stated(
    step: int | None,
) -> None:
    """The oracle holds no gradient: central differences of the likelihood along the step."""
    import small_network

    module = small_network.make().eval().double()
    given, labels = images(13), np.arange(13) % 3
    constants = {"0": np.linspace(-1, 1, 6), "2": np.linspace(0.5, -0.5, 5)}
    model = PyTorchModel(small_network.make(), (2, 8, 8), step=step)
    found = model.first_order(given, labels, constants)
    assert {name: value.shape for name, value in found.items()} == {"0": (13, 6), "2": (13, 5)}
    places = {"0": module[0], "2": module[3]}  # behind the normalisation that follows alone

    def likelihoods(place: torch.nn.Module, channel: int, constant: float, size: float) -> Any:
        def towards(_: Any, __: Any, out: Any) -> Any:
            moved = out.clone()
            moved[:, channel] += size * (constant - out[:, channel])
            return moved

        handle = place.register_forward_hook(towards)
        with torch.no_grad():
            logs = module(torch.from_numpy(given).double()).log_softmax(1)
        handle.remove()
        return logs.numpy()[np.arange(13), labels]

    for name, values in found.items():
        for channel, constant in enumerate(constants[name].tolist()):
            ahead, behind = (likelihoods(places[name], channel, constant, s) for s in (1e-4, -1e-4))
            slope = (ahead - behind) / 2e-4
            assert values[:, channel] == pytest.approx(slope, rel=2e-3, abs=2e-5)


@pytest.mark.long
def test_filters_are_screened_by_gradients_where_the_source_is_named(
    repairkit: Callable[..., Answer], factory: str
) -> None:
    exported = repairkit("export", factory, "--input-shape", "2,8,8", "-o", "model.onnx")
    assert exported.code == 0, exported.err
    import small_network

    x, rng = images(240), np.random.default_rng(1)
    with torch.no_grad():
        y = small_network.make().eval()(torch.from_numpy(x)).argmax(1).numpy()
    y = np.where(rng.random(240) < 0.3, rng.integers(0, 3, 240), y)
    np.savez("data.npz", x=x, y=y, group=np.array(["a", "b"])[np.arange(240) % 2])
    common = (
        "patch", "model.onnx", "--data", "data.npz", "--group", "group", "--fairness",
        "--method", "gradient", "--accept-preprocessing", "--json",
    )  # fmt: skip
    refused = repairkit(*common)
    assert refused.code == 1
    assert "name it with --source" in refused.err
    answer = repairkit(*common, "--source", factory, "--input-shape", "2,8,8")
    assert answer.code in (0, 4), answer.err
    if answer.code == 0:
        document = json.loads(answer.out)
        assert document["scoring"]["settings"]["method"] == "gradient"
        assert document["scoring"]["n_known"] == 11
        assert document["selection"]["parts"]["folds"] == 5
    else:
        assert "no repair" in answer.err
    other = repairkit(*common[:6], "--objective", "recall:0", *common[7:], "--source", factory)
    assert other.code == 1
    assert "tells of losses" in other.err
