"""Stacked rows, as on a GPU; through the CPU provider where there is none."""

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

from repairkit.core.errors import DeviceError
from repairkit.core.suite import Precision
from repairkit.engine import masks as masks_module
from repairkit.engine.cones import stacked as stacked_module
from repairkit.engine.cones.stacked import StackedEvaluator
from repairkit.engine.evaluator import difference, keep_all
from repairkit.engine.masks import MaskEvaluator, ScatteredEvaluator, with_scattered
from repairkit.engine.runner import Runner
from repairkit.engine.working import open_evaluator, open_stacked
from repairkit.graph.coalitions.recast import recast
from repairkit.graph.kinds.sites import instrument
from tests.engine.games import Setup, deep_model, set_up
from tests.models import LAYERS, images

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
ON_A_CARD = [pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_A_CARD)]
# What a card alone rounds differently is left out on the CPU.
WAYS = [
    ("cpu", "float32"),
    ("cpu", "float16"),
    *(pytest.param("cuda", p, marks=ON_A_CARD) for p in ("float32", "tf32", "float16")),
]
NO_ROOM = onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException


def stacked(
    setup: Setup, device: str, *, precision: Precision = "float32", **options: int
) -> StackedEvaluator:
    sample, half = setup.suite.batch(np.arange(1)), precision == "float16"
    compiled = setup.candidates.compile("stacked masks", sample, half=half)
    assert compiled is not None
    tf32 = precision == "tf32"
    return StackedEvaluator(compiled, setup.suite, device=device, tf32=tf32, **options)


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


def assert_agree(found: Any, expected: Any, precision: Precision = "float32") -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs, precision=precision) is None


@pytest.mark.parametrize(("device", "precision"), WAYS)
@pytest.mark.parametrize("name", ["deep", *LAYERS])
def test_stacked_rows_agree_with_the_instrumented_model(
    name: str, device: str, precision: Precision
) -> None:
    model = deep_model() if name == "deep" else LAYERS[name]()
    setup = set_up(model, images(9, dtype="float16" if name == "half_precision" else "float32"))
    if setup.batching.opened.step is not None:
        return
    evaluator = stacked(setup, device, precision=precision, batch_size=4, stack_memory=100_000)
    for rows, drawn in rounds(len(setup.roster)):
        found = evaluator.answer(rows, drawn, keep_all)
        assert_agree(found, setup.reference().answer(rows, drawn, keep_all), precision)


def test_half_precision_is_half_precision() -> None:
    """Tensors are half as large, and answers are not those of 32 bits."""
    setup = set_up(deep_model(), images(9))
    whole, half = stacked(setup, "cpu"), stacked(setup, "cpu", precision="float16")
    everything = half.routes.worth_keeping
    assert everything
    assert {half.compiled.shapes[n].dtype for n in half.routes.anatomy.names_of(everything)} == {
        "float16"
    }
    rows, drawn = rounds(len(setup.roster))[0]
    found = [e.answer(rows, drawn, keep_all) for e in (whole, half)]
    assert found[1].dtype == np.float32
    assert (found[0] != found[1]).any()


class Crowded:
    """A device on which a run of more than so many rows has no room.

    Stands in for `open_session`: real sessions, whose runs fail as the runtime's do.
    """

    def __init__(self, at_most: int, *, lasting: bool = True) -> None:
        self.at_most, self.lasting = at_most, lasting
        self.sizes: list[int] = []
        self.n_failed = 0

    def open_session(self, *arguments: Any, **options: Any) -> "CrowdedSession":
        return CrowdedSession(self, OPEN(*arguments, **options))


OPEN = stacked_module.ort.open_session


class CrowdedSession:
    def __init__(self, device: Crowded, session: Any) -> None:
        self.device, self.session = device, session
        self.rows = 0

    def io_binding(self) -> Any:
        binding = self.session.io_binding()
        bind = binding.bind_ortvalue_input

        def spy(name: str, value: Any) -> None:
            if name == stacked_module.COUNT:
                self.rows = int(value.numpy()[0])
            bind(name, value)

        binding.bind_ortvalue_input = spy
        return binding

    def run_with_iobinding(self, binding: Any) -> None:
        self.device.sizes.append(self.rows)
        if self.rows > self.device.at_most:
            self.device.n_failed += 1
            if not self.device.lasting:
                self.device.at_most = 10**9
            raise NO_ROOM(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
                "running Conv node. Status Message: BFCArena::AllocateRawInternal(size_t, ...) "
                "Failed to allocate memory for requested buffer of size 1048576"
            )
        self.session.run_with_iobinding(binding)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_out_of_memory_halves_the_stack(
    monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    setup = set_up(deep_model(), images(9))
    rows, drawn = rounds(len(setup.roster))[0]
    expected = stacked(setup, "cpu", precision=precision).answer(rows, drawn, keep_all)
    device = Crowded(2)
    monkeypatch.setattr(stacked_module.ort, "open_session", device.open_session)
    evaluator = stacked(setup, "cpu", precision=precision)
    assert_agree(evaluator.answer(rows, drawn, keep_all), expected, precision)
    assert max(device.sizes) > 2
    failed = device.n_failed
    evaluator.answer(rows, drawn, keep_all)
    assert device.n_failed == failed  # it has learnt


def test_memory_that_other_sessions_hold_is_freed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack need not be halved where closing the other sessions makes room."""
    setup = set_up(deep_model(), images(9))
    rows, drawn = rounds(len(setup.roster))[0]
    expected = stacked(setup, "cpu").answer(rows, drawn, keep_all)
    device = Crowded(2, lasting=False)
    monkeypatch.setattr(stacked_module.ort, "open_session", device.open_session)
    found = stacked(setup, "cpu").answer(rows, drawn, keep_all)
    np.testing.assert_array_equal(found, expected)
    first = next(i for i, size in enumerate(device.sizes) if size > 2)
    assert device.n_failed == 1
    assert device.sizes[first] == device.sizes[first + 1]


def test_one_row_without_room_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(deep_model(), images(9))
    monkeypatch.setattr(stacked_module.ort, "open_session", Crowded(0).open_session)
    rows = rounds(len(setup.roster))[0][0]
    with pytest.raises(DeviceError, match=r"one coalition of 9 images .* use a smaller --batch"):
        stacked(setup, "cpu").answer(rows, None, keep_all)


@pytest.mark.parametrize(("device", "precision"), WAYS)
def test_a_game_opens_stacked_where_that_is_proven(device: str, precision: Precision) -> None:
    setup = set_up(deep_model(), images(9))
    masks = rough(setup, device, precision)
    evaluator = open_stacked(setup.candidates, setup.reference(), masks, precision=precision)
    assert evaluator.path == f"stacked masks and cones on {device}"


def rough(setup: Setup, device: str, precision: Precision) -> MaskEvaluator:
    """The instrumented model in a precision."""
    masked = instrument(setup.batching.opened.model, setup.roster.sites, setup.means)
    model = recast(masked, "float16") if precision == "float16" else masked
    runner = Runner(
        model, "image", None, outputs=("logits",), device=device, tf32=precision == "tf32"
    )
    return MaskEvaluator(runner, setup.roster, setup.suite)


def test_a_model_that_overflows_in_half_precision_is_refused() -> None:
    """Its activations go beyond 65,504 and come back."""
    model = deep_model()
    for tensor in model.graph.initializer:
        factor = {"stem_w": 1e6, "stem_b": 1e6, "inner_w": 1e-6, "left_w": 1e-6, "right_w": 1e-6}
        if tensor.name in factor:
            array = numpy_helper.to_array(tensor) * np.float32(factor[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    setup = set_up(model, images(9))
    with pytest.raises(DeviceError, match="does not work in half precision"):
        open_evaluator(
            setup.candidates,
            setup.reference(),
            quick=("float16", rough(setup, "cpu", "float16").runner),
        )


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")
def test_a_game_on_a_card_is_stacked() -> None:
    setup = set_up(deep_model(), images(9))
    evaluator = open_evaluator(setup.candidates, rough(setup, "cuda", "float32"))
    assert evaluator.path == "stacked masks and cones on cuda"


def test_a_stacked_run_keeps_everything_it_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(deep_model(), images(9))
    evaluator = stacked(setup, "cpu")
    fed: list[weakref.ref[Any]] = []
    gone: list[int] = []
    inputs, run = evaluator.cones._inputs, onnxruntime.InferenceSession.run_with_iobinding

    def watched_inputs(*arguments: Any) -> dict[str, Any]:
        made = inputs(*arguments)
        fed[:] = [weakref.ref(value) for value in made.values()]
        return made

    def watched_run(session: Any, binding: Any) -> None:
        gone.append(sum(value() is None for value in fed))
        run(session, binding)

    monkeypatch.setattr(evaluator.cones, "_inputs", watched_inputs)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", watched_run)
    rows = np.random.default_rng(0).random((6, len(setup.roster))) < 0.7
    evaluator.answer(rows, None, keep_all)
    assert gone
    assert not any(gone)


def on_a_card(monkeypatch: pytest.MonkeyPatch, setup: Setup, batch_size: int) -> MaskEvaluator:
    """The judge as it says that it is on a card, run by the CPU provider."""
    monkeypatch.setattr(masks_module, "session_device", lambda _: "cuda")
    judge = setup.reference(batch_size=batch_size)
    assert judge.device == "cuda"
    return judge


def test_rows_of_few_images_share_full_batches_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(deep_model(), images(9))
    rng = np.random.default_rng(0)
    rows, drawn = rng.random((37, len(setup.roster))) < 0.7, rng.integers(0, 9, (37, 2))
    expected = setup.reference().answer(rows, drawn, keep_all)
    judge = on_a_card(monkeypatch, setup, batch_size=20)
    sizes: list[int] = []
    run = judge.run

    def watched(coalitions: np.ndarray, positions: np.ndarray) -> Any:
        sizes.append(len(positions))
        return run(coalitions, positions)

    scattered = with_scattered(stacked(setup, "cpu"), judge, macs=1e12)
    assert isinstance(scattered, ScatteredEvaluator)
    monkeypatch.setattr(judge, "run", watched)
    assert_agree(scattered.answer(rows, drawn, keep_all), expected)
    assert sizes == [20, 20, 20, 20]


def test_images_that_go_one_by_one_are_not_stacked_on_a_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = set_up(deep_model(), images(9))
    judge = on_a_card(monkeypatch, setup, batch_size=4)
    alone = replace(setup.candidates, step=1)
    assert open_evaluator(alone, judge) is judge
