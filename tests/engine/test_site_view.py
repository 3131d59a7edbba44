"""What a site sees is found by trial, and a crop gives the responses of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from repairkit.core.filters import Site
from repairkit.engine.runner import OpenModel
from repairkit.engine.site_view import CENTRE, CHANNEL, Scenery, Window, open_view
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.kinds.sites import survey
from repairkit.graph.protos import GraphIndex
from repairkit.graph.structure import receptive_field
from tests import zoo
from tests.dreams.known_filters import REACH, SIDE, known_model


def opened(model: ModelProto, image: str = "image") -> OpenModel:
    output = model.graph.output[0].name
    return OpenModel(model=model, image=image, output=output, step=fixed_batch(model, image))


def scenery(shape: tuple[int, ...], axes: tuple[int, int]) -> Scenery:
    noise = np.random.default_rng(0).uniform(-1, 1, (6, *shape)).astype(np.float32)
    return Scenery(blank=np.full(shape, 0.25, np.float32), noise=noise, axes=axes)


def sites(model: ModelProto) -> dict[str, Site]:
    return {site.name: site for site in survey(model).sites}


@pytest.mark.parametrize("batch", ["n", 1])
def test_a_window_is_what_the_filter_sees(batch: int | str) -> None:
    model = known_model(batch)
    view = open_view(
        opened(model), sites(model)["seen"], scenery((3, SIDE, SIDE), (2, 3)), at=CENTRE
    )
    middle = SIDE // 2 - REACH // 2
    assert view.window == Window(middle, middle, REACH, REACH)
    assert view.crop.height < SIDE
    # The response is the product of kernel and picture, which nothing around it changes.
    kernels = GraphIndex(model).initializers["kernels"]
    weights = np.frombuffer(kernels.raw_data, np.float32).reshape(tuple(kernels.dims))
    pictures = np.random.default_rng(1).uniform(-1, 1, (5, 3, REACH, REACH)).astype(np.float32)
    expected = np.einsum("nchw,kchw->nk", pictures, weights)
    np.testing.assert_allclose(view.responses(pictures), expected, rtol=1e-4, atol=1e-5)


def test_the_mean_over_the_map_is_about_the_whole_image() -> None:
    model = known_model()
    scene = scenery((3, SIDE, SIDE), (2, 3))
    site = sites(model)["seen"]
    view = open_view(opened(model), site, scene, at=CHANNEL)
    assert view.window == view.crop == scene.whole
    maps = opened(model).tap((site.tensor,)).run(scene.noise)[site.tensor]
    np.testing.assert_allclose(view.responses(scene.noise), maps.mean(axis=(2, 3)), atol=1e-5)


@zoo.needs_zoo
@pytest.mark.parametrize(
    ("name", "axes", "shape"),
    [
        ("mlperf_resnet8", (1, 2), (32, 32, 3)),
        pytest.param("mesonet", (1, 2), (256, 256, 3), marks=pytest.mark.slow),
    ],
)
def test_windows_of_real_models_are_their_receptive_fields(
    name: str, axes: tuple[int, int], shape: tuple[int, ...]
) -> None:
    model = zoo.load(zoo.model(name))
    image = GraphIndex(model).inputs[0]
    scene = scenery(shape, axes)
    for site in list(sites(model).values())[:4]:
        view = open_view(opened(model, image), site, scene, at=CENTRE)
        field = receptive_field(GraphIndex(model), site.tensor, image)
        assert (view.window.height, view.window.width) == field
        assert view.crop.height < shape[0]
        pictures = view.window.of(scene.noise, axes)
        whole = np.repeat(scene.blank[None], len(pictures), axis=0)
        view.window.of(whole, axes)[...] = pictures
        maps = opened(model, image).tap((site.tensor,)).run(whole)[site.tensor]
        maps = np.moveaxis(maps, site.channel_axis, 1)
        middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
        spread = np.ptp(middle, axis=0)
        assert (np.abs(view.responses(pictures) - middle) <= 1e-3 * spread + 1e-5).all()


@zoo.needs_zoo
def test_a_graph_that_takes_one_size_alone_runs_whole_images() -> None:
    model = zoo.load(zoo.model("gender_mini_XCEPTION"))  # its first node is a Reshape
    image = GraphIndex(model).inputs[0]
    scene = scenery((64, 64, 1), (1, 2))
    site = next(iter(sites(model).values()))
    view = open_view(opened(model, image), site, scene, at=CENTRE)
    assert (view.window.height, view.window.width) == (3, 3)
    assert view.crop == scene.whole
