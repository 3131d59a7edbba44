"""Dreams by gradients of the framework's model show filters that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError, SettingsError
from repairkit.core.filters import Filter
from repairkit.core.framework import Exciting, FrameworkModel
from repairkit.dreams.ascent import Ascent
from repairkit.jobs.dream.dream import DreamSettings
from repairkit.jobs.dream.dreaming import dream_filters
from repairkit.jobs.export.exporting import export
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.jobs.setup.workbench import Settings
from tests.adapters.keras.needed import needs_keras
from tests.dreams.known_filters import REACH, SIDE, correlation, kernels

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SETTINGS = Settings(absent="zero")


def torch_model(sign: float = 1.0) -> FrameworkModel:
    from repairkit_adapters.pytorch.model import PyTorchModel

    first = torch.nn.Conv2d(3, 3, REACH, padding=REACH // 2)
    module = torch.nn.Sequential(
        first, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(3, 2),
    )  # fmt: skip
    with torch.no_grad():
        first.weight[:] = sign * torch.from_numpy(kernels().transpose(0, 3, 1, 2)).float()
        first.bias[:] = torch.tensor([0.5, 0.0, -0.5])
    return PyTorchModel(module.eval(), (3, SIDE, SIDE))


def keras_model() -> FrameworkModel:
    from repairkit_adapters.keras_models import wrap
    from tests.adapters.keras import architectures

    keras = architectures.keras_module()
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(3, REACH, padding="same", name="seen")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    bias = np.array([0.5, 0.0, -0.5], np.float32)
    model.get_layer("seen").set_weights([kernels().transpose(1, 2, 3, 0).astype(np.float32), bias])
    wrapped: FrameworkModel = wrap(model)
    return wrapped


def known_correlations(model: FrameworkModel, folder: Path, ascent: Ascent) -> list[float]:
    export(model, folder / "known.onnx", settings=SETTINGS, source="known")
    bench = prepare_unjudged(read_subject(folder / "known.onnx"), SETTINGS)
    filters = bench.roster.filters[:3]
    asked = DreamSettings(ascent=ascent)
    dreams = dream_filters(bench, filters, asked, source=("known", model))
    found = []
    for dream, kernel in zip(dreams, kernels(), strict=True):
        assert dream.way == "gradient"
        assert dream.control is not None
        assert dream.response > dream.control
        found.append(correlation(dream.image.astype(float), kernel))
    return found


def test_gradients_of_pytorch_show_known_filters(tmp_path: Path) -> None:
    assert min(known_correlations(torch_model(), tmp_path, Ascent())) >= 0.8


@needs_keras
@pytest.mark.slow
def test_gradients_of_keras_show_known_filters(tmp_path: Path) -> None:
    assert min(known_correlations(keras_model(), tmp_path, Ascent())) >= 0.8


def slopes_are_true(model: FrameworkModel, to_input: Callable[[Any], Any]) -> None:
    """The oracle holds no gradient: the filters are linear, and what they see is known."""
    assert isinstance(model, Exciting)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, SIDE, SIDE, 3))
    channels = np.array([2, 0, 1, 0])
    layer = model.layers[0].name
    given = to_input(images).astype(np.float32)
    responses, slopes = model.excitations(given, layer, channels, at="centre")
    middle = slice(SIDE // 2 - REACH // 2, SIDE // 2 + REACH // 2 + 1)
    expected = np.zeros_like(images)
    expected[:, middle, middle] = kernels()[channels]
    biases = np.array([0.5, 0.0, -0.5])[channels]
    np.testing.assert_allclose(slopes, to_input(expected), atol=1e-6)
    np.testing.assert_allclose(
        responses, (images * expected).sum(axis=(1, 2, 3)) + biases, rtol=1e-4
    )
    means, even = model.excitations(given, layer, channels, at="channel")
    step = to_input(rng.standard_normal(images.shape)).astype(np.float32)
    ahead, _ = model.excitations(given + step, layer, channels, at="channel")
    np.testing.assert_allclose(ahead - means, (even * step).sum(axis=(1, 2, 3)), atol=1e-5)


def channels_first(images: NDArray[Any]) -> NDArray[Any]:
    return images.transpose(0, 3, 1, 2)


def test_slopes_of_pytorch_are_true() -> None:
    slopes_are_true(torch_model(), channels_first)


@needs_keras
@pytest.mark.slow
def test_slopes_of_keras_are_true() -> None:
    slopes_are_true(keras_model(), lambda images: images)


def test_another_model_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "known.onnx"
    export(torch_model(), path, settings=SETTINGS, source="known")
    bench = prepare_unjudged(read_subject(path), SETTINGS)
    wanted = bench.roster.filters[:1]
    with pytest.raises(AdapterError, match="other does not compute what the ONNX model does"):
        dream_filters(bench, wanted, DreamSettings(), source=("other", torch_model(-1.0)))
    active = prepare_unjudged(read_subject(path), replace(SETTINGS, sites_at="activation"))
    with pytest.raises(SettingsError, match="pre-activation"):
        dream_filters(active, wanted, DreamSettings(), source=("known", torch_model()))


def test_a_model_without_a_map_of_layers_takes_no_source(tmp_path: Path) -> None:
    import onnx

    from tests.dreams.known_filters import known_model

    onnx.save(known_model(), tmp_path / "known.onnx")
    bench = prepare_unjudged(read_subject(tmp_path / "known.onnx"), SETTINGS)
    with pytest.raises(AdapterError, match="no map of layers; make it with repairkit export"):
        dream_filters(bench, [Filter("seen", 0)], DreamSettings(), source=("known", torch_model()))
