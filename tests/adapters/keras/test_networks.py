"""A Keras model from outside: its layers, filters held at constants, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import AdapterError
from repairkit_adapters.keras_models import wrap
from tests.adapters.keras import architectures
from tests.adapters.keras.needed import needs_keras

pytestmark = needs_keras


@pytest.fixture(
    scope="module",
    params=[pytest.param("plain", marks=pytest.mark.slow), "separable", "nested"],
)
def model(request: pytest.FixtureRequest) -> Any:
    return architectures.settled(getattr(architectures, request.param)())


def test_layers_have_the_names_that_get_layer_takes() -> None:
    network = wrap(architectures.nested())
    assert [layer.name for layer in network.layers] == [
        "encoder/conv",
        "body/conv",
        "body/twice",
        "body/twice#2",
    ]
    assert {layer.kind for layer in network.layers} == {"Conv2D"}


def test_a_separable_convolution_has_two_stages_of_filters() -> None:
    network = wrap(architectures.separable())
    found = {layer.name: layer.n_channels for layer in network.layers}
    assert found["sep_bias/depthwise"] == 6
    assert found["sep_bias/pointwise"] == 6
    assert found["depth_bias"] == 12


def test_a_frozen_channel_is_at_its_constant_and_the_others_are_as_they_were(model: Any) -> None:
    network = wrap(model)
    images = architectures.images(network.input_shape, 3)
    plain = network.outputs(images)
    rng = np.random.default_rng(5)
    for stage in network.stages:
        channels = rng.integers(0, stage.layer.n_channels, 3)
        constants = rng.normal(size=3).astype(np.float32)
        with network.freezing(stage.layer.name, channels, constants):
            frozen = network.outputs(images)
            # An image's row depends on its own channel alone.
            with network.freezing(stage.layer.name, channels[::-1], constants[::-1]):
                turned = network.outputs(images[::-1])
        np.testing.assert_allclose(turned[::-1], frozen, rtol=1e-5, atol=1e-6)
        assert not np.allclose(frozen, plain, rtol=1e-5, atol=1e-7), stage.layer.name
    np.testing.assert_array_equal(network.outputs(images), plain)
    np.testing.assert_allclose(plain, model(images, training=False), rtol=1e-5, atol=1e-6)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_channels_are_read_and_frozen_many_at_once(model: Any) -> None:
    network = wrap(model)
    images = architectures.images(network.input_shape, 2)
    plain = network.outputs(images)
    values = network.channel_values(images)
    assert list(values) == [layer.name for layer in network.layers]
    for layer in network.layers:
        read = values[layer.name]
        assert read.shape[:2] == (2, layer.n_channels)
        means = read.mean((0, *range(2, read.ndim)))
        one = np.eye(layer.n_channels, dtype=bool)[[1, 0]]
        with network.freezing_many(layer.name, one, means):
            many = network.outputs(images)
        with network.freezing(layer.name, np.array([1, 0]), means[[1, 0]]):
            np.testing.assert_array_equal(many, network.outputs(images))
        with network.freezing_many(layer.name, np.zeros_like(one), means):
            np.testing.assert_allclose(network.outputs(images), plain, rtol=1e-5, atol=1e-7)


def test_an_unknown_layer_or_channel_is_told() -> None:
    network = wrap(architectures.nested())
    one = np.zeros(1, np.float32)
    with (
        pytest.raises(AdapterError, match="no layer 'conv'; its layers are encoder/conv"),
        network.freezing("conv", np.zeros(1, np.intp), one),
    ):
        pass
    with (
        pytest.raises(AdapterError, match="has 6 channels"),
        network.freezing("body/conv", np.full(1, 6), one),
    ):
        pass


def _classifier(ending: str) -> Any:
    keras = architectures.keras_module()
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Flatten()(keras.layers.Conv2D(3, 2, activation="tanh")(inputs))
    units = 1 if ending == "one sigmoid" else 3
    logits = keras.layers.Dense(units, name="logits")(x)
    if ending == "softmax":
        logits = keras.layers.Softmax()(logits)
    elif ending == "average of softmaxes":
        softmax = keras.layers.Softmax()
        logits = keras.layers.Average()([softmax(logits), softmax(logits)])
    elif ending.endswith("sigmoid"):
        logits = keras.layers.Activation("sigmoid")(logits)
    return architectures.settled(keras.Model(inputs, logits), seed=3)


@pytest.mark.parametrize(
    "ending", ["logits", "softmax", "average of softmaxes", "sigmoid", "one sigmoid"]
)
def test_losses_are_cross_entropies_and_gradients_are_their_slopes(ending: str) -> None:
    model = _classifier(ending)
    network = wrap(model)
    images = architectures.images((4, 4, 2), 3)
    labels = np.array([0, 1, 1])
    losses, gradients = network.loss_gradients(images, labels)
    scores = network.outputs(images).astype(np.float64)
    if ending == "one sigmoid":
        shares = np.where(labels == 1, scores[:, 0], 1 - scores[:, 0])
    else:
        shares = scores[np.arange(3), labels]
    if ending == "logits":
        shares = np.exp(shares) / np.exp(scores).sum(1)
    np.testing.assert_allclose(losses, -np.log(shares), rtol=1e-4)
    step = np.zeros_like(images)
    step[:, 1, 2, 1] = 1e-2
    slopes = (
        network.loss_gradients(images + step, labels)[0]
        - network.loss_gradients(images - step, labels)[0]
    ) / 2e-2
    np.testing.assert_allclose(gradients[:, 1, 2, 1], slopes, rtol=2e-2, atol=1e-4)
    assert np.abs(slopes).max() > 1e-3


def test_gradients_of_an_image_to_image_model_are_refused() -> None:
    keras = architectures.keras_module()
    inputs = keras.Input((4, 4, 2))
    network = wrap(keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs)))
    images = architectures.images(network.input_shape, 2)
    with pytest.raises(AdapterError, match="one row of scores per image") as caught:
        network.loss_gradients(images, np.zeros(2, np.intp))
    assert "\n" not in str(caught.value)


def test_images_of_another_size_are_refused_in_one_line() -> None:
    network = wrap(architectures.nested())
    with pytest.raises(AdapterError, match=r"images of shape \(7, 7, 3\)") as caught:
        network.outputs(np.zeros((2, 7, 7, 3), np.float32))
    assert "\n" not in str(caught.value)
