"""Pixels become what the model takes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.errors import SettingsError
from repairkit.data.preprocessing import (
    PixelImages,
    Preprocessing,
    ReadyImages,
    describe_shape,
    value_table,
)
from tests.data.builders import noise, spec

FLOAT32 = np.dtype(np.float32)


def read(**mapping: Any) -> Preprocessing:
    return Preprocessing.from_mapping(mapping, "repairkit.toml")


def test_settings_are_read_as_numbers_or_as_text() -> None:
    as_text = read(
        resize="256", crop="224x224", color="BGR", scale="1/255", mean="0.5,0.4,0.3", std="1/2",
        layout="NHWC",
    )  # fmt: skip
    as_values = read(
        resize=256, crop=224, color="bgr", scale=1 / 255, mean=[0.5, "0.4", 0.3], std=0.5,
        layout="nhwc",
    )  # fmt: skip
    assert as_text == as_values
    assert as_text == Preprocessing(
        256, (224, 224), "bgr", 1 / 255, (0.5, 0.4, 0.3), (0.5,), "nhwc"
    )
    assert read(resize=[10, 20]).resize == (10, 20)
    assert read() == Preprocessing()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"men": 1}, "unknown key 'men'; did you mean 'mean'"),
        ({"scale": "1/0"}, "scale is '1/0'; expected a number, or a fraction"),
        ({"scale": "much"}, "scale is 'much'; expected"),
        ({"scale": True}, "scale is True; expected"),
        ({"scale": 0}, r"scale is 0\.0; expected a number above 0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"mean": ["a"]}, "mean is 'a'; expected a number"),
        ({"mean": [float("inf")]}, "mean is .*expected finite"),
        ({"mean": {"a": 1}}, "mean is {'a': 1}; expected"),
        ({"std": [0.5, 0.0, 0.5]}, "std is .*expected numbers above 0"),
        ({"resize": 0}, "resize is 0; expected at least 1 pixel"),
        ({"resize": [1, 2, 3]}, r"resize is \[1, 2, 3\]; expected one size, or \[height, width\]"),
        ({"resize": 1.5}, r"resize is 1\.5; expected one size"),
        ({"crop": "big"}, "crop is 'big'; expected one size"),
        ({"crop": True}, "crop is True; expected one size"),
        ({"color": "brg"}, "color is 'brg'; expected one of rgb, bgr, gray; did you mean"),
        ({"color": 3}, "color is 3; expected a word"),
        ({"layout": "chw"}, "layout is 'chw'; expected one of nchw, nhwc"),
    ],
)
def test_settings_that_make_no_sense_are_refused(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^repairkit.toml: {message}"):
        read(**mapping)


@given(
    scale=st.floats(1e-3, 10),
    mean=st.lists(st.floats(-10, 10), min_size=3, max_size=3),
    std=st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_a_table_holds_the_formula_rounded_once(
    scale: float, mean: list[float], std: list[float]
) -> None:
    table = value_table(Preprocessing(scale=scale, mean=tuple(mean), std=tuple(std)), 3, FLOAT32)
    for channel in range(3):
        exact = (np.arange(256) * scale - mean[channel]) / std[channel]
        assert np.array_equal(table[channel], exact.astype(np.float32))


def test_integer_inputs_are_rounded_and_clipped() -> None:
    table = value_table(Preprocessing(scale=0.6, mean=(100.0,)), 1, np.dtype(np.int8))
    assert table.dtype == np.int8
    assert table[0, [0, 1, 1, 255]].tolist() == [-100, -99, -99, 53]
    assert value_table(Preprocessing(scale=10), 1, np.dtype(np.uint8))[0, 255] == 255


def test_one_mean_serves_every_channel_and_other_counts_are_refused() -> None:
    assert value_table(Preprocessing(mean=(1.0,)), 3, FLOAT32).shape == (3, 256)
    with pytest.raises(SettingsError, match=r"mean has 3 values and the model takes 1 channel"):
        value_table(Preprocessing(mean=(1.0, 1.0, 1.0)), 1, FLOAT32)


def test_values_that_the_model_cannot_hold_are_refused() -> None:
    with pytest.raises(SettingsError, match="beyond the range of the model's float16"):
        value_table(Preprocessing(scale=1000), 1, np.dtype(np.float16))
    with pytest.raises(SettingsError, match="takes complex64"):
        value_table(Preprocessing(), 1, np.dtype(np.complex64))


@pytest.mark.parametrize(("layout", "shape"), [("nchw", (3, 5, 7)), ("nhwc", (5, 7, 3))])
def test_sizes_are_found_in_either_layout(layout: str, shape: tuple[int, ...]) -> None:
    found = spec(*shape, layout=layout)
    assert (found.channels, found.height, found.width) == (3, 5, 7)


def test_an_input_of_another_rank_has_no_image_sizes() -> None:
    found = spec(10, layout="other")
    assert (found.channels, found.height, found.width) == (None, None, None)


def test_a_layout_override_reads_the_same_shape_anew() -> None:
    assert spec(3, 5, 7).with_layout("nhwc").channels == 7
    assert spec(3, 5, 7).with_layout(None) == spec(3, 5, 7)


def test_a_layout_for_an_input_of_another_rank_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"layout nhwc needs .* rank 4 and this one has rank 2"):
        spec(10, layout="other").with_layout("nhwc")


def test_shapes_read_well() -> None:
    assert describe_shape((3, None, 224)) == "3 x ? x 224"
    assert describe_shape(()) == "a single number"


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
