"""Rarer layers keep the same promises: baked equals masked, and everything can be undone."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.filters import Filter, FrozenFilter, Patch, Roster
from repairkit.core.suite import Annotations, Suite
from repairkit.data.preprocessing import ReadyImages
from repairkit.engine.activations import measure_means
from repairkit.graph.baking import bake, representable, revert
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import bias_levels, instrument, survey, zero_levels
from repairkit.graph.stored.model_files import same_model
from tests import models, wild_models
from tests.running import all_present, frozen_players, opened, random_levels, run

MODELS = {
    **wild_models.LAYERS,
    **{f"opset {n}": lambda n=n: wild_models.at_opset(n) for n in range(7, 25)},
}


def freeze(found: Survey, chosen: list[int], seed: int) -> tuple[Patch, dict, dict]:
    levels = representable(found, random_levels(found.sites, seed))
    patch, masks = frozen_players(found.sites, levels, chosen)
    return patch, levels, masks


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=4)
@given(data=st.data())
def test_baked_equals_masked_bit_for_bit_and_comes_off_again(
    name: str, data: st.DataObject
) -> None:
    model = MODELS[name]()
    found = survey(model)
    n = len(Roster(found.sites))
    chosen = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=n))
    patch, levels, masks = freeze(found, chosen, data.draw(st.integers(0, 99)))
    feeds = {"image": models.images(1, data.draw(st.integers(0, 99)))}
    masked = instrument(model, found.sites, levels)
    np.testing.assert_array_equal(
        run(masked, feeds | all_present(found.sites))[0], run(model, feeds)[0]
    )
    baked = bake(found, patch)
    np.testing.assert_array_equal(run(baked.model, feeds)[0], run(masked, feeds | masks)[0])
    onnx.checker.check_model(baked.model, full_check=True)
    assert same_model(revert(baked.model, baked.edits), model)


@pytest.mark.parametrize("name", MODELS)
def test_a_patched_model_runs_at_every_optimisation_level(name: str) -> None:
    model = MODELS[name]()
    found = survey(model)
    patch, levels, masks = freeze(found, [0, 2], 0)
    feeds = {"image": models.images(1)}
    baked = bake(found, patch).model
    expected = run(instrument(model, found.sites, levels), feeds | masks)[0]
    for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, f"ORT_{level}"
        )
        session = onnxruntime.InferenceSession(
            baked.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found_output = session.run(None, feeds)[0]
        np.testing.assert_allclose(found_output, expected, rtol=1e-4, atol=1e-4)


def test_a_level_on_codes_is_a_multiple_of_the_scale_and_at_most_half_a_step_off() -> None:
    found = survey(wild_models.linear_codes())
    wanted = {s.name: np.linspace(-2, 2, s.n_channels).astype(np.float32) for s in found.sites}
    for site in found.sites:
        assert site.scale is not None
        held = representable(found, wanted)[site.name]
        steps = held / site.scale
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        limits = np.iinfo(site.dtype)
        within = np.clip(
            wanted[site.name],
            (limits.min - site.zero) * site.scale,
            (limits.max - site.zero) * site.scale,
        )
        assert np.abs(held - within).max() <= site.scale / 2 * 1.0001


def test_means_on_codes_are_those_of_the_dequantised_tensor() -> None:
    model = wild_models.linear_codes()
    found = survey(model)
    x = models.images(5)
    suite = Suite.whole("all", ReadyImages(x, x.dtype), Annotations(labels=np.zeros(5, np.int64)))
    means = measure_means(opened(model), found.sites, suite)
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.append(onnx.helper.make_empty_tensor_value_info("y"))
    np.testing.assert_allclose(
        means["conv_2"], run(tapped, {"image": x})[1].mean(axis=(0, 2, 3)), rtol=1e-5
    )


def test_zero_and_bias_levels_on_codes_are_real_numbers() -> None:
    found = survey(wild_models.linear_codes())
    assert (representable(found, zero_levels(found.sites))["conv"] == 0).all()
    step = 0.03 * 0.004  # of the bias
    np.testing.assert_allclose(
        bias_levels(found, found.sites)["conv"], np.array([900, -2000, 0, 5000]) * step, rtol=1e-5
    )


def test_kernel_norms_on_codes_are_measured_from_the_zero_point() -> None:
    model = wild_models.linear_codes_per_channel()
    kernel = wild_models.initializer(model, "kernel").astype(float)
    zero = wild_models.initializer(model, "kernel_zero").astype(float)
    scale = wild_models.initializer(model, "kernel_scale").astype(float)
    expected = [np.linalg.norm((kernel[c] - zero[c]) * scale[c]) for c in range(4)]
    np.testing.assert_allclose(survey(model).layers["conv"].norms(), expected)


def test_products_without_a_bias_behind_them_are_left_out_with_the_reason() -> None:
    model = wild_models.integer_products()
    add = model.graph.node[6]
    assert add.name == "add"
    model.graph.node.remove(add)
    model.graph.node[5].output[0] = "y"
    found = survey(model)
    assert [(x.kind, x.reason) for x in found.left_out if x.name == "conv"] == [
        (
            "ConvInteger",
            "no bias Add follows its cast and scale, so there is no place for a constant",
        )
    ]


def test_scales_that_are_computed_leave_a_layer_out() -> None:
    model = wild_models.linear_codes()
    model.graph.node.insert(
        0, onnx.helper.make_node("ReduceMax", ["image"], ["largest"], "largest", keepdims=0)
    )
    conv = next(n for n in model.graph.node if n.name == "conv")
    conv.input[6] = "largest"
    assert ("conv", "its weights, scales or zero points are computed at run time") in [
        (x.name, x.reason) for x in survey(model).left_out
    ]


def test_a_dense_layer_on_codes_is_the_head_and_the_convolution_before_it_a_site() -> None:
    model = wild_models.linear_codes()
    kept = [n for n in model.graph.node if n.name in ("quantise", "conv")]
    del model.graph.node[:]
    shape, dense = np.array([-1, 64]), np.ones((64, 3), np.int8)
    for name, array in (("flat", shape), ("dense", dense)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.node.extend(
        [
            *kept,
            onnx.helper.make_node("Reshape", ["mid", "flat"], ["row"], "reshape"),
            onnx.helper.make_node("MatMulInteger", ["row", "dense"], ["sums"], "dense"),
            onnx.helper.make_node("Cast", ["sums"], ["logits"], "cast", to=1),
        ]
    )
    found = survey(model)
    assert [s.name for s in found.sites] == ["conv"]
    assert ("dense", "it makes the model's output") in [(x.name, x.reason) for x in found.left_out]


def test_a_layer_inside_a_function_is_listed_and_left_alone() -> None:
    found = survey(wild_models.with_function())
    assert [s.name for s in found.sites] == ["conv"]
    assert [(x.name, x.reason) for x in found.left_out if x.kind == "Conv"] == [
        ("inner", "it lies inside the function block")
    ]


def test_a_filter_on_codes_holds_just_its_level() -> None:
    model = wild_models.linear_codes()
    found = survey(model)
    frozen = FrozenFilter(Filter("conv", 1), 20 * 0.05)
    baked = bake(found, Patch((frozen,))).model
    baked.graph.output.append(onnx.helper.make_empty_tensor_value_info("mid"))
    codes = run(baked, {"image": models.images(3)})[1]
    assert (codes[:, 1] == 120).all()
