"""A graph fixed at batch 1 is freed where that provably changes nothing, else run one by one."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto

from repairkit.core.errors import ModelError
from repairkit.engine.batching import _same, settle_batching
from repairkit.engine.runner import Runner
from repairkit.graph.coalitions.rebatch import rebatch
from repairkit.graph.kinds.sites import find_sites, instrument
from tests import models, wild_models
from tests.running import opened, random_levels, run


def test_a_hard_wired_batch_is_freed_and_keeps_each_output() -> None:
    model = models.fixed_batch()
    x = models.images(9)
    batching = settle_batching(opened(model), x[:4])
    assert batching.opened.step is None
    assert "checked on 4 images and noise" in batching.summary
    together = Runner(batching.opened.model, "image", None).run(x)["logits"]
    alone = np.concatenate([run(model, {"image": x[i : i + 1]})[0] for i in range(9)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_where_batching_changes_outputs_images_go_one_at_a_time() -> None:
    model = models.stuck_batch()
    x = models.images(5)
    batching = settle_batching(opened(model), x[:4])
    assert batching.opened.model is model
    assert batching.opened.step == 1
    assert "over the images of a batch" in batching.summary
    found = Runner(model, "image", batching.opened.step).run(x)["logits"]
    alone = np.concatenate([run(model, {"image": x[i : i + 1]})[0] for i in range(5)])
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-4)


def test_images_that_are_all_alike_prove_nothing() -> None:
    """Centring over the batch leaves equal images as they are; noise tells."""
    alike = np.repeat(models.images(1), 8, axis=0)
    assert settle_batching(opened(models.stuck_batch()), alike).opened.step == 1


def test_masks_go_with_their_images_where_the_last_batch_is_padded() -> None:
    model = models.stuck_batch()
    sites = find_sites(model)
    masked = instrument(model, sites, random_levels(sites))
    x = models.images(5)
    rows = {"conv/mask": np.random.default_rng(0).random((5, 4, 1, 1)) < 0.5}
    one_by_one = Runner(masked, "image", 1).run(x, rows)["logits"]
    expected = [
        run(masked, {"image": x[i : i + 1], "conv/mask": rows["conv/mask"][i : i + 1]})[0]
        for i in range(5)
    ]
    np.testing.assert_allclose(one_by_one, np.concatenate(expected), rtol=1e-4, atol=1e-4)


def test_a_free_batch_is_left_alone() -> None:
    model = models.own_bias()
    batching = settle_batching(opened(model), models.images(3))
    assert batching.opened.model is model
    assert batching.summary == "any batch"


def test_images_that_do_not_fit_end_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"cannot run the model on images of shape \(2, 3, 6, 6\)"):
        Runner(models.own_bias(), "image", None).run(np.zeros((2, 3, 6, 6), np.float32))


@pytest.mark.parametrize("make", [wild_models.squeezed, wild_models.with_token])
def test_sizes_axes_and_joined_constants_are_freed(make: Callable[..., ModelProto]) -> None:
    model = make()
    x = models.images(7)
    batching = settle_batching(opened(model), x[:4])
    assert batching.opened.step is None, batching.summary
    together = Runner(batching.opened.model, "image", None).run(x)["logits"]
    alone = [run(model, {"image": x[i : i + 1]})[0].reshape(1, 3) for i in range(7)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [wild_models.squeezed, wild_models.with_token])
def test_a_batch_that_is_free_by_name_alone_is_freed_indeed(
    make: Callable[..., ModelProto],
) -> None:
    batching = settle_batching(opened(make(batch="batch")), models.images(4))
    assert batching.opened.step is None
    assert batching.summary.startswith("any batch (hard-wired at 1; freed")


def test_a_free_batch_whose_images_change_one_another_goes_one_at_a_time() -> None:
    model = wild_models.centred()
    batching = settle_batching(opened(model), models.images(4))
    assert (batching.opened.model, batching.opened.step) == (model, 1)
    assert "over the images of a batch" in batching.summary
    assert "costs about" in batching.note


def test_an_output_without_a_batch_axis_gets_one() -> None:
    model = wild_models.squeezed()
    x = models.images(3)
    answers = Runner(model, "image", 1).run(x)["logits"]
    assert answers.shape == (3, 3)
    np.testing.assert_array_equal(answers[1], run(model, {"image": x[1:2]}, optimise=True)[0])


def test_re_batching_leaves_its_argument_as_it_was() -> None:
    for make in (wild_models.squeezed, wild_models.with_token, models.fixed_batch):
        model = make()
        before = model.SerializeToString(deterministic=True)
        rebatch(model, "image")
        assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_compared_without_a_warning(odd: float) -> None:
    expected = np.array([[odd, 1.0], [0.5, -2.0]], np.float32)
    assert _same(expected.copy(), expected, 2)
    assert not _same(np.array([[odd, 1.0], [0.5, -2.1]], np.float32), expected, 2)
    assert not _same(np.nan_to_num(expected, nan=0.0, posinf=9.0), expected, 2)


def test_a_fixed_batch_of_several_whose_images_mix_says_what_an_answer_depends_on() -> None:
    model = models.stuck_batch()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    batching = settle_batching(opened(model), models.images(6))
    assert batching.opened.step == 4
    assert "depends on the 3 beside it, which are the next in the order" in batching.note
    assert "node 'centre' (ReduceMean)" in batching.note


def test_the_order_and_the_company_of_images_are_tried() -> None:
    """Each image, in reverse and beside noise out of range, gets what it gets alone."""
    x = models.images(4)
    batching = settle_batching(opened(models.own_bias()), x)
    assert batching.answers is not None
    found = batching.answers["logits"]
    alone = [run(models.own_bias(), {"image": x[i : i + 1]}, optimise=True)[0] for i in range(4)]
    np.testing.assert_allclose(found, np.concatenate(alone), rtol=1e-5, atol=1e-5)
