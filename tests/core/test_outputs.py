from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import LOG_FLOOR, OutputEvidence, OutputForm

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)).astype(np.float32)
SOFTMAX = np.exp(log_softmax(LOGITS, axis=1))


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (SOFTMAX, "probabilities"),
        (SOFTMAX.astype(np.float16), "probabilities"),
        (SOFTMAX[:, :, None, None], "probabilities"),
        (LOGITS, "logits"),
        (LOGITS[:, None, None, :], "logits"),
        (np.abs(LOGITS), "logits"),
        (np.array([[0.2], [0.9]]), "binary-probability"),
        (np.array([0.2, 0.9]), "binary-probability"),
        (np.array([[True], [False]]), "binary-probability"),
        (np.array([[-0.2], [0.9]]), "binary-logit"),
        (np.array([0.2, 3.0]), "binary-logit"),
        (np.round(SOFTMAX * 255).astype(np.uint8), "probabilities"),
        (np.array([[200, 210, 190]], np.uint8), "logits"),
        (np.array([[-5, 7, 0]], np.int8), "logits"),
        (np.array([[np.nan, 0.5], [0.5, 0.5]]), "probabilities"),
    ],
)
def test_the_form_is_told_from_real_outputs(outputs, kind):
    assert OutputForm.detect(outputs).kind == kind


def test_a_regressor_gives_values():
    form = OutputForm.detect(np.array([[3.0], [40.0]]), regression=True)
    assert form == OutputForm("values")
    assert form.n_classes(np.zeros((2, 1))) == 1


@pytest.mark.parametrize(
    ("outputs", "regression", "error", "message"),
    [
        (np.zeros((2, 4420, 2)), False, SettingsError, r"shape \(2, 4420, 2\).*module:function"),
        (np.array(["a", "b"]), False, SettingsError, "type <U1.*--output"),
        (np.float32(3), False, SettingsError, r"shape \(\)"),
        (np.zeros((2, 3)), True, SettingsError, "3 numbers per image.*--output"),
        (np.array([3, 7]), False, SettingsError, "whole number per image, up to 7"),
        (np.full((2, 3), np.nan), False, DataError, "none of the 2 outputs.*preprocessing"),
        (np.zeros((0, 3)), False, DataError, "no outputs to judge"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(outputs, regression, error, message):
    with pytest.raises(error, match=message) as caught:
        OutputForm.detect(outputs, regression=regression)
    assert "\n" not in str(caught.value)


def test_binary_outputs_are_two_classes():
    probabilities, logits = OutputForm("binary-probability"), OutputForm("binary-logit")
    assert probabilities.n_classes(np.zeros((3, 1))) == 2
    np.testing.assert_allclose(probabilities.class_scores(np.array([0.25])), [[0.75, 0.25]])
    np.testing.assert_allclose(logits.class_scores(np.array([[2.0]])), [[0.0, 2.0]])
    np.testing.assert_array_equal(probabilities.predictions(np.array([0.49, 0.5])), [0, 1])
    np.testing.assert_array_equal(logits.predictions(np.array([[-0.1], [0.0]])), [0, 1])
    np.testing.assert_allclose(np.exp(logits.log_probabilities(np.array([0.7]))).sum(axis=1), [1.0])


def test_logits_and_their_softmax_say_the_same():
    from_logits = OutputForm("logits").log_probabilities(LOGITS)
    from_softmax = OutputForm("probabilities").log_probabilities(SOFTMAX)
    np.testing.assert_allclose(from_logits, from_softmax, rtol=1e-5)
    np.testing.assert_allclose(from_logits, log_softmax(LOGITS, axis=1), rtol=1e-5)


def test_a_quantised_softmax_is_divided_by_its_sum():
    scores = OutputForm("probabilities").class_scores(np.array([[51, 204], [0, 0]], np.uint8))
    np.testing.assert_allclose(scores, [[0.2, 0.8], [0.0, 0.0]])


def test_log_probabilities_have_a_floor_and_a_ceiling():
    assert pytest.approx(1e-7) == np.exp(LOG_FLOOR)
    logs = OutputForm("logits").log_probabilities(np.array([[0.0, 500.0]]))
    np.testing.assert_array_equal(logs, [[LOG_FLOOR, 0.0]])
    logs = OutputForm("probabilities").log_probabilities(np.array([[-0.1, 1.1]]))
    np.testing.assert_array_equal(logs, [[LOG_FLOOR, 0.0]])


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_rows_with_a_nan_are_wrong_and_never_raise(kind):
    outputs = np.array([[0.1, np.nan, 0.9], [0.2, 0.2, 0.6]])
    form = OutputForm(kind)
    np.testing.assert_array_equal(form.predictions(outputs), [-1, 2])
    logs = form.log_probabilities(outputs)
    np.testing.assert_array_equal(logs[0], np.full(3, LOG_FLOOR))
    assert (logs[1] > LOG_FLOOR).all()


@pytest.mark.parametrize("kind", ["binary-probability", "binary-logit"])
def test_a_binary_nan_is_wrong_and_never_raises(kind):
    form = OutputForm(kind)
    np.testing.assert_array_equal(form.predictions(np.array([np.nan, 0.9])), [-1, 1])
    logs = form.log_probabilities(np.array([[np.nan]]))
    np.testing.assert_array_equal(logs, [[LOG_FLOOR, LOG_FLOOR]])


def test_infinite_logits_never_raise():
    outputs = np.array([[np.inf, 0.0], [-np.inf, -np.inf], [-np.inf, 1.0]])
    form = OutputForm("logits")
    np.testing.assert_array_equal(form.predictions(outputs), [0, 0, 1])
    logs = form.log_probabilities(outputs)
    np.testing.assert_array_equal(logs[:2], np.full((2, 2), LOG_FLOOR))
    np.testing.assert_array_equal(logs[2], [LOG_FLOOR, 0.0])


def test_the_first_of_equal_scores_is_predicted():
    np.testing.assert_array_equal(OutputForm("logits").predictions(np.ones((1, 3))), [0])


def test_only_the_chosen_columns_count() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 20)
    outputs = np.hstack([rng.normal(100, 1, (20, 2)), scores, rng.normal(100, 1, (20, 4))])
    form = OutputForm.detect(outputs, columns=(2, 5))
    plain = OutputForm.detect(scores)
    assert form.kind == plain.kind == "probabilities"
    assert form.n_classes(outputs) == 3
    np.testing.assert_array_equal(form.predictions(outputs), plain.predictions(scores))
    np.testing.assert_array_equal(form.log_probabilities(outputs), plain.log_probabilities(scores))
    np.testing.assert_array_equal(
        form.predictions(outputs[:, :, None, None]), plain.predictions(scores)
    )


def test_a_single_column_can_be_chosen_for_a_regressor() -> None:
    outputs = np.arange(12.0).reshape(4, 3)
    form = OutputForm.detect(outputs, regression=True, columns=(1, 2))
    np.testing.assert_array_equal(form.class_scores(outputs), outputs[:, 1:2])


def test_columns_that_are_not_there_are_refused() -> None:
    with pytest.raises(SettingsError, match="the output has 3 columns and those from 2 to 4"):
        OutputForm.detect(np.ones((4, 3)), columns=(2, 5))


def test_a_threshold_moves_where_class_1_starts() -> None:
    outputs = np.array([[0.2], [0.6], [0.7], [0.9]])
    assert OutputForm.detect(outputs).predictions(outputs).tolist() == [0, 1, 1, 1]
    form = OutputForm.detect(outputs, threshold=0.7)
    assert form.predictions(outputs).tolist() == [0, 0, 1, 1]
    codes = np.array([[3], [200]], np.uint8)
    form = OutputForm.detect(codes, threshold=128)
    assert form.predictions(codes).tolist() == [0, 1]


def test_a_threshold_for_many_columns_is_refused() -> None:
    with pytest.raises(SettingsError, match="leave --threshold out"):
        OutputForm.detect(np.ones((4, 3)), threshold=0.5)
    with pytest.raises(SettingsError, match="judged as a regressor"):
        OutputForm.detect(np.ones((4, 1)), regression=True, threshold=0.5)


ASK = OutputEvidence(ask=True)


@pytest.mark.parametrize(
    ("ending", "one", "rows"),
    [
        ("linear", "binary-logit", "logits"),
        ("sigmoid", "binary-probability", "separate-probabilities"),
        ("softmax", "binary-probability", "probabilities"),
        ("log-softmax", "binary-probability", "logits"),
    ],
)
def test_the_graph_decides_before_the_numbers(ending, one, rows):
    """Of numbers that look like probabilities, and of some that do not."""
    evidence = OutputEvidence(ending=ending, operator="X", ask=True)
    column, table = np.linspace(0, 1, 40)[:, None], np.array([[0.25, 0.75], [0.5, 0.5]])
    assert OutputForm.detect(column, evidence=evidence).kind == one
    form = OutputForm.detect(table, evidence=evidence)
    assert form.kind == rows
    assert "the graph ends in X" in form.reading
    assert OutputForm.detect(3 * table, evidence=evidence).kind == rows


def test_the_user_decides_before_the_graph():
    said = OutputEvidence(said="probabilities", ending="linear", operator="Gemm")
    assert OutputForm.detect(np.array([[0.4], [2.0]]), evidence=said).kind == "binary-probability"
    logs = OutputEvidence(said="log-probabilities")
    table = np.log(np.array([[0.2, 0.8], [0.6, 0.4]]))
    form = OutputForm.detect(table, evidence=logs)
    np.testing.assert_allclose(form.log_probabilities(table), table)
    with pytest.raises(SettingsError, match=r"one number per image.*--outputs-are"):
        OutputForm.detect(np.array([[0.4]]), evidence=logs)


@given(seed=st.integers(0, 2**16), shift=st.floats(-3, 3), n=st.integers(30, 60))
@settings(max_examples=40, deadline=None)
def test_the_order_of_images_never_matters(seed, shift, n):
    rng = np.random.default_rng(seed)
    for outputs in (
        rng.normal(size=(n, 1)) + shift,
        rng.uniform(size=(n, 1)),
        rng.dirichlet(np.ones(3), n),
        rng.normal(size=(n, 3)) + shift,
    ):
        kinds = set()
        for order in (
            np.arange(n),
            np.arange(n)[::-1],
            rng.permutation(n),
            np.argsort(outputs[:, 0]),
        ):
            try:
                kinds.add(OutputForm.detect(outputs[order], evidence=ASK).kind)
            except SettingsError:
                kinds.add("asks")
        assert len(kinds) == 1


def test_numbers_that_could_be_either_are_asked_about():
    for outputs in (np.full((8, 1), 0.7), np.linspace(0.6, 0.9, 50)[:, None]):
        with pytest.raises(SettingsError, match="--outputs-are logits or --outputs-are"):
            OutputForm.detect(outputs, evidence=ASK)
    mixed = np.array([[0.5, 0.5]] * 9 + [[0.5, 1.5]])
    with pytest.raises(SettingsError, match="9 of 10 outputs add up to 1"):
        OutputForm.detect(mixed, evidence=ASK)


def test_rounding_above_one_makes_no_logit():
    column = np.linspace(0, 1, 40)[:, None] * (1 + 1e-6)
    assert OutputForm.detect(column, evidence=ASK).kind == "binary-probability"
    halves = np.random.default_rng(0).dirichlet(np.ones(50), 40).astype(np.float16)
    assert OutputForm.detect(halves.astype(np.float32), evidence=ASK).kind == "probabilities"


def test_separate_probabilities_are_compared_by_their_shares():
    form = OutputForm("separate-probabilities")
    outputs = np.array([[0.9, 0.3], [0.2, 0.2]])
    assert form.predictions(outputs).tolist() == [0, 0]
    np.testing.assert_allclose(np.exp(form.log_probabilities(outputs)), [[0.75, 0.25], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("said", "outputs", "doubted"),
    [
        ("probabilities", LOGITS, True),
        ("probabilities", LOGITS[:, :1], True),
        ("probabilities", SOFTMAX * 1.0005, False),
        ("log-probabilities", LOGITS, True),
        ("log-probabilities", np.log(SOFTMAX), False),
        ("logits", LOGITS, False),
        ("probabilities", np.array([[0, 255], [250, 5]], np.uint8), False),
    ],
)
def test_numbers_that_are_not_what_the_user_said_are_told(said, outputs, doubted):
    form = OutputForm.detect(outputs, evidence=OutputEvidence(said=said))
    assert "as you said" in form.reading
    assert ("although" in form.reading) == doubted
