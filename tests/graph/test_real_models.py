"""Models that others made: sites, masks, baking, and nothing else changed."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from repairkit.core.filters import FrozenFilter, Patch, Roster
from repairkit.graph.baking import bake, representable, revert
from repairkit.graph.kinds.sites import instrument, survey
from repairkit.graph.stored.model_files import same_model
from tests.running import all_present, input_name, random_levels, run
from tests.zoo import LIGHT_MODELS, ZOO_MODELS, needs_zoo

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_SLOW = {
    f"light_{name}"
    for name in ("vgg19", "bvlc_alexnet", "zfnet512", "densenet121", "resnet50", "inception_v2")
}
MODELS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in _SLOW else [])
    for path in (*ZOO_MODELS, *LIGHT_MODELS)
]


def load(path: Path) -> ModelProto:
    """A model; the light ones get random weights, since all of theirs are equal.

    The weights keep activations of one size through the depth, and tell classes apart.
    """
    model = onnx.load(path)
    if not path.stem.startswith("light_"):
        return model
    rng = np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    readers = {name: node.op_type for node in model.graph.node for name in node.input}
    for node in list(model.graph.node):
        if node.op_type != "ConstantOfShape":
            continue
        name, shape = node.output[0], shapes[node.input[0]].tolist()
        array = _weights(rng, shape, readers[name]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, shape))
        model.graph.node.remove(node)
    return model


def _weights(rng: np.random.Generator, shape: list[int], reader: str) -> np.ndarray:
    if len(shape) > 1:
        gain = 1.5 if reader == "Conv" else 6.0
        return rng.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
    if reader in ("BatchNormalization", "Unsqueeze"):
        return rng.uniform(0.5, 1.5, shape)
    return 0.1 * rng.standard_normal(shape)


def image_of(model: ModelProto, seed: int = 0) -> np.ndarray:
    value = next(i for i in model.graph.input if i.name == input_name(model))
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    shape = [1, *(d or 64 for d in dims[1:])]
    rng = np.random.default_rng(seed)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


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
    masks = all_present(found.sites)
    plain = run(model, feeds)
    for ours, theirs in zip(run(masked, feeds | masks), plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    roster = Roster(found.sites)
    chosen = np.random.default_rng(1).choice(len(roster), 5, replace=False).tolist()
    frozen = []
    for player in chosen:
        f = roster.filters[player]
        frozen.append(FrozenFilter(f, float(levels[f.site][f.channel])))
        masks[f"{f.site}/mask"].reshape(-1)[f.channel] = False
    baked = bake(survey(model), Patch(tuple(frozen)))
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
