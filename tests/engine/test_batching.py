"""A graph fixed at batch 1 is freed where that provably changes nothing, else run one by one."""

import numpy as np
import pytest

from repairkit.core.errors import ModelError
from repairkit.engine.runner import Runner, settle_batching
from repairkit.graph.instrument import instrument
from repairkit.graph.sites import find_sites
from tests import models
from tests.running import random_levels, run


def test_a_hard_wired_batch_is_freed_and_keeps_each_output() -> None:
    model = models.fixed_batch()
    x = models.images(9)
    batching = settle_batching(model, "image", x[:4])
    assert batching.step is None
    assert "checked on 4 images and noise" in batching.how
    together = Runner(batching.model, "image", None).run(x)["logits"]
    alone = np.concatenate([run(model, {"image": x[i : i + 1]})[0] for i in range(9)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_where_batching_changes_outputs_images_go_one_at_a_time() -> None:
    model = models.stuck_batch()
    x = models.images(5)
    batching = settle_batching(model, "image", x[:4])
    assert batching.model is model
    assert batching.step == 1
    assert "changes when images are batched" in batching.how
    found = Runner(model, "image", batching.step).run(x)["logits"]
    alone = np.concatenate([run(model, {"image": x[i : i + 1]})[0] for i in range(5)])
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-4)


def test_images_that_are_all_alike_prove_nothing() -> None:
    """Centring over the batch leaves equal images as they are; noise tells."""
    alike = np.repeat(models.images(1), 8, axis=0)
    assert settle_batching(models.stuck_batch(), "image", alike).step == 1


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
    batching = settle_batching(model, "image", models.images(3))
    assert batching.model is model
    assert batching.how == "any batch"


def test_images_that_do_not_fit_end_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"cannot run the model on images of shape \(2, 3, 6, 6\)"):
        Runner(models.own_bias(), "image", None).run(np.zeros((2, 3, 6, 6), np.float32))
