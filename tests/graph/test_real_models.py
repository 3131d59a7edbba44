"""Models that others made: sites, masks, baking, and nothing else changed."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from repairkit.core.filters import Roster
from repairkit.graph.baking import bake, representable, revert
from repairkit.graph.kinds.sites import instrument, survey
from repairkit.graph.stored.model_files import same_model
from tests.running import all_present, frozen_players, input_name, random_levels, run
from tests.zoo import LIGHT_MODELS, ZOO_MODELS, image_of, load, needs_zoo

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_SLOW = {
    f"light_{name}"
    for name in ("vgg19", "bvlc_alexnet", "zfnet512", "densenet121", "resnet50", "inception_v2")
}
MODELS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in _SLOW else [])
    for path in (*ZOO_MODELS, *LIGHT_MODELS)
]


@needs_zoo
def test_the_zoo_is_there() -> None:
    assert len(ZOO_MODELS) >= 9
    assert len(LIGHT_MODELS) == 9


@pytest.mark.parametrize("path", MODELS)
def test_every_layer_is_a_site_or_is_left_out_with_a_reason(path: Path) -> None:
    model = onnx.load(path)
    found = survey(model)
    layers = Counter(n.op_type for n in model.graph.node if n.op_type in LAYERS)
    told = Counter(s.kind for s in found.sites) + Counter(x.kind for x in found.left_out)
    assert told == layers
    assert all(x.reason for x in found.left_out)
    assert len(set(Roster(found.sites).filters)) == len(Roster(found.sites))
    assert len(Roster(found.sites)) > 0


@pytest.mark.parametrize("path", MODELS)
def test_masked_and_baked_agree_and_nothing_else_changes(path: Path) -> None:
    model = load(path)
    found = survey(model)
    feeds = {input_name(model): image_of(model)}
    levels = representable(found, random_levels(found.sites))
    masked = instrument(model, found.sites, levels)
    plain = run(model, feeds)
    for ours, theirs in zip(run(masked, feeds | all_present(found.sites)), plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    n = len(Roster(found.sites))
    chosen = np.random.default_rng(1).choice(n, 5, replace=False).tolist()
    patch, masks = frozen_players(found.sites, levels, chosen)
    baked = bake(survey(model), patch)
    for ours, theirs in zip(run(baked.model, feeds), run(masked, feeds | masks), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    onnx.checker.check_model(baked.model)
    assert same_model(revert(baked.model, baked.edits), model)


@pytest.mark.parametrize("path", [p for p in MODELS if "quant" not in p.id])
def test_with_optimisation_on_masked_and_plain_agree_closely(path: Path) -> None:
    model = load(path)
    found = survey(model)
    feeds = {input_name(model): image_of(model)}
    masked = instrument(model, found.sites, random_levels(found.sites))
    ours = run(masked, feeds | all_present(found.sites), optimise=True)
    for a, b in zip(ours, run(model, feeds, optimise=True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max() + 1e-7)
        if a.ndim == 2:  # class scores; a map of near-zeros has no one answer
            np.testing.assert_array_equal(a.argmax(1), b.argmax(1))
