"""Attention heads and hidden units of a transformer, judged by the same network in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from repairkit.core.errors import SettingsError
from repairkit.core.filters import Filter, FrozenFilter, Patch, constant_of
from repairkit.core.suite import Annotations, Suite
from repairkit.engine.activations import measure_means
from repairkit.graph.baking import bake, infer_patch, representable, revert
from repairkit.graph.coalitions.masking import mask_name
from repairkit.graph.kinds.sites import bias_levels, instrument, survey
from repairkit.graph.stored.model_files import same_model
from tests import models
from tests.running import opened, run
from tests.transformers import FORMS, HEADS_SITE, TOKENS, Floats, Transformer, images


class Stored:
    def __init__(self, array: Floats) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: np.ndarray) -> Floats:
        return self.array[indices]


def heads_in(model: ModelProto) -> list[str]:
    return [s.name for s in survey(model, include=["heads"]).sites if s.kind == "AttentionHeads"]


def why(model: ModelProto, name: str, include: list[str]) -> str:
    return next(x.reason for x in survey(model, include=include).left_out if x.name == name)


@pytest.mark.parametrize("form", FORMS)
def test_heads_are_sites_where_they_are_asked_for(form: str) -> None:
    model = Transformer(heads=3, values=4).model(form)
    assert heads_in(model) == [HEADS_SITE]
    (site,) = (s for s in survey(model, include=["heads"]).sites if s.name == HEADS_SITE)
    assert (site.n_channels, site.n_values, site.level_shape) == (3, 4, (3, 4))
    assert HEADS_SITE not in {s.name for s in survey(model).sites}
    assert "computed at run time" in why(model, HEADS_SITE, ["dense"])


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_masked_and_baked_heads_yield_their_constants(form: str, data: st.DataObject) -> None:
    network = Transformer(
        heads=data.draw(st.integers(1, 4)),
        values=data.draw(st.integers(1, 5)),
        seed=data.draw(st.integers(0, 99)),
    )
    model, x = network.model(form), images(3, seed=data.draw(st.integers(0, 99)))
    found = survey(model, include=["heads"])
    site = next(s for s in found.sites if s.name == HEADS_SITE)
    gone = data.draw(st.sets(st.integers(0, network.heads - 1), min_size=1))
    rng = np.random.default_rng(network.seed)
    levels = rng.normal(size=site.level_shape).astype(np.float32)
    expected = network.logits(x, {head: levels[head] for head in gone})
    mask = np.array([[head not in gone for head in range(network.heads)]])[..., None, None]
    masked = run(
        instrument(model, (site,), {site.name: levels}), {"image": x, mask_name(site): mask}
    )
    np.testing.assert_allclose(masked[0], expected, rtol=2e-4, atol=2e-5)
    frozen = [FrozenFilter(Filter(site.name, head), constant_of(levels[head])) for head in gone]
    baked = bake(found, Patch(tuple(frozen)))
    np.testing.assert_allclose(run(baked.model, {"image": x})[0], expected, rtol=2e-4, atol=2e-5)
    assert same_model(revert(baked.model, baked.edits), model)
    told = infer_patch(found, survey(baked.model, include=["heads"]))
    assert set(told.frozen) == set(frozen)


def test_means_are_of_all_that_a_head_yields() -> None:
    network, x = Transformer(heads=2, values=3), images(7, seed=1)
    model = network.model("gathered")
    site = next(s for s in survey(model, include=["heads"]).sites if s.name == HEADS_SITE)
    suite = Suite.whole("calibration", Stored(x), Annotations(labels=np.zeros(len(x), np.int64)))
    means = measure_means(opened(model), (site,), suite)[site.name]
    np.testing.assert_allclose(means, network.heads_of(x).mean(axis=(0, 2)), rtol=1e-4, atol=1e-6)
    sizes = measure_means(opened(model), (site,), suite, magnitude=True)[site.name]
    norms = np.linalg.norm(network.heads_of(x), axis=3)
    np.testing.assert_allclose(sizes, norms.mean(axis=(0, 2)), rtol=1e-4)
    assert norms.shape[2] == TOKENS


@pytest.mark.parametrize("form", FORMS)
def test_levels_and_norms_are_those_of_the_value_projection(form: str) -> None:
    network = Transformer(heads=2, values=3, seed=5)
    found, weights = survey(network.model(form), include=["heads"]), network.weights()
    site = next(s for s in found.sites if s.name == HEADS_SITE)
    levels = bias_levels(found, (site,))[site.name]
    np.testing.assert_array_equal(levels, weights["value_bias"].reshape(2, 3))
    assert representable(found, {site.name: levels})[site.name].tobytes() == levels.tobytes()
    norms = np.linalg.norm(weights["value"].reshape(-1, 2, 3), axis=(0, 2))
    np.testing.assert_allclose(found.layers[site.name].norms(), norms, rtol=1e-6)


def test_hidden_units_are_those_between_an_activation_and_a_dense_layer() -> None:
    model = Transformer().model("separate")
    dense = {s.name for s in survey(model, include=["mlp"]).sites if s.kind == "MatMul"}
    assert dense == {"hidden"}
    assert "no hidden layer" in why(model, "narrow", ["mlp"])
    both = {s.name for s in survey(model, include=["mlp", "heads"]).sites}
    assert both == {"patches", "hidden", HEADS_SITE}


def test_what_is_no_attention_over_the_last_axis_has_no_heads() -> None:
    model = Transformer().model("split", softmax_axis=2)
    assert heads_in(model) == []
    assert why(model, HEADS_SITE, ["heads"]) == "a product of two activations has no filters"


def test_values_that_something_changes_are_told() -> None:
    model = Transformer().model("split")
    node = next(n for n in model.graph.node if n.name == HEADS_SITE)
    position = list(model.graph.node).index(node)
    model.graph.node.insert(position, helper.make_node("Tanh", ["v"], ["v_bent"], "bend_values"))
    model.graph.node[position + 1].input[1] = "v_bent"
    assert "Tanh stands between its values" in why(model, HEADS_SITE, ["heads"])


@pytest.mark.parametrize("name", sorted(models.LAYERS))
def test_models_without_attention_can_be_asked_for_heads(name: str) -> None:
    """Whatever their constants are made by: an operator of sizes or not."""
    model = models.LAYERS[name]()
    assert survey(model, include=["heads", "mlp"]).sites == survey(model).sites


def test_constants_by_operators_that_nobody_needs_for_sizes_are_passed_over() -> None:
    """The evaluator knows no `DequantizeLinear` of opset 17."""
    model = Transformer().model("split")
    codes = {"codes": np.zeros(3, np.int8), "step": np.float32(0.5), "zero": np.int8(0)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in codes.items()
    )
    node = helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["numbers"], "codes")
    model.graph.node.insert(0, node)
    model.graph.node[-1].input[2] = "numbers"
    assert heads_in(model) == [HEADS_SITE]


def test_sizes_may_be_computed_by_the_graph() -> None:
    """As by exporters that write the number of tokens as a division of one size by another."""
    model = Transformer(heads=2, values=4).model("split")
    shape = [
        helper.make_node("Shape", ["v_wide"], ["v_shape"], "shape"),
        helper.make_node("Slice", ["v_shape", "zero", "two"], ["v_front"], "front"),
        helper.make_node("Slice", ["v_shape", "two", "three"], ["v_width"], "width"),
        helper.make_node("Div", ["v_width", "two"], ["v_values"], "divide"),
        helper.make_node("Concat", ["v_front", "two", "v_values"], ["to"], "concat", axis=0),
    ]
    numbers = {"zero": 0, "two": 2, "three": 3}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([n], np.int64), name) for name, n in numbers.items()
    )
    reshape = next(n for n in model.graph.node if n.name == "reshape_v")
    reshape.input[1] = "to"
    position = list(model.graph.node).index(reshape)
    for node in reversed(shape):
        model.graph.node.insert(position, node)
    assert heads_in(model) == [HEADS_SITE]


@pytest.mark.parametrize(
    ("include", "message"),
    [
        (["dense", "heads"], "include dense alone, or heads and mlp"),
        (["dense", "mlp"], "include dense alone, or heads and mlp"),
        (["head"], "cannot include 'head'; further kinds are dense, heads, mlp"),
    ],
)
def test_what_cannot_be_included_is_told(include: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        survey(Transformer().model(), include=include)
