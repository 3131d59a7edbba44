import numpy as np
import pytest

from repairkit.estimators.linear.krylov import lanczos


def problem(n_rows: int, n_players: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    design = rng.standard_normal((n_rows, n_players))
    design -= design.mean(axis=1, keepdims=True)
    return design, design.T @ rng.standard_normal((n_rows, 2))


@pytest.mark.parametrize("penalty", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("n_rows", [20, 100, 2_000])
def test_every_penalty_is_solved_from_one_recurrence(n_rows: int, penalty: float) -> None:
    design, columns = problem(n_rows, 40)
    gram = design.T @ design
    spectrum = lanczos(lambda v: gram @ v, columns, 39)
    for column in range(2):
        expected = np.linalg.solve(gram + penalty * np.eye(40), columns[:, column])
        found = spectrum.solve(column, penalty)
        assert np.linalg.norm(found - expected) <= 0.02 * np.linalg.norm(expected)
        lowered = 2 * columns[:, column] @ expected - expected @ gram @ expected
        assert spectrum.explained(column, np.array([penalty]))[0] == pytest.approx(
            lowered, rel=0.02
        )


def test_traces_are_means_over_probes() -> None:
    design, _ = problem(100, 30)
    gram = design.T @ design
    probes = np.eye(30) - 1 / 30
    spectrum = lanczos(lambda v: gram @ v, probes, 29)
    values = np.linalg.eigvalsh(gram)[1:]
    found = 29 * spectrum.mean_of(lambda v: v / (v + 50.0), slice(None))
    assert found == pytest.approx((values / (values + 50.0)).sum(), rel=1e-3)


def test_a_column_of_zeros_is_solved_by_zeros() -> None:
    design, columns = problem(100, 10)
    columns[:, 1] = 0.0
    spectrum = lanczos(lambda v: design.T @ design @ v, columns, 9)
    assert not spectrum.solve(1, 1.0).any()
    assert spectrum.solve(0, 1.0).any()
