from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.data.preprocessing import PixelImages, Preprocessing, ReadyImages, value_table
from tests.data.builders import noise

PIXELS = noise(6, 4, 5, 3)
IMAGENET = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
INDICES = st.lists(st.integers(0, 5), max_size=12).map(lambda rows: np.array(rows, dtype=np.intp))


def images(*, channels_first: bool) -> PixelImages:
    return PixelImages(PIXELS, value_table(IMAGENET, 3, np.dtype(np.float32)), channels_first)


@given(INDICES)
def test_a_batch_equals_the_formula_in_the_order_asked(indices: np.ndarray) -> None:
    exact = (PIXELS[indices] / 255.0 - IMAGENET.mean) / IMAGENET.std
    last = images(channels_first=False).batch(indices)
    first = images(channels_first=True).batch(indices)
    np.testing.assert_allclose(last, exact, rtol=1e-6, atol=1e-7)
    assert np.array_equal(first, last.transpose(0, 3, 1, 2))
    assert first.dtype == last.dtype == np.float32
    assert first.flags.c_contiguous
    assert last.flags.c_contiguous


def test_batches_are_the_same_from_several_threads() -> None:
    source = images(channels_first=True)
    rows = [np.array([i, 5 - i, i]) for i in range(6)] * 20
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(source.batch, rows))
    for indices, batch in zip(rows, threaded, strict=True):
        assert np.array_equal(batch, source.batch(indices))


@given(INDICES)
def test_ready_arrays_are_passed_through(indices: np.ndarray) -> None:
    array = np.arange(12.0).reshape(6, 2)
    batch = ReadyImages(array, np.dtype(np.float32)).batch(indices)
    assert batch.dtype == np.float32
    assert np.array_equal(batch, array[indices])


def test_a_batch_is_the_callers_own() -> None:
    array = np.zeros((2, 2), dtype=np.float32)
    ReadyImages(array, array.dtype).batch(np.array([0, 1]))[:] = 1
    assert not array.any()


def test_an_image_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError):
        images(channels_first=True).batch(np.array([6]))
