"""The answer to a row does not depend on other rows: a round may be cut anywhere."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from repairkit.engine.cones.fast import FastEvaluator
from repairkit.engine.evaluator import Evaluator, ThreadExecutor, keep_all
from repairkit.engine.masks import ScatteredEvaluator, with_scattered
from repairkit.engine.working import open_evaluator
from tests.engine.games import Setup, deep_model, set_up
from tests.models import LAYERS, head, images, model_of

N_IMAGES = 24
TWO = ThreadExecutor(2)


def wide_model() -> ModelProto:
    """A convolution and two dense layers wide enough that products are cut into panels."""
    rng = np.random.default_rng(5)
    weights = {
        "kernel": rng.standard_normal((16, 2, 3, 3)).astype(np.float32),
        "bias": rng.standard_normal(16).astype(np.float32),
        "dense": (rng.standard_normal((16 * 16, 300)) / 16).astype(np.float32),
        "last": (rng.standard_normal((300, 3)) / 17).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["y"], "conv"),
        helper.make_node("Relu", ["y"], ["act"], "act"),
        helper.make_node("Flatten", ["act"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "dense"], ["hidden"], "dense"),
        helper.make_node("Relu", ["hidden"], ["hidden_act"], "hidden_act"),
        helper.make_node("MatMul", ["hidden_act", "last"], ["logits"], "last"),
    ]
    return model_of(nodes, weights)


@pytest.fixture(scope="module", params=["deep", "wide", "normalised", "depthwise", "transposed"])
def setup(request: pytest.FixtureRequest) -> Setup:
    own = {"deep": deep_model, "wide": wide_model}
    return set_up((own | LAYERS)[request.param](), images(N_IMAGES))


def fast(setup: Setup, **options: Any) -> FastEvaluator:
    opened = open_evaluator(setup.candidates, setup.reference())
    assert isinstance(opened, FastEvaluator)
    return FastEvaluator(opened.compiled, setup.suite, batch_size=8, **options)


def scattered(setup: Setup, others: Evaluator, **options: Any) -> ScatteredEvaluator:
    macs = others.macs if isinstance(others, FastEvaluator) else 0.0
    found = with_scattered(others, setup.reference(**options), macs=macs)
    assert isinstance(found, ScatteredEvaluator)
    return found


@pytest.fixture(scope="module")
def families(setup: Setup) -> dict[str, tuple[Evaluator, ...]]:
    """Evaluators of which all in a family must give the same bits, whatever they did before."""
    plain = (
        fast(setup),
        fast(setup, cache_memory=0),
        fast(setup, executor=TWO, cache_memory=20_000),
        FastEvaluator(fast(setup).compiled, setup.suite, batch_size=8, overwriting=False),
    )
    return {
        "fast": plain,
        "scattered": (scattered(setup, plain[0]), scattered(setup, plain[1], executor=TWO)),
        "instrumented": (
            setup.reference(batch_size=8),
            setup.reference(batch_size=8, executor=TWO),
        ),
    }


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_a_round_may_be_cut_anywhere(
    setup: Setup, families: dict[str, tuple[Evaluator, ...]], data: st.DataObject
) -> None:
    n_rows = data.draw(st.integers(1, 70))
    n_images = data.draw(st.sampled_from([1, 2, 3, 8, 9, None]))
    cuts = sorted(data.draw(st.lists(st.integers(0, n_rows), max_size=4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = rng.random((n_rows, len(setup.roster))) < data.draw(st.sampled_from([0.5, 0.95]))
    drawn = None if n_images is None else rng.integers(0, N_IMAGES, (n_rows, n_images))
    parts = [np.arange(a, b) for a, b in zip([0, *cuts], [*cuts, n_rows], strict=True) if a < b]
    for family in families.values():
        whole = family[0].answer(rows, drawn, keep_all)
        for member in family:
            cut = [
                member.answer(rows[p], None if drawn is None else drawn[p], keep_all) for p in parts
            ]
            np.testing.assert_array_equal(np.concatenate(cut), whole)


@pytest.mark.parametrize("n_images", [1, 5, 8])
def test_rows_of_few_images_agree_with_the_instrumented_model(setup: Setup, n_images: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((45, len(setup.roster))) < 0.8
    drawn = rng.integers(0, N_IMAGES, (45, n_images))
    found = scattered(setup, fast(setup)).answer(rows, drawn, keep_all)
    expected = setup.reference().answer(rows, drawn, keep_all)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_no_more_runs_are_made_than_the_rows_fill(setup: Setup) -> None:
    evaluator = scattered(setup, fast(setup))
    sizes: list[int] = []
    run = evaluator.masks.run

    def counted(rows: Any, positions: Any) -> Any:
        sizes.append(len(positions))
        return run(rows, positions)

    evaluator.masks.run = counted  # type: ignore[method-assign]
    rows = np.ones((100, len(setup.roster)), bool)
    evaluator.answer(rows, np.zeros((100, 1), np.intp), keep_all)
    assert sizes == [evaluator.run_images] * -(-100 // evaluator.run_images)


def test_a_model_that_mixes_images_is_asked_row_by_row() -> None:
    """Each image is compared with the others of its run."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
    weights = {"kernel": kernel, "bias": rng.standard_normal(4).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["y"], "conv"),
        helper.make_node("ReduceMean", ["y"], ["mean"], "mean", axes=[0], keepdims=1),
        helper.make_node("Sub", ["y", "mean"], ["centred"], "centred"),
    ]
    mixing = model_of(nodes + head("centred", weights, 4), weights)
    assert mixing.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    setup = set_up(mixing, images(N_IMAGES))
    reference = setup.reference()
    assert with_scattered(reference, reference) is reference
