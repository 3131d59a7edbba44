"""Which evaluator a game gets, and that a wrong one is never taken."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto

from repairkit.engine.cones import compiled as compiled_module
from repairkit.engine.cones.fast import FastEvaluator, cones_fault
from repairkit.engine.evaluator import ExpectedAnswers, keep_all
from repairkit.engine.working import open_evaluator
from repairkit.graph.coalitions import weight_space as switches_module
from repairkit.graph.coalitions.weight_space import Switched
from tests import models
from tests.engine.games import deep_model, set_up


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (models.normalised, "blocked weights and cones"),
        (models.depthwise, "plain weights and cones"),
        (models.transposed, "mask nodes and cones"),
        (models.stuck_batch, "instrumented, as written"),
    ],
)
def test_every_path_is_taken_by_some_model(make: Callable[[], ModelProto], path: str) -> None:
    setup = set_up(make(), models.images(9))
    assert open_evaluator(setup.candidates, setup.reference()).path == path


def test_a_graph_that_is_not_understood_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches_module, "_BLOCKS", (3,))  # no block is this large
    setup = set_up(deep_model(), models.images(9))
    evaluator = open_evaluator(setup.candidates, setup.reference())
    assert evaluator.path == "plain weights and cones"


def test_a_wrong_map_of_lanes_is_caught(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find_switches = switches_module.find_switches

    def swapped(*arguments: object) -> Switched:
        found: Switched = find_switches(*arguments)  # type: ignore[arg-type]
        for switch in found.switches:
            if switch.block > 1:
                kernel = found.trained[switch.kernel]
                kernel[:] = kernel[..., ::-1]
        return found

    monkeypatch.setattr(switches_module, "find_switches", swapped)
    setup = set_up(deep_model(), models.images(9))
    evaluator = open_evaluator(setup.candidates, setup.reference())
    assert evaluator.path == "plain weights and cones"
    assert "blocked weights and cones are not used: with 0 filters absent" in caplog.text


def test_a_wrong_overwrite_is_caught(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = compiled_module._constant_lanes

    def wrong(*arguments: object) -> object:
        found = right(*arguments)  # type: ignore[arg-type]
        if found is not None and found.absent is not None:
            found.absent[...] += 0.5
        return found

    monkeypatch.setattr(compiled_module, "_constant_lanes", wrong)
    setup = set_up(deep_model(), models.images(9))
    evaluator = open_evaluator(setup.candidates, setup.reference())
    assert isinstance(evaluator, FastEvaluator)
    assert evaluator.routes.overwrites == (None,) * len(setup.roster.sites)
    assert "blocked weights and cones are not used" in caplog.text


def test_cones_are_proven_bit_for_bit() -> None:
    setup = set_up(deep_model(), models.images(9))
    compiled = setup.candidates.compile("blocked weights", setup.suite.batch(np.arange(1)))
    assert compiled is not None
    evaluator = FastEvaluator(compiled, setup.suite)
    assert cones_fault(evaluator, np.arange(9)) is None
    agreement = ExpectedAnswers.ask(setup.reference(), len(setup.roster), 9, 1.0)
    assert agreement.fault(evaluator) is None


def test_a_site_late_in_the_network_runs_only_what_is_behind_it() -> None:
    setup = set_up(deep_model(), models.images(9), patterns=("last",))
    evaluator = open_evaluator(setup.candidates, setup.reference())
    assert isinstance(evaluator, FastEvaluator)
    routes = evaluator.routes
    everyone, nobody = np.ones(len(setup.roster), bool), np.zeros(len(setup.roster), bool)
    route = routes.route(routes.difference(everyone, nobody), routes.worth_keeping, 0)
    assert {routes.anatomy.nodes[p].op_type for p in route.piece.nodes} <= {
        "Flatten",
        "Gemm",
    }
    assert route.cost < 0.1 * routes.full.cost
    rows = np.array([[code >> p & 1 for p in range(len(setup.roster))] for code in range(64)], bool)
    np.testing.assert_allclose(
        evaluator.answer(rows, None, keep_all),
        setup.reference().answer(rows, None, keep_all),
        rtol=1e-4,
        atol=1e-5,
    )
