"""Affine masks give what the instrumented model gives."""

import numpy as np
import onnx
import pytest

from repairkit.engine.evaluator import keep_all
from repairkit.engine.masks import AffineMasks, ScatteredEvaluator, with_scattered
from repairkit.engine.runner import Runner
from repairkit.graph.coalitions.masking import with_affine_masks
from repairkit.graph.kinds.sites import instrument
from tests import models
from tests.engine.games import Setup, deep_model, set_up


def mixer_of(setup: Setup) -> AffineMasks | None:
    masked = instrument(setup.batching.opened.model, setup.roster.sites, setup.means)
    model = with_affine_masks(masked, setup.roster.sites)
    if model is None:
        return None
    onnx.checker.check_model(model, full_check=True)
    runner = Runner(model, setup.runner.input_name, None, outputs=setup.runner.outputs)
    return AffineMasks(runner, setup.reference(), setup.means)


@pytest.mark.parametrize("layer", sorted(models.LAYERS))
def test_affine_masks_are_the_masks(layer: str) -> None:
    kind = np.float16 if layer == "half_precision" else np.float32
    setup = set_up(models.LAYERS[layer](), models.images(12, seed=2).astype(kind))
    mixer = mixer_of(setup)
    if mixer is None or setup.batching.opened.step is not None:  # then nothing is mixed
        assert setup.batching.opened.step or any(s.dtype != "float32" for s in setup.roster.sites)
        return
    rng = np.random.default_rng(0)
    rows, positions = rng.random((40, len(setup.roster))) < 0.6, rng.integers(0, 12, 40)
    expected = setup.reference().run(rows, positions)
    np.testing.assert_allclose(mixer.run(rows, positions), expected, rtol=1e-5, atol=1e-5)


def test_they_are_taken_where_they_agree_and_not_where_they_do_not() -> None:
    setup = set_up(deep_model(), models.images(12, seed=2))
    masks, mixer = setup.reference(), mixer_of(setup)
    assert mixer is not None
    found = with_scattered(masks, masks, mixer=mixer)
    assert isinstance(found, ScatteredEvaluator)
    assert found.mixer is mixer
    rng = np.random.default_rng(1)
    rows, images = rng.random((50, len(setup.roster))) < 0.7, rng.integers(0, 12, (50, 2))
    plain = masks.answer(rows, images, keep_all)
    np.testing.assert_allclose(found.answer(rows, images, keep_all), plain, rtol=1e-5, atol=1e-5)
    mixer._levels = [levels + 1 for levels in mixer._levels]
    fallen_back = with_scattered(masks, masks, mixer=mixer)
    assert isinstance(fallen_back, ScatteredEvaluator)
    assert fallen_back.mixer is masks


def test_a_run_that_multiplied_an_infinity_is_done_again_by_the_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = set_up(models.LAYERS["own_bias"](), models.images(6, seed=1))
    mixer = mixer_of(setup)
    assert mixer is not None
    rows, positions = np.ones((6, len(setup.roster)), bool), np.arange(6)
    expected = setup.reference().run(rows, positions)
    broken = {name: np.full_like(expected, np.nan) for name in mixer.runner.outputs}
    monkeypatch.setattr(mixer.runner, "run", lambda *_, **__: broken)
    np.testing.assert_array_equal(mixer.run(rows, positions), expected)


def test_what_is_no_plain_channel_is_left_to_the_masks() -> None:
    setup = set_up(deep_model(), models.images(4, seed=2))
    masked = instrument(setup.batching.opened.model, setup.roster.sites, setup.means)
    half = tuple(
        s if k else type(s)(**{**vars(s), "dtype": "float16"})
        for k, s in enumerate(setup.roster.sites)
    )
    assert with_affine_masks(masked, half) is None
