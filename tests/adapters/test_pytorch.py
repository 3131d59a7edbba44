"""Models of PyTorch as repairkit sees them, and where they come from."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from repairkit.core.errors import AdapterError, ExportError  # noqa: E402
from repairkit.core.framework import LoadOptions  # noqa: E402
from repairkit_adapters.pytorch import ADAPTER, wrap  # noqa: E402
from tests.adapters.networks import SIDE, trained  # noqa: E402

SHAPE = (3, SIDE, SIDE)
PLAIN = "tests.adapters.networks:Plain"


def images(n: int = 4) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((n, *SHAPE)).astype(np.float32)


def scripted(network: Any, path: Path, *, how: str = "trace") -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.script(network)
        if how == "trace":
            made = torch.jit.trace(network, torch.zeros(1, *SHAPE))
        torch.jit.save(made, str(path))
    return path


def test_freezing_sets_one_channel_behind_the_normalisation() -> None:
    network = trained("resnet")
    model = wrap(network, SHAPE)
    channels, constants = np.array([0, 3, 3, 7]), np.array([2, -1, 4, 0.5], np.float32)

    def freeze(_: Any, __: Any, out: Any) -> Any:
        frozen = out.clone()
        for i, (channel, constant) in enumerate(zip(channels, constants, strict=True)):
            frozen[i, channel] = float(constant)
        return frozen

    for layer, norm in (("stem.0", "stem.1"), ("layer1.conv2", "layer1.bn2")):
        with model.freezing(layer, channels, constants):
            found = model.outputs(images())
        handle = network.get_submodule(norm).register_forward_hook(freeze)
        np.testing.assert_array_equal(found, model.outputs(images()))
        handle.remove()
        assert np.abs(found - model.outputs(images())).max(1).min() > 0


def test_channels_are_read_where_they_are_frozen() -> None:
    network = trained("resnet")
    model = wrap(network, SHAPE)
    values = model.channel_values(images())
    assert list(values) == [layer.name for layer in model.layers]
    read: dict[str, Any] = {}
    for layer, norm in (("stem.0", "stem.1"), ("layer1.conv2", "layer1.bn2")):
        handle = network.get_submodule(norm).register_forward_hook(
            lambda _, __, out, layer=layer: read.update({layer: out.detach().clone()})
        )
        model.outputs(images())
        handle.remove()
        np.testing.assert_array_equal(values[layer], read[layer])


def test_many_channels_are_frozen_at_once() -> None:
    network = trained("resnet")
    model = wrap(network, SHAPE)
    rng = np.random.default_rng(4)
    frozen, constants = rng.random((4, 8)) < 0.5, rng.standard_normal(8).astype(np.float32)

    def freeze(_: Any, __: Any, out: Any) -> Any:
        mask, levels = (torch.from_numpy(a)[..., None, None] for a in (frozen, constants))
        return torch.where(mask, levels, out)

    with model.freezing_many("stem.0", frozen, constants):
        found = model.outputs(images())
    handle = network.get_submodule("stem.1").register_forward_hook(freeze)
    np.testing.assert_array_equal(found, model.outputs(images()))
    handle.remove()
    assert np.abs(found - model.outputs(images())).max(1).min() > 0


def test_a_model_is_left_as_it_was(tmp_path: Path) -> None:
    network = trained("resnet").train()
    network.layer1.eval()
    network.fc.weight.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    modes = [part.training for part in network.modules()]
    wanted = [p.requires_grad for p in network.parameters()]
    model = wrap(network, SHAPE)
    with model.freezing("stem.0", np.zeros(4, np.intp), np.ones(4, np.float32)):
        model.outputs(images())
    model.loss_gradients(images(), np.zeros(4, np.intp))
    model.export(tmp_path / "model.onnx")
    with pytest.raises(AdapterError, match="cannot take images of shape"):
        wrap(network, (5, 4, 4)).outputs(np.zeros((2, 5, 4, 4), np.float32))
    assert [part.training for part in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == wanted
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


@pytest.mark.parametrize("tail", [[], [torch.nn.Softmax(1)]])
def test_gradients_are_those_of_the_cross_entropy(tail: list[Any]) -> None:
    network = torch.nn.Sequential(trained("plain"), *tail).double()
    model = wrap(trained("plain"), SHAPE)
    if tail:
        model = wrap(torch.nn.Sequential(trained("plain"), *tail), SHAPE)
    labels = np.array([0, 4, 2, 1])
    losses, gradients = model.loss_gradients(images(), labels)
    assert gradients.shape == (4, *SHAPE)
    direction = np.random.default_rng(1).standard_normal((4, *SHAPE))

    def loss(step: float) -> np.ndarray:
        with torch.no_grad():
            out = network(torch.from_numpy(images() + step * direction)).numpy()
        logs = np.log(out) if tail else out - np.log(np.exp(out).sum(1, keepdims=True))
        return -logs[np.arange(4), labels]

    np.testing.assert_allclose(losses, loss(0.0), rtol=1e-5)
    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose((gradients * direction).sum((1, 2, 3)), slope, rtol=1e-3, atol=1e-6)


class Odd(torch.nn.Module):
    """Convolutions as functions, one of them twice, and one whose kernel is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.randn(3, 3, 3, 3))
        self.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, 4, 1))

    def forward(self, x: Any) -> Any:
        x = torch.nn.functional.conv2d(x, self.kernel)
        x = torch.nn.functional.conv2d(torch.relu(x), self.kernel)
        return {"out": self.normed(x).mean((2, 3))}


def test_layers_are_named_however_they_are_computed() -> None:
    model = wrap(Odd(), SHAPE)
    names = [layer.name for layer in model.layers]
    assert names == ["kernel", "kernel#2", "normed"]
    assert [layer.n_channels for layer in model.layers] == [3, 3, 4]
    assert model.outputs(images()).shape == (4, 4)


def test_a_factory_takes_weights_in_the_common_forms(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    state = trained("plain").state_dict()
    torch.save(state, tmp_path / "bare.pt")
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "nested.pth")
    safetensors.save_file(state, tmp_path / "safe.safetensors")
    expected = wrap(trained("plain"), SHAPE).outputs(images())
    for name in ("bare.pt", "nested.pth", "safe.safetensors"):
        options = LoadOptions(tmp_path / name, SHAPE)
        np.testing.assert_array_equal(ADAPTER.load(PLAIN, options).outputs(images()), expected)


def test_a_checkpoint_that_does_not_fit_is_told_in_one_line(tmp_path: Path) -> None:
    state = trained("plain").state_dict()
    state["0.weight"] = state["0.weight"][:4]
    state["extra"] = state.pop("3.bias")
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(AdapterError) as caught:
        ADAPTER.load(PLAIN, LoadOptions(tmp_path / "other.pt", SHAPE))
    message = str(caught.value)
    assert "\n" not in message
    for part in ("other.pt: does not fit", "(3.bias)", "(extra)", "0.weight is (4, 3, 3, 3)"):
        assert part in message


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm"),))


def test_a_broken_checkpoint_is_told_with_where_it_is_broken(tmp_path: Path) -> None:
    place, state = tmp_path / "weights.pt", trained("plain").state_dict()
    torch.save(state, place, _use_new_zipfile_serialization=False)
    place.write_bytes(place.read_bytes()[:200])
    with pytest.raises(AdapterError, match=r"is no state dict .*; a pickle is broken at byte 200 "):
        ADAPTER.load(PLAIN, LoadOptions(place, SHAPE))


def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"0.weight": Evil()}, "evil.pt")
    with pytest.raises(AdapterError, match=r"evil.pt: names or holds .*pathlib:Path.*--trust"):
        ADAPTER.load(PLAIN, LoadOptions(Path("evil.pt"), SHAPE))
    torch.save(Evil(), "whole.pt")
    with pytest.raises(AdapterError, match=r"whole.pt: names or holds .*pathlib:Path.*--trust"):
        ADAPTER.load("whole.pt", LoadOptions(input_shape=SHAPE))
    assert not Path("harm").exists()


def test_a_module_that_was_pickled_whole_is_loaded_with_trust_alone(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save(trained("plain"), path)
    with pytest.raises(AdapterError, match=r"torch.nn.modules.\w+:\w+.*--trust"):
        ADAPTER.load(str(path), LoadOptions(input_shape=SHAPE))
    model = ADAPTER.load(str(path), LoadOptions(input_shape=SHAPE, trust=True))
    np.testing.assert_array_equal(
        model.outputs(images()), wrap(trained("plain"), SHAPE).outputs(images())
    )


def test_programs_are_run_with_trust_alone(tmp_path: Path) -> None:
    """The pickle in an exported program is named, and neither it nor the program is loaded."""
    script = scripted(trained("plain"), tmp_path / "script.pt", how="trace")
    with pytest.raises(AdapterError, match=r"script.pt: .*the TorchScript program .*--trust"):
        ADAPTER.load(str(script), LoadOptions(input_shape=SHAPE))
    content = pickle.dumps(Harmful(tmp_path / "harm"))
    program = tmp_path / "program.pt2"
    with zipfile.ZipFile(program, "w") as archive:
        archive.writestr("archive/models/model.json", "{}")
        archive.writestr("archive/data/sample_inputs/model.pt", content)
    with pytest.raises(AdapterError, match=r"program.pt2: .*pathlib:Path.touch.*--trust"):
        ADAPTER.load(str(program), LoadOptions())
    assert not (tmp_path / "harm").exists()


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript_is_taken(how: str, tmp_path: Path) -> None:
    network = trained("mobilenet")
    path = scripted(network, tmp_path / "model.pt", how=how)
    model, ours = (
        ADAPTER.load(str(path), LoadOptions(input_shape=SHAPE, trust=True)),
        wrap(network, SHAPE),
    )
    assert [layer.name for layer in model.layers] == [layer.name for layer in ours.layers]
    some = (np.arange(4), np.full(4, 2, np.float32))
    with model.freezing("features.1.conv.1.0", *some), ours.freezing("features.1.conv.1.0", *some):
        np.testing.assert_allclose(model.outputs(images()), ours.outputs(images()), rtol=1e-4)


@pytest.mark.parametrize("fixed", [True, False])
def test_exported_programs_are_taken(fixed: bool, tmp_path: Path) -> None:
    network = trained("plain")
    shapes = None if fixed else ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (torch.zeros(3, *SHAPE),), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "model.pt2")
    model = ADAPTER.load(str(tmp_path / "model.pt2"), LoadOptions(trust=True))
    assert (model.input_shape, model.step) == (SHAPE, 3 if fixed else None)
    assert [layer.name for layer in model.layers] == ["0", "3"]
    ours = wrap(network, SHAPE)
    some = (np.arange(4), np.full(4, 2, np.float32))
    with model.freezing("3", *some), ours.freezing("3", *some):
        np.testing.assert_allclose(model.outputs(images()), ours.outputs(images()), rtol=1e-5)


class Spectral(torch.nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x: Any) -> Any:
        return torch.linalg.eigvalsh(x @ x.mT)


def test_a_layer_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    network = torch.nn.Sequential()
    network.add_module("conv", torch.nn.Conv2d(3, 4, 3))
    network.add_module("spectrum", Spectral())
    with pytest.raises(ExportError) as caught:
        wrap(network, SHAPE, source="net").export(tmp_path / "model.onnx")
    message = str(caught.value)
    assert "\n" not in message
    assert "net: layer 'spectrum' cannot be exported" in message
    assert "eigh" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.at.all:Net", "'nowhere.at.all' cannot be imported"),
        ("tests.adapters.networks:Missing", "has no 'Missing'"),
        ("tests.adapters.networks:SIDE", "gives a int"),
        ("tests.adapters.networks:trained", "cannot be called without arguments"),
        (PLAIN, "give --input-shape"),
        ("missing.pt2", "there is no such file"),
        ("model", "is no PyTorch source"),
    ],
)
def test_an_unfit_source_is_told_in_one_line(source: str, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        ADAPTER.load(source, LoadOptions())


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    torch.save(trained("plain").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(AdapterError, match="name the model's factory"):
        ADAPTER.load(str(tmp_path / "weights.pt"), LoadOptions(input_shape=SHAPE))


def test_a_missing_framework_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(AdapterError, match=r"repairkit\[pytorch\]"):
        ADAPTER.load(PLAIN, LoadOptions())
