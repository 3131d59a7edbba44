"""Stacked rows, as on a GPU; here through the CPU provider."""

import numpy as np
import onnxruntime
import pytest

from repairkit.core.errors import ModelError
from repairkit.engine.agreement import difference
from repairkit.engine.evaluator import keep_all
from repairkit.engine.opening import open_evaluator
from repairkit.engine.routes import Routes
from repairkit.engine.runner import Runner
from repairkit.engine.stacked import StackedEvaluator
from repairkit.graph.instrument import instrument
from tests.engine.games import Setup, deep_model, set_up
from tests.models import LAYERS, images

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")],
    ),
]


def stacked(setup: Setup, device: str, **options: int) -> StackedEvaluator:
    compiled = setup.candidates.compile("stacked masks", setup.suite.batch(np.arange(1)))
    assert compiled is not None
    routes = Routes(compiled, overwriting=False)
    return StackedEvaluator(routes, setup.suite, device=device, **options)


def rounds(n_players: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
    rng = np.random.default_rng(0)
    star = np.ones((n_players + 1, n_players), bool)
    star[1 + np.arange(n_players), np.arange(n_players)] = False
    order = rng.permutation(n_players)
    walk = np.array([order >= gone for gone in range(n_players)])
    random = rng.random((11, n_players)) < 0.6
    return [
        (star, None),
        (walk, np.tile(rng.integers(0, 9, 5), (len(walk), 1))),
        (random, rng.integers(0, 9, (11, 1))),
        (random[:1], None),
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["deep", *LAYERS])
def test_stacked_rows_agree_with_the_instrumented_model(name: str, device: str) -> None:
    model = deep_model() if name == "deep" else LAYERS[name]()
    setup = set_up(model, images(9, dtype="float16" if name == "half_precision" else "float32"))
    if setup.batching.step is not None:
        return
    evaluator = stacked(setup, device, batch_size=4, stack_memory=100_000)
    for rows, drawn in rounds(len(setup.roster)):
        found = evaluator.answer(rows, drawn, keep_all)
        expected = setup.reference().answer(rows, drawn, keep_all)
        for ours, theirs in zip(found, expected, strict=True):
            assert difference(ours, theirs) is None


def test_out_of_memory_halves_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(deep_model(), images(9))
    evaluator = stacked(setup, "cpu")
    rows, drawn = rounds(len(setup.roster))[0]
    run, sizes = StackedEvaluator._run, []

    def small(
        self: StackedEvaluator, piece: object, live: object, rows: np.ndarray, n: int
    ) -> object:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise ModelError("BFCArena: Failed to allocate memory for requested buffer")
        return run(self, piece, live, rows, n)  # type: ignore[arg-type]

    monkeypatch.setattr(StackedEvaluator, "_run", small)
    found = evaluator.answer(rows, drawn, keep_all)
    expected = setup.reference().answer(rows, drawn, keep_all)
    assert max(sizes) > 2
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) is None


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")
def test_a_game_on_a_card_is_stacked() -> None:
    setup = set_up(deep_model(), images(9))
    masked = instrument(setup.batching.model, setup.roster.sites, setup.means)
    runner = Runner(masked, "image", None, outputs=("logits",), device="cuda")
    evaluator = open_evaluator(setup.candidates, runner, setup.suite)
    assert evaluator.path == "stacked masks and cones on cuda"
