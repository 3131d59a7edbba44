"""What holds of a repair that was taken home into a Keras model, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repairkit.attacks import Pgd
from repairkit.core.errors import AdapterError
from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.core.framework import FreshAttacks, Layer, LayerMap, MappedLayer
from repairkit.formats.patch_file import PatchFile
from repairkit.graph.baking import bake
from repairkit.graph.kinds.sites import survey
from repairkit.jobs.attack.attacking import AttackSettings, attack
from repairkit.jobs.export.exporting import export
from repairkit.jobs.repair.patching import patch
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.setup.settings import settle
from repairkit.jobs.setup.subject import read_subject
from repairkit_adapters.keras.keras_runtime import quiet
from repairkit_adapters.keras_models import apply_patch, wrap
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
    file = bake(survey(onnx.load(done.out)), both).model
    apply_patch(model, both, layers=done.map_file)
    are_equal(np.asarray(model(images, training=False)), run(file, {input_name(file): images})[0])


def _small() -> Any:
    keras = architectures.keras_module()
    layers = keras.layers
    x = inputs = keras.Input((10, 10, 2))
    for name in ("first", "second"):
        x = layers.Conv2D(5, 3, use_bias=False, name=name)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(4, 3, activation="relu", name="third")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return architectures.settled(keras.Model(inputs, layers.Dense(4, activation="softmax")(x)))


def _own_map(network: Any) -> LayerMap:
    """Sites that are called as the layers are."""
    mapped = tuple(MappedLayer(layer, layer.name) for layer in network.layers)
    return LayerMap("keras", network.input_shape, mapped)


def test_further_training_leaves_frozen_filters_blind() -> None:
    keras = architectures.keras_module()
    model = _small()
    layers = _own_map(wrap(model))
    apply_patch(model, some_filters(layers), layers=layers)
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    blind = [n.gamma.numpy() == 0 for n in norms]
    assert [int(b.sum()) for b in blind] == [2] * len(norms)
    images = architectures.images((10, 10, 2), 8)
    with quiet():
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        model.fit(images, np.arange(8) % 4, batch_size=4, epochs=5, verbose=0)
    for norm, was in zip(norms, blind, strict=True):
        np.testing.assert_array_equal(norm.gamma.numpy() == 0, was)
    kernels = [n.kernel.numpy() for n in model.layers if isinstance(n, keras.layers.Conv2D)]
    assert [int((~k.any((0, 1, 2))).sum()) for k in kernels] == [2] * len(norms)


def test_a_patched_network_is_the_repaired_model_and_leaves_the_given_one_as_it_is() -> None:
    model = _small()
    network = wrap(model)
    layers = _own_map(network)
    chosen = some_filters(layers)
    images, labels = architectures.images((10, 10, 2)), np.arange(8) % 4
    before = network.outputs(images)
    file = PatchFile(
        patch=chosen,
        edits=(),
        source_digest="",
        result_digest="",
        sites_at="after",
        include=(),
        output="",
    )
    frozen = network.patched(file, layers)
    np.testing.assert_array_equal(network.outputs(images), before)
    held = (network.layers[1].name, np.arange(8) % 4, np.ones(8, np.float32))
    found = [frozen.outputs(images), *frozen.loss_gradients(images, labels)]
    with frozen.freezing(*held):
        found.append(frozen.outputs(images))
    np.testing.assert_array_equal(network.outputs(images), before)
    apply_patch(model, chosen, layers=layers)
    repaired = wrap(model)
    wanted = [repaired.outputs(images), *repaired.loss_gradients(images, labels)]
    with repaired.freezing(*held):
        wanted.append(repaired.outputs(images))
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()
    assert np.abs(before - wanted[0]).max() > 1e-2 * np.abs(before).max()


def test_a_repaired_model_is_attacked_afresh(tmp_path: Path) -> None:
    keras = architectures.keras_module()
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(6, 3, activation="relu")(inputs)
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(x))
    model = architectures.settled(keras.Model(inputs, outputs))
    images = architectures.images((8, 8, 1), 120)
    network = wrap(model)
    np.savez(tmp_path / "data.npz", x=images, y=network.outputs(images).argmax(1))
    settings = settle({"data": tmp_path / "data.npz"}, None)
    done = export(network, tmp_path / "model.onnx", settings=settings)
    subject = read_subject(done.out)
    how = AttackSettings(Pgd(epsilon=0.5, n_steps=10, step_size=0.1), (-4.0, 4.0), 20)
    made = attack(subject, settings, how, out=tmp_path / "made.npz", source=("own", network))
    repair = PatchSettings(
        remove=(Filter(str(done.layers.layers[0].site), 2),),
        attacks=FreshAttacks(("own", network)),
    )
    patched = patch(
        subject, replace(settings, data=made.out), repair, out=tmp_path / "repaired.onnx"
    )
    fresh = patched.document["attacks"][1]
    assert (fresh["knowledge"], fresh["n_images"]) == ("white-box", 20)
    assert fresh["after"]["attack_success"]["value"] > 0.5


def test_what_the_map_does_not_tell_is_refused() -> None:
    model = architectures.nested()
    layer = Layer("body/conv", "Conv2D", 6)
    layers = LayerMap("keras", (12, 12, 3), (MappedLayer(layer, "site", (2,)),))

    def one(name: str, channel: int) -> Patch:
        return Patch((FrozenFilter(Filter(name, channel), 0.5),))

    with pytest.raises(AdapterError, match="does not say which layer the filter other:0 comes"):
        apply_patch(model, one("other", 0), layers=layers)
    with pytest.raises(AdapterError, match=r"not proven for .*body/conv:2"):
        apply_patch(model, one("site", 2), layers=layers)
    apply_patch(model, one("site", 2), layers=layers, unproven=True)
    elsewhere = LayerMap("pytorch", (3, 12, 12), layers.layers)
    with pytest.raises(AdapterError, match="comes from pytorch, and keras was expected"):
        apply_patch(model, one("site", 0), layers=elsewhere)
    with pytest.raises(AdapterError, match=r"give layers=, the \.onnx file"):
        apply_patch(model, one("site", 0))
    with pytest.raises(AdapterError, match=r"no channel 1 in a layer 'body/conv'"):
        apply_patch(architectures.plain(), one("site", 1), layers=layers)
    with pytest.raises(AdapterError, match=r"keras\.Model was expected"):
        apply_patch("model", one("site", 1), layers=layers)
