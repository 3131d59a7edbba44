"""Layers for which tf2onnx has no operator, or that compute in fewer bits, are exported as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import ExportError
from repairkit.engine.runner import Runner
from repairkit.graph.stored.model_files import read_model
from repairkit_adapters.keras_models import wrap
from tests.adapters.keras import architectures
from tests.adapters.keras.needed import needs_keras

pytestmark = needs_keras
SHAPE = (8, 8, 4)


def _exported(model: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of the Keras model itself, and of the ONNX file in ONNX Runtime."""
    wrap(model).export(path)
    images = architectures.images(SHAPE, 5)
    file = read_model(path)
    (name,) = [value.name for value in file.model.graph.input]
    runner = Runner(file.model, name, None)
    (output,) = runner.outputs
    return np.asarray(model(images, training=False), np.float32), runner.run(images)[output]


def _ending(x: Any) -> Any:
    keras = architectures.keras_module()
    return keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))


@pytest.mark.long
@pytest.mark.parametrize("activation", ["gelu", "celu"])
@pytest.mark.parametrize("kind", ["Conv2D", "SeparableConv2D", "Conv2DTranspose"])
def test_an_activation_without_an_operator_is_exported(
    activation: str, kind: str, tmp_path: Path
) -> None:
    keras = architectures.keras_module()
    inputs = keras.Input(SHAPE)
    layer = getattr(keras.layers, kind)(6, 3, activation=activation)
    model = architectures.settled(keras.Model(inputs, _ending(layer(inputs))))
    expected, found = _exported(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_operations_are_those_of_mathematics(tmp_path: Path) -> None:
    keras = architectures.keras_module()

    class Odd(keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any) -> Any:
            return keras.ops.concatenate(
                [
                    keras.ops.expm1(x),
                    keras.ops.log1p(keras.ops.abs(x)),
                    keras.ops.logaddexp(x, -x),
                    keras.activations.gelu(x, approximate=True),
                ]
            )

    inputs = keras.Input(SHAPE)
    model = architectures.settled(keras.Model(inputs, _ending(Odd()(inputs))))
    expected, found = _exported(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "dilated", "1d"])
def test_grouped_convolutions_are_one_layer_each(kind: str, tmp_path: Path) -> None:
    keras = architectures.keras_module()
    inputs = keras.Input(SHAPE)
    if kind == "1d":
        x = keras.layers.Reshape((64, 4))(inputs)
        x = keras.layers.Conv1D(6, 3, groups=2, padding="causal", name="grouped")(x)
        x = keras.layers.Reshape((8, 8, 6))(x)
    else:
        settings = {"dilation_rate": 2} if kind == "dilated" else {"strides": 2}
        x = keras.layers.Conv2D(6, 3, groups=2, padding="same", name="grouped", **settings)(inputs)
    model = architectures.settled(keras.Model(inputs, _ending(x)))
    expected, found = _exported(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    kernels = [n for n in read_model(tmp_path / "m.onnx").model.graph.node if n.op_type == "Conv"]
    assert len(kernels) == 1
    assert "convolution_op" not in vars(model.get_layer("grouped"))


def test_constants_of_a_layer_are_stored_in_the_file(tmp_path: Path) -> None:
    keras = architectures.keras_module()
    inputs = keras.Input(SHAPE)
    x = keras.layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0])(inputs)
    x = keras.layers.Conv2D(5, 3)(x)
    model = architectures.settled(keras.Model(inputs, _ending(x)))
    expected, found = _exported(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_layers_of_other_precision_are_exported_in_32_bits(policy: str, tmp_path: Path) -> None:
    keras = architectures.keras_module()
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3, dtype=policy, activation="gelu", name="other")(inputs)
    model = architectures.settled(keras.Model(inputs, _ending(x)))
    in_full = keras.models.clone_model(model)
    in_full.set_weights(model.get_weights())
    in_full.get_layer("other").dtype_policy = "float32"
    _, found = _exported(model, tmp_path / "m.onnx")
    expected = np.asarray(in_full(architectures.images(SHAPE, 5), training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert model.get_layer("other").dtype_policy.name == policy


def test_what_onnx_cannot_express_is_told_with_its_layer(tmp_path: Path) -> None:
    keras = architectures.keras_module()

    class Inverse(keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any) -> Any:
            return keras.ops.erfinv(keras.ops.tanh(x))

    inputs = keras.Input(SHAPE)
    x = Inverse(name="inverse_1")(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, _ending(x))
    with pytest.raises(ExportError, match="layer 'inverse_1' uses TensorFlow's Erfinv"):
        wrap(model).export(tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
