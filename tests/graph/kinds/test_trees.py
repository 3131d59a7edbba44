"""Trees as filters: they are masked, read and frozen as a walk down the trees says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repairkit.core.errors import ModelError, SettingsError, VerificationError
from repairkit.core.filters import Filter, FilterMeans, FrozenFilter, Patch, TensorEdit, constant_of
from repairkit.core.suite import Annotations, Suite
from repairkit.data.preprocessing import ReadyImages
from repairkit.engine.activations import measure_means
from repairkit.graph.baking import bake, representable, revert
from repairkit.graph.kinds.ensembles import Ensemble, numbers, replace_numbers
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import (
    bias_levels,
    find_sites,
    instrument,
    survey,
    zero_levels,
)
from repairkit.graph.kinds.trees import TreeLayer
from repairkit.graph.stored.model_files import same_model
from tests.ensembles import MODES, Forest, forest, rows_of
from tests.models import own_bias
from tests.running import opened, run

FEW = settings(max_examples=15, deadline=None)
KINDS = [
    {},
    {"n_columns": 1},
    {"double": True},
    {"modes": tuple(MODES)},
    {"kind": "TreeEnsembleClassifier", "n_columns": 3, "transform": "SOFTMAX"},
    {"kind": "TreeEnsembleClassifier", "n_columns": 3, "one_column_each": True, "double": True},
    {"kind": "TreeEnsembleClassifier", "n_columns": 1, "transform": "LOGISTIC", "base": (0.25,)},
    {"kind": "TreeEnsembleClassifier", "n_columns": 1, "low": 0.0},
    *({"modes": (mode,)} for mode in MODES),
]
MADE = st.builds(
    lambda seed, options: forest(seed, **options),  # type: ignore[arg-type]
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
)


def rows_for(made: Forest, n: int = 40) -> np.ndarray:
    return rows_of(n, seed=5).astype(made.dtype)


def ensemble_of(found: Survey, site: str) -> Ensemble:
    layer = found.layers[site]
    assert isinstance(layer, TreeLayer)
    return layer.trees


def mean_levels(made: Forest, found: Survey, rows: np.ndarray) -> FilterMeans:
    """Mean leaf values, by the walk down the trees."""
    return {found.sites[0].name: made.yields(rows).astype(np.float64).mean(axis=0)}


def patch_of(found: Survey, levels: FilterMeans, trees: list[int]) -> Patch:
    name = found.sites[0].name
    return Patch(tuple(FrozenFilter(Filter(name, t), constant_of(levels[name][t])) for t in trees))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_mean_of_a_tree_is_that_of_the_leaves_that_rows_reach(options: dict) -> None:
    made = forest(1, **options)
    found, rows = survey(made.model), rows_for(made)
    suite = Suite.whole(
        "all", ReadyImages(rows, rows.dtype), Annotations(labels=np.zeros(len(rows), np.int64))
    )
    means = measure_means(opened(made.model), found.sites, suite)
    expected = mean_levels(made, found, rows)["forest"]
    assert means["forest"].shape == found.sites[0].level_shape == expected.shape
    np.testing.assert_allclose(means["forest"], expected, rtol=1e-13, atol=1e-15)
    sizes = measure_means(opened(made.model), found.sites, suite, magnitude=True)
    norms = np.linalg.norm(made.yields(rows).astype(np.float64), axis=2).mean(axis=0)
    np.testing.assert_allclose(sizes["forest"], norms, rtol=1e-12)


@FEW
@given(MADE)
def test_with_every_tree_present_nothing_changes(made: Forest) -> None:
    found, rows = survey(made.model), rows_for(made)
    before = made.model.SerializeToString(deterministic=True)
    levels = representable(found, mean_levels(made, found, rows))
    masked = instrument(made.model, found.sites, levels)
    mask = np.ones((1, len(made.trees)), bool)
    for optimise in (False, True):
        ours = run(masked, {"rows": rows, "forest/mask": mask}, optimise=optimise)
        theirs = run(made.model, {"rows": rows}, optimise=optimise)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert made.model.SerializeToString(deterministic=True) == before


@FEW
@given(MADE, st.integers(0, 31))
def test_absent_trees_yield_their_means(made: Forest, code: int) -> None:
    """Sums are put together in NumPy, in 64 bits; transforms are left out of it."""
    node = made.model.graph.node[0]
    node.attribute.remove(next(a for a in node.attribute if a.name == "post_transform"))
    found, rows = survey(made.model), rows_for(made)
    levels = representable(found, mean_levels(made, found, rows))
    present = (code >> np.arange(len(made.trees))) & 1 == 1
    masked = instrument(made.model, found.sites, levels)
    feeds = {"rows": rows, "forest/mask": present[None]}
    scores = run(masked, feeds)[-1].astype(np.float64)
    chosen = np.where(present[:, None], made.yields(rows), levels["forest"]).astype(np.float64)
    sums = chosen.sum(axis=1) + np.array(numbers(node, "base_values"), np.float64).sum()
    if scores.shape[1] > made.n_columns:
        other = 1 - sums if node.op_type and (made.yields(rows) >= 0).all() else -sums
        sums = np.concatenate([other, sums], axis=1)
    np.testing.assert_allclose(scores, sums, rtol=1e-5, atol=2e-6)


@FEW
@given(MADE, st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True))
@example(forest(323680, modes=("BRANCH_EQ",)), [1])  # a tree of one leaf, then a chain
def test_baking_trees_equals_masking_them_and_can_be_undone(
    made: Forest, frozen: list[int]
) -> None:
    found, rows = survey(made.model), rows_for(made)
    levels = representable(found, mean_levels(made, found, rows))
    patch = patch_of(found, levels, frozen)
    try:
        baked = bake(survey(made.model), patch)
    except ModelError as error:
        if "without any negative leaf" not in str(error):
            raise
        return
    onnx.checker.check_model(baked.model, full_check=True)
    mask = np.ones((1, len(made.trees)), bool)
    mask[0, frozen] = False
    masked = instrument(made.model, found.sites, levels)
    for optimise in (False, True):
        ours = run(baked.model, {"rows": rows}, optimise=optimise)
        theirs = run(masked, {"rows": rows, "forest/mask": mask}, optimise=optimise)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert same_model(revert(baked.model, baked.edits), made.model)
    assert survey(baked.model).sites == found.sites


def test_baking_changes_weights_of_frozen_trees_alone() -> None:
    made = forest(3, n_trees=4)
    found = survey(made.model)
    baked = bake(survey(made.model), patch_of(found, {"forest": np.full((4, 2), 0.5)}, [2]))
    before, after = made.model.graph.node[0], baked.model.graph.node[0]
    for old, new in zip(before.attribute, after.attribute, strict=True):
        assert old == new or old.name == "target_weights"
    changed = numbers(before, "target_weights") != numbers(after, "target_weights")
    assert (ensemble_of(found, "forest").tree_of[changed] == 2).all()
    (edit,) = baked.edits
    assert (edit.kind, edit.tensor, edit.node) == ("attribute", "target_weights", "scores")


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("seed", [3, 623, 817])
def test_questions_for_equality_in_a_frozen_tree_are_not_joined(seed: int, double: bool) -> None:
    """ONNX Runtime joins chains of them where leaves are alike, and may then add a leaf twice."""
    made = forest(seed, n_trees=3, modes=("BRANCH_EQ",), double=double)
    found, rows = survey(made.model), rows_for(made)
    levels = {"forest": np.array([[0.25, 0.5], [0.5, 0.25], [1.0, 1.5]])}
    baked = bake(survey(made.model), patch_of(found, levels, [0, 1, 2]))
    (scores,) = run(baked.model, {"rows": rows})
    np.testing.assert_array_equal(scores, np.tile([[1.75, 2.25]], (len(rows), 1)))
    assert same_model(revert(baked.model, baked.edits), made.model)


def test_a_row_of_masks_for_every_row_of_input() -> None:
    made = forest(4)
    found, rows = survey(made.model), rows_for(made, 8)
    masked = instrument(made.model, found.sites, representable(found, zero_levels(found.sites)))
    masks = np.random.default_rng(0).random((8, 5)) < 0.5
    together = run(masked, {"rows": rows, "forest/mask": masks})[0]
    for i in range(8):
        alone = run(masked, {"rows": rows[i : i + 1], "forest/mask": masks[i : i + 1]})[0]
        np.testing.assert_array_equal(together[i : i + 1], alone)


def test_trees_have_no_bias_and_the_norm_of_their_leaves() -> None:
    found = survey(forest(4).model)
    assert not bias_levels(found, found.sites)["forest"].any()
    trees = ensemble_of(found, "forest")
    norms = [np.linalg.norm(trees.weights[trees.tree_of == t]) for t in range(5)]
    np.testing.assert_allclose(found.layers["forest"].norms(), norms, rtol=1e-6)


def test_scores_of_two_classes_keep_their_meaning() -> None:
    """Where no weight is negative, the operator takes sums for probabilities, else for margins."""
    options = {"kind": "TreeEnsembleClassifier", "n_columns": 1, "n_trees": 2, "depth": 1}
    made = forest(0, **options, low=0.0)  # type: ignore[arg-type]
    found = survey(made.model)
    with pytest.raises(ModelError, match="would have the only negative leaves"):
        representable(found, {"forest": np.full((2, 1), -0.5)})
    made = forest(0, **options)  # type: ignore[arg-type]
    found = survey(made.model)
    positive = patch_of(found, {"forest": np.full((2, 1), 0.5)}, [0, 1])
    with pytest.raises(ModelError, match="without any negative leaf"):
        bake(survey(made.model), positive)


def test_constants_that_have_no_place_are_refused() -> None:
    made = forest(2, n_columns=2, one_column_each=True)
    found = survey(made.model)
    with pytest.raises(ModelError, match="has no leaf for one of its constants"):
        bake(survey(made.model), patch_of(found, {"forest": np.ones((5, 2))}, [1]))
    with pytest.raises(ModelError, match="yields 2 numbers"):
        bake(survey(made.model), Patch((FrozenFilter(Filter("forest", 0), 0.5),)))
    with pytest.raises(ModelError, match="infinity or NaN"):
        representable(found, {"forest": np.full((5, 2), np.nan)})
    with pytest.raises(SettingsError, match="5 filters"):
        bake(survey(made.model), Patch((FrozenFilter(Filter("forest", 5), (0.0, 0.0)),)))


def test_what_cannot_be_frozen_is_listed_with_its_reason() -> None:
    def reason(name: str, values: np.ndarray) -> str:
        model = forest(6).model
        replace_numbers(model.graph.node[0], name, values)
        found = survey(model)
        assert not found.sites
        (left,) = found.left_out
        return left.reason

    node = forest(6).model.graph.node[0]
    trees, ids = numbers(node, "nodes_treeids"), numbers(node, "target_ids")
    leaves = numbers(node, "target_nodeids")
    assert "not stand together" in reason("nodes_treeids", np.roll(trees, 1))
    for name in ("nodes_modes", "nodes_hitrates", "nodes_truenodeids", "target_weights"):
        assert f"{name} is missing, of another length" in reason(name, numbers(node, name)[:-1])
    assert "two weights" in reason("target_ids", np.zeros_like(ids))
    assert "belongs to no leaf" in reason("target_nodeids", leaves + 100)
    odd = ids.copy()
    odd[0] = 7
    assert "different classes" in reason("target_ids", odd)


def test_lists_that_lie_about_themselves_are_listed() -> None:
    model = forest(6, double=True).model
    node = model.graph.node[0]
    next(a for a in node.attribute if a.name == "target_weights_as_tensor").t.dims[0] = 10**9
    assert survey(model).left_out[0].reason == "its lists cannot be read"
    model = forest(6).model
    node = model.graph.node[0]
    modes = next(a for a in node.attribute if a.name == "nodes_modes")
    modes.CopyFrom(onnx.helper.make_attribute("nodes_modes", [1] * len(modes.strings)))
    assert "of another type" in survey(model).left_out[0].reason
    model = forest(6, n_trees=3, depth=0).model
    node = model.graph.node[0]
    wide = {"treeids": 9000, "nodeids": 9000, "ids": 9000, "weights": 9000}
    for name, n in wide.items():
        replace_numbers(node, f"target_{name}", np.arange(n))
    for name in ("treeids", "nodeids", "featureids", "values", "truenodeids", "falsenodeids"):
        replace_numbers(node, f"nodes_{name}", np.arange(9000))
    replace_numbers(node, "nodes_modes", np.full(9000, "LEAF"))
    replace_numbers(node, "nodes_hitrates", np.zeros(9000))
    replace_numbers(node, "nodes_missing_value_tracks_true", np.zeros(9000))
    assert "are too many" in survey(model).left_out[0].reason


def test_the_newest_form_of_the_operator_is_listed() -> None:
    model = forest(6).model
    model.graph.node[0].op_type = "TreeEnsemble"
    assert "ai.onnx.ml 5" in survey(model).left_out[0].reason


def test_layers_and_trees_can_be_sites_of_one_model() -> None:
    """A network whose features feed a forest."""
    model = own_bias()
    node = forest(8).model.graph.node[0]
    node.input[0] = "logits"
    replace_numbers(node, "nodes_featureids", numbers(node, "nodes_featureids") % 3)
    model.graph.node.append(node)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("scores"))
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    sites = find_sites(model)
    assert [site.name for site in sites] == ["conv", "forest"]
    levels: FilterMeans = {s.name: np.zeros(s.level_shape, np.float32) for s in sites}
    masked = instrument(model, sites, levels)
    feeds = {"image": np.random.default_rng(0).standard_normal((3, 2, 6, 6)).astype(np.float32)}
    masks = {"conv/mask": np.ones((1, 4, 1, 1), bool), "forest/mask": np.ones((1, 5), bool)}
    for a, b in zip(run(masked, feeds | masks), run(model, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
    nothing = {"conv/mask": np.ones((1, 4, 1, 1), bool), "forest/mask": np.zeros((1, 5), bool)}
    assert not run(masked, feeds | nothing)[-1].any()


@pytest.mark.parametrize(
    "edit",
    [
        TensorEdit(
            kind="attribute", tensor="target_weights", runs=((0, 1),), old=b"\0" * 8, node="scores"
        ),
        TensorEdit(
            kind="attribute",
            tensor="target_weights",
            runs=((9999, 10000),),
            old=b"\0" * 4,
            node="scores",
        ),
        TensorEdit(kind="attribute", tensor="target_weights", runs=(), old=b"", node="scores"),
        TensorEdit(
            kind="attribute", tensor="target_ids", runs=((0, 1),), old=b"\0" * 4, node="scores"
        ),
        TensorEdit(
            kind="attribute",
            tensor="target_weights",
            runs=((0, 1),),
            old=b"\0" * 4,
            node="elsewhere",
        ),
    ],
)
def test_undoing_what_does_not_fit_is_refused(edit: TensorEdit) -> None:
    with pytest.raises(VerificationError):
        revert(forest(1).model, [edit])
