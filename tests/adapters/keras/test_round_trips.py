"""Keras models go to ONNX with every filter mapped, and nearly all of them proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repairkit.graph.sites import find_sites
from repairkit.workflows.exporting import Exported, export
from repairkit.workflows.settings import settle
from repairkit_adapters.keras_models import wrap
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


@pytest.mark.parametrize("name", ["plain", "separable", "squeezenet", "resnet", "densenet", "unet"])
def test_a_small_network_comes_round(name: str, tmp_path: Path) -> None:
    _comes_round(architectures.settled(getattr(architectures, name)()), tmp_path)


def test_names_of_layers_inside_models_and_of_second_calls_reach_the_map(tmp_path: Path) -> None:
    done = _comes_round(architectures.settled(architectures.nested()), tmp_path)
    sites = [site.name for site in find_sites(onnx.load(done.out))]
    assert {m.layer.name: m.site for m in done.layers.layers} == dict(
        zip(["encoder/conv", "body/conv", "body/twice", "body/twice#2"], sites, strict=True)
    )


@pytest.mark.slow
def test_mobilenet_comes_round(tmp_path: Path) -> None:
    done = _comes_round(architectures.settled(architectures.mobilenet()), tmp_path)
    assert done.n_filters == 3616


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
    ],
)
def test_a_large_application_comes_round(
    build: Callable[[], Any], n_filters: int, tmp_path: Path
) -> None:
    done = _comes_round(architectures.settled(build()), tmp_path)
    assert done.n_filters == n_filters


def test_a_saved_model_comes_round(tmp_path: Path) -> None:
    from repairkit.core.framework import LoadOptions
    from repairkit_adapters.keras_models import ADAPTER
    from repairkit_adapters.keras_runtime import quiet

    model = architectures.settled(architectures.resnet())
    with quiet():
        model.export(tmp_path / "saved", verbose=False)
    network = ADAPTER.load(str(tmp_path / "saved"), LoadOptions())
    done = export(network, tmp_path / "model.onnx", settings=settle({}, None))
    assert done.n_mapped == done.n_filters == 108
    assert done.n_proven >= 107
