"""Keras models go to ONNX with nearly every filter proven, and repairs come home from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repairkit.core.errors import AdapterError
from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.core.framework import LayerMap, LoadOptions
from repairkit.core.results import Exported
from repairkit.graph.baking import bake
from repairkit.graph.kinds.sites import find_sites, survey
from repairkit.jobs.export import group_proof
from repairkit.jobs.export.exporting import export
from repairkit.jobs.setup.settings import settle
from repairkit_adapters.keras.keras_runtime import quiet
from repairkit_adapters.keras_models import ADAPTER, apply_patch, wrap
from tests.adapters.keras import architectures
from tests.adapters.keras.needed import needs_keras
from tests.running import input_name, run

pytestmark = needs_keras


def exported(model: Any, folder: Path) -> Exported:
    """The model as ONNX, proven on images that are in a file."""
    network = wrap(model)
    images = architectures.images(network.input_shape, 8)
    np.savez(folder / "images.npz", x=images, y=np.zeros(8, np.int64))
    settings = settle({"data": folder / "images.npz"}, None)
    return export(network, folder / "model.onnx", settings=settings)


def some_filters(layers: LayerMap, per_layer: int = 2) -> Patch:
    """Some channels of every layer that became a site, at constants that make a difference."""
    rng = np.random.default_rng(2)
    frozen = [
        FrozenFilter(Filter(m.site, int(channel)), float(np.float32(rng.normal())))
        for m in layers.layers
        if m.site is not None
        for channel in rng.permutation(m.layer.n_channels)[:per_layer]
        if int(channel) not in m.unproven
    ]
    return Patch(tuple(frozen))


def are_equal(found: Any, wanted: Any) -> None:
    """To 1e-4 of the greatest, and with the same class on top."""
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    np.testing.assert_array_equal(found.argmax(-1), wanted.argmax(-1))


def _comes_round(model: Any, folder: Path, least: float = 0.99) -> Exported:
    done = exported(model, folder)
    assert done.relative <= 1e-4
    assert done.without_layer == ()
    assert done.n_mapped == done.n_filters
    assert done.n_proven >= least * done.n_filters, done.n_proven
    # Once more in ONNX Runtime alone, with another number of images.
    file = onnx.load(done.out)
    images = architectures.images(model.input_shape[1:], 3, seed=9)
    ours = run(file, {input_name(file): images})[0]
    theirs = np.asarray(model(images, training=False))
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    assert len(np.unique(theirs.reshape(3, -1).round(5), axis=0)) == 3
    return done


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "separable",
        pytest.param("unet", marks=pytest.mark.slow),
        pytest.param("squeezenet", marks=pytest.mark.slow),
        pytest.param("resnet", marks=pytest.mark.slow),
        pytest.param("densenet", marks=pytest.mark.slow),
        pytest.param("mobilenet", marks=pytest.mark.slow),
    ],
)
def test_a_network_comes_round_and_its_repair_comes_home(name: str, tmp_path: Path) -> None:
    model = architectures.settled(getattr(architectures, name)())
    _comes_home(model, _comes_round(model, tmp_path))


def test_names_of_layers_inside_models_and_of_second_calls_reach_the_map(tmp_path: Path) -> None:
    done = _comes_round(architectures.settled(architectures.nested()), tmp_path)
    sites = [site.name for site in find_sites(onnx.load(done.out))]
    assert {m.layer.name: m.site for m in done.layers.layers} == dict(
        zip(["encoder/conv", "body/conv", "body/twice", "body/twice#2"], sites, strict=True)
    )


def _comes_home(model: Any, done: Exported) -> None:
    """Freeze two channels of every layer in the ONNX file and in Keras; and save the latter."""
    patch = some_filters(done.layers)
    images = architectures.images(model.input_shape[1:], 8, seed=4)
    before = np.asarray(model(images, training=False))
    file = bake(survey(onnx.load(done.out)), patch).model
    wanted = run(file, {input_name(file): images})[0]
    assert apply_patch(model, patch, layers=done.out) is model
    are_equal(np.asarray(model(images, training=False)), wanted)
    assert np.abs(before - wanted).max() > 1e-2 * np.abs(wanted).max()
    saved = done.out.with_suffix(".keras")
    with quiet():
        model.save(saved)
        again = architectures.keras_module().models.load_model(saved)
        are_equal(np.asarray(again(images, training=False)), wanted)


def _application(name: str, size: int) -> Callable[[], Any]:
    def build() -> Any:
        factory = getattr(architectures.keras_module().applications, name)
        return factory(weights=None, input_shape=(size, size, 3), classes=5)

    return build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "n_filters"),
    [
        pytest.param(_application("InceptionV3", 75), 17216, id="InceptionV3"),
        pytest.param(_application("DenseNet121", 32), 10240, id="DenseNet121"),
        pytest.param(_application("MobileNetV2", 32), 17056, id="MobileNetV2"),
    ],
)
def test_a_large_application_comes_round(
    build: Callable[[], Any], n_filters: int, tmp_path: Path
) -> None:
    model = architectures.settled(build())
    done = _comes_round(model, tmp_path)
    assert done.n_filters == n_filters
    _comes_home(model, done)


def test_a_model_of_the_users_own_class_needs_the_size_of_images(tmp_path: Path) -> None:
    model = architectures.subclassed()
    with pytest.raises(AdapterError, match="--input-shape"):
        wrap(model)
    network = wrap(model, (10, 10, 3))
    assert [layer.name for layer in network.layers] == ["first/conv", "second/conv"]
    done = export(network, tmp_path / "model.onnx", settings=settle({}, None))
    assert done.n_proven == done.n_filters == 9


@pytest.mark.slow
def test_a_saved_model_comes_round(tmp_path: Path) -> None:
    model = architectures.settled(architectures.resnet())
    with quiet():
        model.export(tmp_path / "saved", verbose=False)
    network = ADAPTER.load(str(tmp_path / "saved"), LoadOptions())
    done = export(network, tmp_path / "model.onnx", settings=settle({}, None))
    assert done.n_mapped == done.n_filters == 108
    assert done.n_proven >= 107


def test_the_map_of_a_large_model_is_proven_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_proof, "MOST_WORK", 0.0)
    done = _comes_round(architectures.settled(architectures.nested()), tmp_path)
    assert done.layers.groups is not None
    assert done.layers.n_one_by_one < done.n_proven
