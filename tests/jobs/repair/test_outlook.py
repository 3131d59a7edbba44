"""What one pass shows of a wish is told before filters are scored."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.conftest import Answer, Project

Command = Callable[..., Answer]
FAST = ("--max-evaluations", "400", "--accept-preprocessing")


def never_answering(project: Project, number: int) -> None:
    """A model whose bias keeps it from one class; some images of it remain."""
    model = onnx.load(project.model)
    bias = next(t for t in model.graph.initializer if t.name == "fc_b")
    values = numpy_helper.to_array(bias).copy()
    values[number] -= 1e4
    bias.CopyFrom(numpy_helper.from_array(values, "fc_b"))
    onnx.save(model, project.model)
    stored = dict(np.load(project.data))
    stored["y"][::4] = number
    np.savez(project.data, **stored)


@pytest.mark.parametrize("wish", [("--objective", "recall:{}"), ("--target", "recall:{}>=0.5")])
@pytest.mark.parametrize("number", [0, 2])
def test_a_class_that_is_never_answered_is_told_before_the_search(
    repairkit: Command, project: Project, wish: tuple[str, str], number: int
) -> None:
    never_answering(project, number)
    words = (wish[0], wish[1].format(number))
    answer = repairkit("patch", project.model, *words, *FAST)
    said = f"never answers class {number} on the"
    assert said in answer.err
    assert "--repair bias or --repair last-layer" in answer.err
    # It is said before the search, and again where nothing is promised.
    lines = answer.err.splitlines()
    assert any(said in line for line in lines[:-1])
    assert (said in lines[-1]) == (answer.code == 4)
    quiet = repairkit("patch", project.model, *words, *FAST, "--json")
    assert answer.code == quiet.code
    if quiet.code == 4:
        assert said in json.loads(quiet.out)["error"]


def test_other_repairs_and_other_metrics_hear_nothing_of_it(
    repairkit: Command, project: Project
) -> None:
    never_answering(project, 1)
    bias = repairkit("patch", project.model, "--objective", "recall:1", "--repair", "bias", *FAST)
    assert "never answers" not in bias.err
    other = repairkit("patch", project.model, "--objective", "recall:0", *FAST)
    assert "never answers" not in other.err


def test_a_target_that_the_model_meets_is_told_with_its_figure(
    repairkit: Command, project: Project
) -> None:
    met = repairkit("patch", project.model, "--target", "loss<=16", *FAST)
    assert "the model meets the target loss<=16 as it is: " in met.err
    unmet = repairkit("patch", project.model, "--target", "accuracy>=0.999", *FAST)
    assert "as it is: " not in unmet.err
