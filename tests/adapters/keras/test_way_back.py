"""What holds of a repair that was taken home into a Keras model, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from repairkit.core.errors import AdapterError
from repairkit.core.filters import Filter
from repairkit.core.framework import Layer
from repairkit.core.layer_map import LayerMap, MappedLayer
from repairkit.core.patch import FrozenFilter, Patch
from repairkit.graph.bake import bake
from repairkit_adapters.keras_models import apply_patch, wrap
from repairkit_adapters.keras_runtime import quiet
from tests.adapters.keras import architectures
from tests.adapters.keras.needed import needs_keras
from tests.adapters.keras.test_round_trips import are_equal, exported, some_filters
from tests.running import input_name, run

pytestmark = needs_keras


def test_a_layer_called_twice_is_frozen_in_both_calls_or_not_at_all(tmp_path: Path) -> None:
    model = architectures.settled(architectures.nested())
    done = exported(model, tmp_path)
    images = architectures.images(model.input_shape[1:])
    before = np.asarray(model(images, training=False))
    sites = {m.layer.name: str(m.site) for m in done.layers.layers}
    once = Patch((FrozenFilter(Filter(sites["body/twice"], 3), 0.25),))
    with pytest.raises(AdapterError, match="is called 2 times"):
        apply_patch(model, once, layers=done.map_file)
    np.testing.assert_array_equal(model(images, training=False), before)
    both = Patch((*once.frozen, FrozenFilter(Filter(sites["body/twice#2"], 3), 0.25)))
    file = bake(onnx.load(done.out), both).model
    apply_patch(model, both, layers=done.map_file)
    are_equal(np.asarray(model(images, training=False)), run(file, {input_name(file): images})[0])


def test_further_training_leaves_frozen_filters_blind() -> None:
    keras = architectures.keras_module()
    model = architectures.settled(architectures.resnet())
    mapped = tuple(MappedLayer(layer, layer.name) for layer in wrap(model).layers)
    layers = LayerMap("keras", (24, 24, 3), mapped)
    apply_patch(model, some_filters(layers), layers=layers)
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    blind = [n.gamma.numpy() == 0 for n in norms]
    assert [int(b.sum()) for b in blind] == [2] * len(norms)
    images = architectures.images((24, 24, 3), 8)
    with quiet():
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        model.fit(images, np.arange(8) % 5, batch_size=4, epochs=5, verbose=0)
    for norm, was in zip(norms, blind, strict=True):
        np.testing.assert_array_equal(norm.gamma.numpy() == 0, was)
    kernels = [n.kernel.numpy() for n in model.layers if isinstance(n, keras.layers.Conv2D)]
    assert [int((~k.any((0, 1, 2))).sum()) for k in kernels] == [2] * len(norms)


def test_what_the_map_does_not_tell_is_refused() -> None:
    model = architectures.nested()
    layer = Layer("body/conv", "Conv2D", 6)
    layers = LayerMap("keras", (12, 12, 3), (MappedLayer(layer, "site", (2,)),))

    def one(name: str, channel: int) -> Patch:
        return Patch((FrozenFilter(Filter(name, channel), 0.5),))

    with pytest.raises(AdapterError, match="nothing tells which layer the filter other:0 is"):
        apply_patch(model, one("other", 0), layers=layers)
    with pytest.raises(AdapterError, match=r"not proven.*channel 2 of body/conv"):
        apply_patch(model, one("site", 2), layers=layers)
    apply_patch(model, one("site", 2), layers=layers, unproven=True)
    elsewhere = LayerMap("pytorch", (3, 12, 12), layers.layers)
    with pytest.raises(AdapterError, match="comes from pytorch, and keras was expected"):
        apply_patch(model, one("site", 0), layers=elsewhere)
    with pytest.raises(AdapterError, match=r"give layers=, the \.onnx file"):
        apply_patch(model, one("site", 0))
    with pytest.raises(AdapterError, match=r"no channel 1 of a layer 'body/conv'"):
        apply_patch(architectures.plain(), one("site", 1), layers=layers)
    with pytest.raises(AdapterError, match=r"keras\.Model was expected"):
        apply_patch("model", one("site", 1), layers=layers)
