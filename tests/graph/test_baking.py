"""Masking, baking and undoing agree, on every way in which a layer can be written down."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.errors import ModelError, SettingsError
from repairkit.core.filters import Filter, FrozenFilter, Patch, Roster
from repairkit.graph.baking import bake, representable, revert
from repairkit.graph.coalitions.masking import mask_name
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import instrument, survey
from repairkit.graph.stored.model_files import first_difference, same_model
from tests import models
from tests.running import all_present, frozen_players, input_name, random_levels, run


def freeze(found: Survey, chosen: list[int], *, seed: int = 0) -> tuple[Patch, dict, dict]:
    """A patch of the chosen players, and the levels and masks that do the same."""
    levels = representable(found, random_levels(found.sites, seed))
    patch, masks = frozen_players(found.sites, levels, chosen)
    return patch, levels, masks


def image_for(model: onnx.ModelProto, seed: int = 0) -> np.ndarray:
    half = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    return models.images(1, seed, "float16" if half else "float32")


@pytest.mark.parametrize("name", models.LAYERS)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_baking_a_patch_equals_masking_it_bit_for_bit(name: str, data: st.DataObject) -> None:
    model = models.LAYERS[name]()
    found = survey(model)
    n = len(Roster(found.sites))
    chosen = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n))
    patch, levels, masks = freeze(found, chosen, seed=data.draw(st.integers(0, 99)))
    feeds = {input_name(model): image_for(model, seed=data.draw(st.integers(0, 99)))}
    baked = run(bake(survey(model), patch).model, feeds)
    masked = run(instrument(model, found.sites, levels), feeds | masks)
    np.testing.assert_array_equal(baked[0], masked[0])


@pytest.mark.parametrize("name", models.LAYERS)
def test_with_every_filter_present_the_instrumented_model_is_the_original(name: str) -> None:
    model = models.LAYERS[name]()
    sites = survey(model).sites
    feeds = {input_name(model): image_for(model)}
    masked = instrument(model, sites, random_levels(sites))
    np.testing.assert_array_equal(run(masked, feeds | all_present(sites))[0], run(model, feeds)[0])


@pytest.mark.parametrize("name", models.LAYERS)
def test_surgery_leaves_its_argument_as_it_was(name: str) -> None:
    model = models.LAYERS[name]()
    before = model.SerializeToString(deterministic=True)
    found = survey(model)
    patch, levels, _ = freeze(found, [0, 1])
    instrument(model, found.sites, levels)
    revert(bake(survey(model), patch).model, bake(survey(model), patch).edits)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", models.LAYERS)
def test_undoing_a_patch_gives_the_original_back_to_the_byte(name: str) -> None:
    model = models.LAYERS[name]()
    patch, _, _ = freeze(survey(model), [1, 2])
    baked = bake(survey(model), patch)
    assert not same_model(baked.model, model)
    assert first_difference(revert(baked.model, baked.edits), model) == ""


@pytest.mark.parametrize("name", models.LAYERS)
def test_a_baked_model_differs_in_the_named_tensors_alone(name: str) -> None:
    model = models.LAYERS[name]()
    patch, _, _ = freeze(survey(model), [1])
    baked = bake(survey(model), patch)
    onnx.checker.check_model(baked.model, full_check=True)
    edited = {edit.tensor for edit in baked.edits}
    rewired = {edit.node for edit in baked.edits if edit.kind == "added"}
    before = {t.name: t for t in model.graph.initializer}
    after = {t.name: t for t in baked.model.graph.initializer}
    assert {n for n in after if before.get(n) != after[n]} <= edited
    assert set(before) <= set(after)
    for old, new in zip(model.graph.node, baked.model.graph.node, strict=True):
        if old != new:
            assert new.output[0] in edited | rewired
            assert (old.name, old.op_type, old.output) == (new.name, new.op_type, new.output)
    for field in ("metadata_props", "opset_import", "producer_name", "ir_version"):
        assert getattr(model, field) == getattr(baked.model, field)
    assert model.graph.output == baked.model.graph.output
    assert model.graph.doc_string == baked.model.graph.doc_string


def test_a_shared_kernel_is_cloned_so_that_the_other_layer_keeps_its_own() -> None:
    model = models.shared_kernel()
    patch = Patch((FrozenFilter(Filter("again", 0), 0.5),))
    baked = bake(survey(model), patch)
    assert [e.tensor for e in baked.edits] == ["again/kernel", "again/bias"]
    kept = next(t for t in baked.model.graph.initializer if t.name == "w")
    assert kept == next(t for t in model.graph.initializer if t.name == "w")


def test_levels_behind_a_quantised_bias_are_multiples_of_its_scale() -> None:
    found = survey(models.quantised())
    levels = representable(found, {"conv": np.array([0.1234, 1.0, -2.0, 0.25], np.float32)})
    scale = np.array([0.001, 0.002, 0.003, 0.0005])
    codes = levels["conv"] / scale
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    assert np.all(np.abs(levels["conv"] - [0.1234, 1.0, -2.0, 0.25]) <= scale / 2 + 1e-9)


def test_freezing_behind_a_relu_gives_its_mean_which_is_never_negative() -> None:
    model = models.own_bias()
    found = survey(model, at="activation")
    assert found.sites[0].tensor == "act"
    levels = representable(found, {"conv": np.array([0.5, -0.5, 2.0, 0.0], np.float32)})
    np.testing.assert_array_equal(levels["conv"], [0.5, 0.0, 2.0, 0.0])
    patch = Patch(tuple(FrozenFilter(Filter("conv", c), float(levels["conv"][c])) for c in (0, 1)))
    masks = {mask_name(found.sites[0]): np.array([0, 0, 1, 1], bool).reshape(1, 4, 1, 1)}
    feeds = {"image": models.images(3)}
    masked = run(instrument(model, found.sites, levels), feeds | masks)
    np.testing.assert_array_equal(run(bake(found, patch).model, feeds)[0], masked[0])


def test_dense_units_are_frozen_where_they_are_asked_for() -> None:
    model = models.dense_units()
    assert survey(model).sites == ()
    found = survey(model, include=["dense"])
    assert [(s.name, s.n_channels) for s in found.sites] == [("first", 5), ("second", 4)]
    patch, levels, masks = freeze(found, [0, 3, 6])
    feeds = {"image": models.images(4)}
    masked = run(instrument(model, found.sites, levels), feeds | masks)
    np.testing.assert_array_equal(run(bake(found, patch).model, feeds)[0], masked[0])


def test_dense_units_applied_at_every_position_are_frozen_at_each() -> None:
    """A MatMul over tokens: its units lie on the last of three axes."""
    weights = {
        "tokens": np.array([-1, 6, 12]),
        "m": models.images(1).reshape(-1)[:60].reshape(12, 5),
        "b": np.arange(5, dtype=np.float32),
        "o": np.ones((5, 3), np.float32),
        "axis": np.array([1]),
    }
    make = onnx.helper.make_node
    nodes = [
        make("Reshape", ["image", "tokens"], ["t"], "split"),
        make("MatMul", ["t", "m"], ["x"], "mix"),
        make("Add", ["x", "b"], ["y"], "add"),
        make("Tanh", ["y"], ["h"], "tanh"),
        make("ReduceSum", ["h", "axis"], ["s"], "sum", keepdims=0),
        make("MatMul", ["s", "o"], ["logits"], "last"),
    ]
    model = models.model_of(nodes, weights)
    found = survey(model, include=["dense"])
    assert [(s.name, s.rank, s.channel_axis) for s in found.sites] == [("mix", 3, 2)]
    patch, levels, masks = freeze(found, [1, 4])
    feeds = {"image": models.images(4)}
    masked = run(instrument(model, found.sites, levels), feeds | masks)
    np.testing.assert_array_equal(run(bake(found, patch).model, feeds)[0], masked[0])


def test_an_absent_filter_hides_its_infinities() -> None:
    model = models.own_bias()
    kernel = next(t for t in model.graph.initializer if t.name == "w")
    broken = onnx.numpy_helper.to_array(kernel).copy()
    broken[1] = np.inf
    kernel.CopyFrom(onnx.numpy_helper.from_array(broken, "w"))
    found = survey(model)
    patch, levels, masks = freeze(found, [1])
    feeds = {"image": np.abs(models.images(2))}
    assert not np.isfinite(run(model, feeds)[0]).all()
    masked = run(instrument(model, found.sites, levels), feeds | masks)[0]
    assert np.isfinite(masked).all()
    np.testing.assert_array_equal(run(bake(survey(model), patch).model, feeds)[0], masked)


def test_a_normalised_filter_that_overflows_is_frozen_too() -> None:
    model = models.normalised()
    kernel = next(t for t in model.graph.initializer if t.name == "w")
    broken = onnx.numpy_helper.to_array(kernel).copy()
    broken[2] = 3e38
    kernel.CopyFrom(onnx.numpy_helper.from_array(broken, "w"))
    found = survey(model)
    patch, levels, masks = freeze(found, [2])
    feeds = {"image": np.abs(models.images(2)) * 9}
    masked = run(instrument(model, found.sites, levels), feeds | masks)[0]
    assert np.isfinite(masked).all()
    np.testing.assert_array_equal(run(bake(survey(model), patch).model, feeds)[0], masked)


def test_a_mean_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ModelError, match=r"conv:1 yields infinity or NaN.*preprocessing"):
        representable(survey(models.own_bias()), {"conv": np.array([0, np.nan, 0, 0], np.float32)})


def test_a_patch_of_an_unknown_filter_is_refused() -> None:
    with pytest.raises(SettingsError, match="has 4 filters, numbered from 0; there is no filter 9"):
        bake(survey(models.own_bias()), Patch((FrozenFilter(Filter("conv", 9), 0.0),)))
    with pytest.raises(SettingsError, match="no site 'stem'; the sites are conv"):
        bake(survey(models.own_bias()), Patch((FrozenFilter(Filter("stem", 0), 0.0),)))
