"""Small products take one thread of the linear algebra library, and give the threads back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from repairkit.repairs.refit import refit_path, small_products


def threads() -> int:
    """Of the library beneath numpy."""
    return max(int(lib["num_threads"]) for lib in threadpool_info() if lib["user_api"] == "blas")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with threadpool_limits(limits=2, user_api="blas"):
        if threads() != 2:
            pytest.skip("the linear algebra library beneath numpy has one thread")
        yield


def test_one_thread_within_and_all_of_them_after_an_error() -> None:
    counts: list[int] = []

    def fail() -> None:
        with small_products(1000):
            counts.append(threads())
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert (counts, threads()) == ([1], 2)


def test_large_products_keep_their_threads() -> None:
    with small_products(10**9):
        assert threads() == 2


def test_another_thread_of_python_changes_nothing_for_all() -> None:
    def within() -> int:
        with small_products(1):
            return threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within).result(10) == 2
        with small_products(1):
            assert pool.submit(within).result(10) == 1
            assert threads() == 1
    assert threads() == 2


def test_between_two_penalties_of_a_refit_the_threads_are_free() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    path = refit_path(rows, rng.normal(size=(50, 3)), labels, np.full(50, 1 / 50))
    for _ in path:
        assert threads() == 2
