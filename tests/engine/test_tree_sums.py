"""Sums of leaves answer as the instrumented model does."""

import logging
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from repairkit.core.filters import Roster
from repairkit.core.suite import Annotations, Suite
from repairkit.data.preprocessing import ReadyImages
from repairkit.engine.activations import measure_means
from repairkit.engine.cones.candidates import Candidates
from repairkit.engine.evaluator import Evaluator, ThreadExecutor, keep_all
from repairkit.engine.masks import MaskEvaluator
from repairkit.engine.runner import Runner
from repairkit.engine.tree_sums import TreeEvaluator
from repairkit.engine.working import open_evaluator
from repairkit.graph.baking import representable
from repairkit.graph.kinds.sites import instrument, survey
from tests.ensembles import forest, rows_of
from tests.running import opened

EXACT = [
    {},
    {"n_columns": 1},
    {"double": True},
    {"kind": "TreeEnsembleClassifier", "n_columns": 3, "n_trees": 7},
    {"kind": "TreeEnsembleClassifier", "n_columns": 1, "low": 0.0},
    {"kind": "TreeEnsembleClassifier", "n_columns": 1},
    {"kind": "TreeEnsembleClassifier", "n_columns": 2},
    {"kind": "TreeEnsembleClassifier", "n_columns": 3, "base": (0.5, -0.5, 0.25)},
    {"n_columns": 2, "base": (0.5, -0.5)},
]
ROUNDED = [
    {"kind": "TreeEnsembleClassifier", "n_columns": 1, "transform": "LOGISTIC", "base": (0.3,)},
    {"kind": "TreeEnsembleClassifier", "n_columns": 3, "transform": "SOFTMAX"},
    {"kind": "TreeEnsembleClassifier", "n_columns": 3, "transform": "LOGISTIC"},
]


def open_both(
    model: ModelProto, rows: np.ndarray, *, workers: int = 1, output: str = "scores"
) -> tuple[MaskEvaluator, Evaluator]:
    """The instrumented model, and what is opened for it."""
    found = survey(model, output=output)
    suite = Suite.whole(
        "rows", ReadyImages(rows, rows.dtype), Annotations(labels=np.zeros(len(rows), np.int64))
    )
    means = measure_means(opened(model), found.sites, suite)
    means = representable(found, means)
    roster = Roster(found.sites)
    runner = Runner(instrument(model, found.sites, means), "rows", None, outputs=(output,))
    executor = ThreadExecutor(workers) if workers > 1 else None
    candidates = Candidates(survey=found, roster=roster, levels=means, image="rows", output=output)
    masks = MaskEvaluator(runner, roster, suite, executor=executor)
    return masks, open_evaluator(candidates, masks)


def random_round(n_players: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.random((9, n_players)) < rng.random((9, 1)), rng.integers(0, n_rows, (9, 5))


@pytest.mark.parametrize("options", [*EXACT, *ROUNDED], ids=str)
def test_sums_of_leaves_are_the_instrumented_models_scores(options: dict[str, Any]) -> None:
    made = forest(7, **options)
    rows = rows_of(30, seed=1).astype(made.dtype)
    masks, evaluator = open_both(made.model, rows)
    assert isinstance(evaluator, TreeEvaluator)
    coalitions, drawn = random_round(len(made.trees), len(rows))
    for images in (None, drawn):
        ours = evaluator.answer(coalitions, images, keep_all)
        theirs = masks.answer(coalitions, images, keep_all)
        if options in EXACT:
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-7)


def test_workers_and_company_change_nothing() -> None:
    made = forest(7, kind="TreeEnsembleClassifier", n_columns=3, transform="SOFTMAX")
    rows = rows_of(30, seed=1)
    _, alone = open_both(made.model, rows)
    _, together = open_both(made.model, rows, workers=3)
    coalitions, drawn = random_round(len(made.trees), len(rows))
    whole = together.answer(coalitions, drawn, keep_all)
    np.testing.assert_array_equal(alone.answer(coalitions, drawn, keep_all), whole)
    for i in range(len(coalitions)):
        one = alone.answer(coalitions[i : i + 1], drawn[i : i + 1], keep_all)
        np.testing.assert_array_equal(one[0], whole[i])


def test_what_follows_the_scores_is_computed_too() -> None:
    """Two forests whose scores are averaged and scaled."""
    model = forest(7, n_trees=4).model
    other = forest(8, n_trees=3).model.graph.node[0]
    other.output[0], other.name = "others", "second"
    model.graph.node.append(other)
    model.graph.node.append(helper.make_node("Mean", ["scores", "others"], ["mean"]))
    model.graph.node.append(helper.make_node("Tanh", ["mean"], ["squashed"]))
    model.graph.output.append(
        helper.make_tensor_value_info("squashed", TensorProto.FLOAT, ["n", 2])
    )
    masks, evaluator = open_both(model, rows_of(20), output="squashed")
    assert isinstance(evaluator, TreeEvaluator)
    coalitions, drawn = random_round(7, 20)
    np.testing.assert_allclose(
        evaluator.answer(coalitions, drawn, keep_all),
        masks.answer(coalitions, drawn, keep_all),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node.attribute.append(helper.make_attribute("aggregate_function", "MAX")),
        lambda node: node.attribute.append(helper.make_attribute("post_transform", "PROBIT")),
    ],
)
def test_what_is_not_known_is_left_to_the_instrumented_model(change: Any) -> None:
    model = forest(7).model
    node = model.graph.node[0]
    node.attribute.remove(next(a for a in node.attribute if a.name == "post_transform"))
    change(node)
    _, evaluator = open_both(model, rows_of(20))
    assert isinstance(evaluator, MaskEvaluator)


def test_an_output_that_rows_reach_in_another_way_is_left_to_the_instrumented_model() -> None:
    model = forest(7, n_columns=4).model
    model.graph.node.append(helper.make_node("Add", ["scores", "rows"], ["sum"]))
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 4]))
    _, evaluator = open_both(model, rows_of(20, missing=0), output="sum")
    assert isinstance(evaluator, MaskEvaluator)


def test_sums_that_do_not_agree_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = TreeEvaluator._sums
    monkeypatch.setattr(TreeEvaluator, "_sums", lambda *a: honest(*a) * 1.001)
    with caplog.at_level(logging.WARNING):
        _, evaluator = open_both(forest(7).model, rows_of(20))
    assert isinstance(evaluator, MaskEvaluator)
    assert "outputs differ" in caplog.text
