"""Random copies of layers hold the same numbers, and leave the model as it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from repairkit.engine.runner import OpenModel
from repairkit.graph.kinds.sites import survey
from repairkit.graph.random_layers import with_random_layers
from tests import models
from tests.running import input_name

PLAIN = ("no_bias", "normalised", "depthwise", "transposed_grouped", "constant_nodes", "own_bias")


@pytest.mark.parametrize("layer", PLAIN)
def test_copies_have_the_layers_numbers_in_another_order(layer: str) -> None:
    model = models.LAYERS[layer]()
    before = model.SerializeToString(deterministic=True)
    known = survey(model)
    site = known.sites[0]
    changed, copies = with_random_layers(known, {site.name: 2}, seed=1)
    assert model.SerializeToString(deterministic=True) == before
    stored = {t.name: numpy_helper.to_array(t) for t in changed.graph.initializer}
    kernels = [stored[name] for name in stored if "/random" in name]
    own = known.constants.numbers(known.index.nodes[0 if layer != "constant_nodes" else 2], 1)
    assert own is not None
    for kernel in kernels:
        assert kernel.shape == own.shape
        np.testing.assert_array_equal(np.sort(kernel.reshape(-1)), np.sort(own.reshape(-1)))
        assert not np.array_equal(kernel, own)
    assert not np.array_equal(*kernels)
    images = np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32)
    outputs = []
    for each in (model, changed):
        opened = OpenModel(model=each, image=input_name(model), output="logits")
        outputs.append(opened.run(images))
    np.testing.assert_array_equal(*outputs)
    tensors = [each.tensor for each in copies[site.name].sites]
    taps = OpenModel(model=changed, image=input_name(model), output="logits").tap(tensors)
    for answer in taps.run(images).values():
        assert answer.shape[1] == site.n_channels


def test_signs_follow_the_scale_of_a_normalisation() -> None:
    model = models.LAYERS["normalised"]()
    gamma = next(t for t in model.graph.initializer if t.name == "gamma")
    gamma.CopyFrom(numpy_helper.from_array(np.array([1, -2, 3, -4], np.float32), "gamma"))
    known = survey(model)
    _, copies = with_random_layers(known, {known.sites[0].name: 1}, seed=0)
    assert copies[known.sites[0].name].signs.tolist() == [1, -1, 1, -1]
