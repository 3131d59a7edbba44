"""Engine and instrumented model agree on real models; 64 bits judge where 32 round differently."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from repairkit.core.game import Coalitions
from repairkit.core.suite import Array
from repairkit.engine.cones.candidates import WAYS
from repairkit.engine.cones.fast import FastEvaluator
from repairkit.engine.cones.stacked import StackedEvaluator
from repairkit.engine.evaluator import STEPS_OF_ONE, Evaluator, ThreadExecutor, difference, keep_all
from repairkit.engine.masks import with_scattered
from repairkit.engine.working import open_evaluator
from repairkit.graph.coalitions.masking import mask_name, mask_shape
from repairkit.graph.coalitions.recast import recast
from repairkit.graph.kinds.sites import instrument
from tests.engine.games import Setup, set_up
from tests.models import model_of
from tests.running import run
from tests.zoo import LIGHT_MODELS, ZOO_MODELS, image_of, load

REAL = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow])
    for path in (*ZOO_MODELS, *LIGHT_MODELS)
]
N_ROWS = 200
# Those that take from a tenth of a second to half a second a pass; two images for the others.
ONE_IMAGE = {"light_vgg19", "light_resnet50", "light_densenet121", "light_bvlc_alexnet"}
# With these weights the dense layers round by more than 1e-5, so that the product plays it safe.
ROUNDED = {"light_bvlc_alexnet"}
RELATIVE = 1e-5
NEARLY = 2  # times as far from 64 bits as the instrumented model at the most


def paths(setup: Setup) -> Iterator[tuple[str, Evaluator]]:
    """Every path that a model can take; one is closed before the next is opened."""
    sample = setup.suite.batch(np.arange(1))
    rounds = setup.candidates.rounding is not None
    for way in setup.candidates.ways if rounds else WAYS:
        compiled = replace(setup.candidates, _compiled={}).compile(way, sample)
        if compiled is not None and way == "stacked masks":
            yield (
                way,
                StackedEvaluator(compiled, setup.suite, device="cpu"),
            )
        elif compiled is not None:
            yield way, FastEvaluator(compiled, setup.suite, executor=ThreadExecutor(2))
        del compiled


def unsure(found: Array, expected: Array) -> NDArray[np.intp]:
    """Rows that differ by more than 1e-5 of their largest output, or in the class of an image."""
    ours, theirs = (x.astype(np.float64).reshape(len(x), x.shape[1], -1) for x in (found, expected))
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    ours, theirs = np.nan_to_num(ours), np.nan_to_num(theirs)
    gap, scale = np.abs(ours - theirs).max(axis=(1, 2)), np.abs(theirs).max(axis=(1, 2))
    classes = np.prod(found.shape[3:], dtype=int) == 1
    other = (ours.argmax(axis=2) != theirs.argmax(axis=2)).any(axis=1)
    return np.flatnonzero((gap > RELATIVE * scale) | (other & classes))


class Truth:
    """The instrumented model in 64 bits, by the reference implementation of the standard."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.known: dict[bytes, Array] = {}

    @cached_property
    def model(self) -> ReferenceEvaluator:
        setup = self.setup
        masked = instrument(setup.batching.opened.model, setup.roster.sites, setup.means)
        return ReferenceEvaluator(recast(masked, "float64"))

    def answer(self, row: NDArray[np.bool_]) -> Array:
        """The outputs of all images under a row."""
        setup, key = self.setup, row.tobytes()
        if key not in self.known:
            masks = {
                mask_name(site): row[setup.roster.slices[site.name]].reshape(mask_shape(site, 1))
                for site in setup.roster.sites
            }
            images = [setup.suite.batch(np.array([i])) for i in range(len(setup.suite))]
            name, output = setup.runner.input_name, list(setup.runner.outputs)
            parts = [self.model.run(output, {name: image, **masks})[0] for image in images]
            self.known[key] = np.concatenate(parts).astype(np.float64)
        return self.known[key]


@pytest.mark.parametrize("path", REAL)
def test_every_path_agrees_on_200_random_coalitions(path: Path) -> None:
    model = load(path)
    n_images = 1 if path.stem in ONE_IMAGE else 2
    setup = set_up(model, np.concatenate([image_of(model, seed) for seed in range(n_images)]))
    rng = np.random.default_rng(0)
    rows = rng.random((N_ROWS, len(setup.roster))) < rng.random((N_ROWS, 1))
    reference = setup.reference(executor=ThreadExecutor(2))
    expected, truth = reference.answer(rows, None, keep_all), Truth(setup)
    if setup.batching.opened.step is None:
        candidates = replace(setup.candidates, _compiled={})
        opened = open_evaluator(candidates, setup.reference())
        rounds = candidates.rounding is not None and candidates.rounding.at_the_end
        assert opened.path.startswith("instrumented") == (path.stem in ROUNDED or rounds)
        del candidates, opened
    n_paths = 0
    for name, evaluator in paths(setup):
        n_paths += 1
        _judge(name, evaluator.answer(rows, None, keep_all), expected, rows, truth)
    assert (
        n_paths or setup.batching.opened.step is not None or setup.candidates.rounding is not None
    )
    drawn = rng.integers(0, n_images, (N_ROWS, 1))
    each = with_scattered(reference, reference).answer(rows, drawn, keep_all)
    one = np.take_along_axis(expected, drawn.reshape(-1, 1, *[1] * (expected.ndim - 2)), axis=1)
    if each.shape == one.shape:  # a detector may put several rows of output to an image
        assert not len(unsure(each, one)) or np.abs(each - one).max() <= STEPS_OF_ONE


def _judge(name: str, found: Array, expected: Array, rows: Coalitions, truth: Truth) -> None:
    """Where the two round differently, the path must be as near to 64 bits as the other is."""
    numbers = unsure(found, expected)
    if not len(numbers):
        return
    exact = np.stack([truth.answer(rows[number]) for number in numbers])
    each = tuple(range(1, exact.ndim))
    unit = RELATIVE * np.abs(exact).max(axis=each) + STEPS_OF_ONE / 2  # rows are of many sizes
    far = [np.abs(x[numbers] - exact).max(axis=each) for x in (found, expected)]
    ours, theirs = (float((x / unit).max()) for x in far)
    told = (
        f"{name}: {len(numbers)} rows; from 64 bits {far[0].max():.2g} or {ours:.2g} units, "
        f"instrumented {far[1].max():.2g} or {theirs:.2g} units"
    )
    logging.getLogger(__name__).warning(told)  # `-o log_cli=true` shows the figures
    assert ours <= NEARLY * theirs, told


def test_a_small_sigmoid_is_rounded_as_one_is() -> None:
    """Why outputs between 0 and 1 may differ by steps of the rounding of 1, and not of their own.

    A small one lies within two and a half such steps of the truth, which can be all that it is.
    """
    model = model_of([helper.make_node("Sigmoid", ["image"], ["logits"], "sigmoid")], {})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = np.linspace(-17, -4, 2 * 6 * 6 * 500, dtype=np.float32).reshape(500, 2, 6, 6)
    found = run(model, {"image": x}, optimise=True)[0].astype(np.float64)
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.abs(found - exact).max() <= 2.5 * 2.0**-24 < STEPS_OF_ONE
    small = exact < 1e-6
    assert np.abs(found - exact)[small].max() > 100 * RELATIVE * exact[small].max()


def test_differences_beyond_rounding_are_told() -> None:
    right = np.array([[1.0, 0.5], [0.2, 0.3]])
    assert difference(right, right) is None
    assert difference(right + 1e-6, right) is None
    assert "differ by" in str(difference(right + 2e-5, right))
    assert difference(right + 1e-3, right, precision="float16") is None
    assert "differ by" in str(difference(right + 0.1, right, precision="tf32"))
    assert "no numbers" in str(difference(right * [np.nan, 1], right))
    tied = np.array([[5.0, 5.0 + 3e-5]])
    assert "another class" in str(difference(tied[:, ::-1], tied))
    assert difference(tied[:, ::-1], tied, precision="float16") is None
