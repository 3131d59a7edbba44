"""Where Keras models come from, and one clear line where one cannot come."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import AdapterError, ExportError
from repairkit.core.framework import LoadOptions
from repairkit_adapters.keras_models import ADAPTER, wrap
from tests.adapters.keras import architectures
from tests.adapters.keras.needed import needs_keras
from tests.conftest import Answer

PLAIN = LoadOptions()


def test_sources_are_taken_by_their_looks_and_nothing_is_imported() -> None:
    for source in ("a.keras", "b.H5", "c.hdf5", "keras.applications:ResNet50"):
        assert ADAPTER.takes(source)
    for source in ("a.pt", "my.models:factory", "model.onnx", "torchvision.models:resnet18"):
        assert not ADAPTER.takes(source)


@pytest.fixture(scope="module")
def small() -> Any:
    keras = architectures.keras_module()
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Conv2DTranspose(3, 3, activation="relu", name="up")(x)
    x = keras.layers.DepthwiseConv2D(3, name="depth")(x)
    x = keras.layers.Flatten()(x)
    return architectures.settled(keras.Model(inputs, keras.layers.Dense(3, "softmax")(x)))


@needs_keras
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_file_gives_the_model_that_was_saved(small: Any, tmp_path: Path, ending: str) -> None:
    with _no_warning():
        small.save(tmp_path / f"model{ending}")
    network = ADAPTER.load(str(tmp_path / f"model{ending}"), PLAIN)
    images = architectures.images((8, 8, 3))
    np.testing.assert_allclose(network.outputs(images), wrap(small).outputs(images), rtol=1e-5)
    assert [layer.name for layer in network.layers] == ["conv", "up", "depth"]


@needs_keras
def test_a_saved_model_shows_its_convolutions(small: Any, tmp_path: Path) -> None:
    with _no_warning():
        small.export(tmp_path / "saved", verbose=False)
    assert ADAPTER.takes(str(tmp_path / "saved"))
    network, twin = ADAPTER.load(str(tmp_path / "saved"), PLAIN), wrap(small)
    images = architectures.images((8, 8, 3), 2)
    np.testing.assert_allclose(network.outputs(images), twin.outputs(images), rtol=1e-5, atol=1e-7)
    assert [layer.name for layer in network.layers] == ["conv", "up", "depth"]
    assert [layer.n_channels for layer in network.layers] == [4, 3, 3]
    assert [layer.kind for layer in network.layers] == [
        "Conv2D",
        "Conv2DTranspose",
        "DepthwiseConv2D",
    ]
    channels, constants = np.array([0, 2]), np.array([0.7, -0.4], np.float32)
    for here, there in zip(network.layers, twin.layers, strict=True):
        with network.freezing(here.name, channels, constants):
            found = network.outputs(images)
        with twin.freezing(there.name, channels, constants):
            np.testing.assert_allclose(found, twin.outputs(images), rtol=1e-5, atol=1e-7)
    ours, theirs = network.channel_values(images), twin.channel_values(images)
    assert ours.keys() == theirs.keys() == {"conv", "up", "depth"}
    frozen = np.array([[True, False, True], [False, True, True]])
    levels = np.array([0.7, -0.4, 0.2], np.float32)
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-5, atol=1e-6)
        if values.shape[1] == 3:
            with network.freezing_many(name, frozen, levels):
                found = network.outputs(images)
            with twin.freezing_many(name, frozen, levels):
                np.testing.assert_allclose(found, twin.outputs(images), rtol=1e-5, atol=1e-7)
    labels = np.array([1, 2])
    for found, wanted in zip(
        network.loss_gradients(images, labels), twin.loss_gradients(images, labels), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@needs_keras
def test_a_saved_model_that_reaches_files_needs_trust(tmp_path: Path) -> None:
    from repairkit_adapters.keras.keras_runtime import load_runtime, quiet

    tf = load_runtime().tensorflow

    class Reader(tf.Module):  # type: ignore[misc, name-defined]
        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return x + tf.strings.to_number(tf.io.read_file("/etc/hostname"))

    with quiet():
        tf.saved_model.save(Reader(), str(tmp_path))
    with pytest.raises(AdapterError, match=r"operation ReadFile.*--trust"):
        ADAPTER.load(str(tmp_path), PLAIN)


@needs_keras
def test_a_factory_takes_weights_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_keras_factory.py").write_text(
        "import keras\n"
        "def make(units=3):\n"
        "    inputs = keras.Input((8, 8, 3))\n"
        "    x = keras.layers.Conv2D(4, 3)(inputs)\n"
        "    return keras.Model(inputs, keras.layers.Dense(units)(keras.layers.Flatten()(x)))\n"
        "def wide():\n"
        "    return make(7)\n"
        "def broken():\n"
        "    raise ValueError('no data')\n"
        "nothing = 3\n"
    )
    import own_keras_factory  # type: ignore[import-not-found]

    trained = architectures.settled(own_keras_factory.make())
    with _no_warning():
        trained.save_weights("own.weights.h5")
    options = LoadOptions(weights=Path("own.weights.h5"))
    network = ADAPTER.load("own_keras_factory:make", options)
    images = architectures.images((8, 8, 3))
    np.testing.assert_allclose(network.outputs(images), wrap(trained).outputs(images), rtol=1e-5)
    for source, fault in (
        ("own_keras_factory:wide", "own.weights.h5: the weights do not fit own_keras_factory:wide"),
        ("own_keras_factory:gone", "has no 'gone'"),
        ("own_keras_factory:nothing", "gives a int, and a keras.Model was expected"),
        ("own_missing:make", "'own_missing' cannot be imported"),
        ("keras.applications:Nothing", "has no model 'Nothing'; it has ConvNeXtBase"),
        ("own_keras_factory:broken", "raised an error \\(no data"),
        ("missing.keras", "missing.keras: holds its own weights"),
    ):
        _is_one_line(source, fault, options)
    _is_one_line("missing.keras", "missing.keras: there is no such file")


@needs_keras
def test_the_command_says_where_nothing_can_be_frozen(
    tmp_path: Path, repairkit: Callable[..., Answer]
) -> None:
    keras = architectures.keras_module()
    inputs = keras.Input((5,))
    with _no_warning():
        keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "dense.keras")
    answer = repairkit("export", "dense.keras")
    assert answer.code == 0, answer.err
    assert "note: the model has no filters that can be frozen" in answer.out
    assert (tmp_path / "dense.onnx").is_file()


@needs_keras
def test_unreadable_files_are_told_in_one_line(small: Any, tmp_path: Path) -> None:
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "text.h5").write_text("no model")
    with _no_warning():
        small.save_weights(tmp_path / "bare.weights.h5")
        small.save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"no model")
    for name, fault in (
        ("text.keras", "cannot be read as a Keras model"),
        ("text.h5", "cannot be read as a Keras model"),
        ("cut.keras", "cannot be read as a Keras model"),
        ("bare.weights.h5", "it holds weights alone"),
        ("saved", "cannot be read as a SavedModel"),
    ):
        _is_one_line(str(tmp_path / name), fault)


@needs_keras
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_lambda_layer_is_run_with_trust_alone(tmp_path: Path, ending: str) -> None:
    keras = architectures.keras_module()
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Lambda(lambda image: image * 2.0, name="doubled")(inputs)
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(x)))
    source = str(tmp_path / f"model{ending}")
    with _no_warning():
        model.save(source)
    _is_one_line(source, "holds code that would run: the Lambda layer 'doubled'.*--trust")
    network = ADAPTER.load(source, LoadOptions(trust=True))
    images = architectures.images((6, 6, 1))
    np.testing.assert_allclose(network.outputs(images), wrap(model).outputs(images), rtol=1e-5)


@needs_keras
def test_an_unknown_layer_is_named(tmp_path: Path) -> None:
    keras = architectures.keras_module()

    class Halved(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any) -> Any:
            return inputs / 2

    inputs = keras.Input((6, 6, 1))
    with _no_warning():
        keras.Model(inputs, Halved()(inputs)).save(tmp_path / "model.keras")
    _is_one_line(str(tmp_path / "model.keras"), ":Halved; none of it was run: add --trust")
    trusting = LoadOptions(trust=True)
    _is_one_line(
        str(tmp_path / "model.keras"), "'Halved' is not known; give `module:factory`", trusting
    )


@needs_keras
def test_a_layer_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    keras = architectures.keras_module()
    tf = sys.modules["tensorflow"]

    class Inverted(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any) -> Any:
            return tf.linalg.logdet(tf.linalg.matrix_transpose(inputs[..., 0]) + tf.eye(6))

    inputs = keras.Input((6, 6, 1))
    network = wrap(keras.Model(inputs, Inverted(name="own_layer")(inputs)))
    with pytest.raises(ExportError, match="own_layer"):
        network.export(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@needs_keras
def test_the_size_of_images_is_asked_for_where_the_model_takes_any() -> None:
    keras = architectures.keras_module()
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(inputs))
    model = keras.Model(inputs, x)
    with pytest.raises(AdapterError, match="--input-shape"):
        wrap(model)
    assert wrap(model, (9, 7, 3)).input_shape == (9, 7, 3)
    with pytest.raises(AdapterError, match="not \\(9, 7, 1\\)"):
        wrap(model, (9, 7, 1))
    two = keras.Model([inputs, keras.Input((3,), name="more")], x)
    with pytest.raises(AdapterError, match="has 2 inputs"):
        wrap(two)


@needs_keras
@pytest.mark.parametrize("missing", ["keras", "tensorflow", "tf2onnx"])
def test_a_missing_package_is_told_with_the_extra(
    small: Any, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = wrap(small)
    monkeypatch.setitem(sys.modules, missing, None)
    fault = rf"{missing} .*pip install 'repairkit\[keras\]'"
    if missing == "tf2onnx":
        with pytest.raises(AdapterError, match=fault):
            network.export(tmp_path / "model.onnx")
    else:
        _is_one_line("model.keras", fault)


@needs_keras
def test_another_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = architectures.keras_module()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(AdapterError, match=r"backend jax.*KERAS_BACKEND=tensorflow"):
        ADAPTER.load("model.keras", PLAIN)


@needs_keras
@pytest.mark.slow
def test_the_terminal_stays_quiet_and_one_model_gives_one_file(small: Any, tmp_path: Path) -> None:
    with _no_warning():
        small.save(tmp_path / "model.keras")
    code = (
        "from pathlib import Path\n"
        "from repairkit.core.framework import LoadOptions\n"
        "from repairkit_adapters.keras_models import ADAPTER\n"
        "network = ADAPTER.load('model.keras', LoadOptions())\n"
        "for name in ('a.onnx', 'b.onnx'):\n"
        "    network.export(Path(name))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    network = ADAPTER.load(str(tmp_path / "model.keras"), PLAIN)
    network.export(tmp_path / "c.onnx")
    assert len({(tmp_path / f"{name}.onnx").read_bytes() for name in "abc"}) == 1


def _is_one_line(source: str, fault: str, options: LoadOptions = PLAIN) -> None:
    with pytest.raises(AdapterError, match=fault) as caught:
        ADAPTER.load(source, options)
    assert "\n" not in str(caught.value)


def _no_warning() -> Any:
    from repairkit_adapters.keras.keras_runtime import quiet

    return quiet()
