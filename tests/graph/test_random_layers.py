"""Random copies of layers hold the same numbers, and leave the model as it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from repairkit.engine.runner import OpenModel
from repairkit.graph.coalitions.rebatch import fixed_batch
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
    changed, _ = with_random_layers(known, {site.name: 2}, seed=1)
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
    again, _ = with_random_layers(known, {site.name: 2}, seed=1)
    assert again.SerializeToString(deterministic=True) == changed.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("layer", sorted(models.LAYERS))
def test_a_model_with_copies_computes_what_it_did_and_gives_them_too(layer: str) -> None:
    model = models.LAYERS[layer]()
    known = survey(model)
    changed, copies = with_random_layers(known, {s.name: 2 for s in known.sites}, seed=1)
    taken = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    images = np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(taken)
    opened = OpenModel(
        model=model,
        image=input_name(model),
        output=model.graph.output[0].name,
        step=fixed_batch(model, input_name(model)),
    )
    np.testing.assert_array_equal(opened.run(images), opened.variant(changed).run(images))
    for site in known.sites:
        both = copies[site.name].sites
        answers = opened.variant(changed).tap([one.tensor for one in (site, *both)]).run(images)
        for one in both:
            assert answers[one.tensor].shape == answers[site.tensor].shape
            assert not np.array_equal(answers[one.tensor], answers[site.tensor])


def test_signs_follow_the_scale_of_a_normalisation() -> None:
    model = models.LAYERS["normalised"]()
    gamma = next(t for t in model.graph.initializer if t.name == "gamma")
    gamma.CopyFrom(numpy_helper.from_array(np.array([1, -2, 3, -4], np.float32), "gamma"))
    known = survey(model)
    _, copies = with_random_layers(known, {known.sites[0].name: 1}, seed=0)
    assert copies[known.sites[0].name].signs.tolist() == [1, -1, 1, -1]
