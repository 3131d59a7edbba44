from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.outputs import OutputForm, shift_outputs

KINDS = {"logits": 3, "probabilities": 3, "binary-probability": 1, "binary-logit": 1}


def outputs_of(kind: str, seed: int, n: int = 6) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(size=(n, KINDS[kind]))
    if kind == "probabilities":
        return np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-raw)) if kind == "binary-probability" else raw


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 50), shift=st.floats(-3, 3))
@settings(deadline=None, max_examples=20)
def test_a_shift_adds_its_biases_to_the_log_odds(kind, seed, shift):
    form, outputs = OutputForm(kind), outputs_of(kind, seed)
    biases = np.zeros(max(2, KINDS[kind]))
    biases[1] = shift
    before = form.log_probabilities(outputs)
    after = form.log_probabilities(shift_outputs(outputs, form, biases))
    moved = (after[:, 1] - after[:, 0]) - (before[:, 1] - before[:, 0])
    assert moved == pytest.approx(np.full(len(outputs), shift), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_shift_changes_no_prediction_and_the_argument_stays(kind):
    form, outputs = OutputForm(kind), outputs_of(kind, 1)
    kept = outputs.copy()
    shifted = shift_outputs(outputs, form, np.zeros(max(2, KINDS[kind])))
    assert (form.predictions(shifted) == form.predictions(outputs)).all()
    assert shifted.shape == outputs.shape
    shift_outputs(outputs, form, np.ones(max(2, KINDS[kind])))
    assert (outputs == kept).all()


def test_quantised_probabilities_become_probabilities():
    form = OutputForm("probabilities")
    codes = np.array([[200, 55], [100, 155]], np.uint8)
    shifted = shift_outputs(codes, form, np.array([0.0, np.log(4)]))
    assert shifted == pytest.approx(np.array([[200 / 420, 220 / 420], [100 / 720, 620 / 720]]))


def test_only_the_columns_that_are_judged_are_shifted():
    form = OutputForm("logits", columns=(1, 3))
    outputs = np.arange(8.0).reshape(2, 4, 1)
    shifted = shift_outputs(outputs, form, np.array([0.0, 2.0]))
    assert shifted.shape == (2, 4, 1)
    assert (shifted - outputs)[:, :, 0].tolist() == [[0, 0, 2, 0], [0, 0, 2, 0]]
