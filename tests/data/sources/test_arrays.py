from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.images import plan_geometry, resize_pixels
from repairkit.data.preprocessing import InputSpec, Preprocessing
from repairkit.data.sources.arrays import load_array
from tests.data.builders import PLAIN, noise, spec


def batch(
    array: np.ndarray, model: InputSpec, preprocessing: Preprocessing = PLAIN
) -> np.ndarray[Any, Any]:
    images = load_array(array, model, preprocessing, "a.npz: x").images
    assert len(images) == len(array)
    return images.batch(np.arange(len(array)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_ready_for_the_model(dtype: type[np.floating[Any]]) -> None:
    array = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(dtype)
    read = batch(array, spec(), Preprocessing(scale=0.5))
    assert read.dtype == np.float32
    assert np.array_equal(read, array.astype(np.float32))
    notes = load_array(array, spec(), Preprocessing(scale=0.5), "x").notes
    assert notes == ("x is ready for the model, so no preprocessing was applied to it",)
    assert load_array(array, spec(), PLAIN, "x").notes == ()


def test_whole_numbers_are_ready_with_a_note() -> None:
    array = np.full((2, 3, 8, 8), 7, dtype=np.int64)
    assert np.array_equal(batch(array, spec()), array)
    assert "int64 and was passed" in load_array(array, spec(), PLAIN, "x").notes[0]


def test_an_input_of_another_rank_takes_arrays_as_they_are() -> None:
    array = noise(4, 10)
    assert np.array_equal(batch(array, spec(10, layout="other")), array)


def test_bytes_for_a_model_of_bytes_are_ready() -> None:
    array = noise(4, 8, 8, 3)
    model = spec(8, 8, 3, layout="nhwc", dtype=np.uint8)
    assert np.array_equal(batch(array, model), array)


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (2, 8, 8, 3), (2, 192), (2,)])
def test_a_wrong_shape_shows_both(shape: tuple[int, ...]) -> None:
    found = " x ".join(map(str, shape[1:])) or "a single number"
    with pytest.raises(
        DataError, match=rf"a\.npz: x: holds images of {found} and the model takes 3 x 8 x 8"
    ):
        batch(np.zeros(shape), spec())


@pytest.mark.parametrize(
    ("value", "dtype", "model_dtype"),
    [
        (np.inf, np.float64, np.float32),
        (1e300, np.float64, np.float32),
        (0.5, np.float32, np.int64),
        (300.0, np.float32, np.uint8),
        (-1.0, np.float32, np.uint8),
        (200, np.uint8, np.int8),
        (2**24 + 1, np.int64, np.float32),
        (np.nan, np.float32, np.int32),
    ],
)
def test_values_that_would_change_are_refused(
    value: float, dtype: type[np.generic], model_dtype: type[np.generic]
) -> None:
    array = np.zeros((300, 2), dtype=dtype)
    array[290, 1] = value
    with pytest.raises(DataError, match=r"x\[290\]: holds values .* convert x"):
        batch(array, spec(2, layout="other", dtype=model_dtype))


def test_arrays_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="holds <U1 and the model takes float32"):
        batch(np.full((2, 3, 8, 8), "a"), spec())


SCALED = Preprocessing(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bytes_are_images_in_whichever_order_they_come(channels_first: bool, layout: str) -> None:
    pixels = noise(5, 8, 9, 3)
    model = spec(3, 8, 9) if layout == "nchw" else spec(8, 9, 3, layout="nhwc")
    array = pixels.transpose(0, 3, 1, 2) if channels_first else pixels
    exact = (pixels / 255.0 - SCALED.mean) / SCALED.std
    if layout == "nchw":
        exact = exact.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch(array, model, SCALED), exact, rtol=1e-5, atol=1e-6)


def test_gray_bytes_gain_the_channels_that_the_model_wants() -> None:
    pixels = noise(5, 8, 8)
    assert np.array_equal(batch(pixels, spec(1, 8, 8)), pixels[:, None])
    assert np.array_equal(batch(pixels, spec()), np.repeat(pixels[:, None], 3, axis=1))
    assert np.array_equal(batch(pixels[..., None], spec()), batch(pixels, spec()))


def test_colours_become_gray_for_a_model_of_one_channel() -> None:
    pixels = noise(5, 8, 8, 3)
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(batch(pixels, spec(1, 8, 8))[:, 0], luminance, atol=1)


def test_colours_are_turned_for_a_model_of_bgr() -> None:
    pixels = noise(2, 8, 8, 3)
    read = batch(pixels, spec(8, 8, 3, layout="nhwc"), Preprocessing(color="bgr"))
    assert np.array_equal(read, pixels[..., ::-1])
    with pytest.raises(SettingsError, match="color 'bgr' needs 3 channels"):
        batch(noise(2, 8, 8), spec(1, 8, 8), Preprocessing(color="bgr"))


def test_bytes_are_brought_to_the_models_size() -> None:
    pixels = noise(3, 10, 12, 3)
    for preprocessing in (PLAIN, Preprocessing(resize=9, crop=(8, 8)), Preprocessing(crop=(8, 8))):
        geometry = plan_geometry(spec(), preprocessing)
        expected = np.stack([resize_pixels(image, geometry, 3) for image in pixels])
        assert np.array_equal(batch(pixels, spec(), preprocessing), expected.transpose(0, 3, 1, 2))


def test_bytes_of_the_final_size_are_not_resized_again() -> None:
    pixels = noise(3, 8, 8, 3)
    read = batch(pixels, spec(), Preprocessing(resize=10, crop=(8, 8)))
    assert np.array_equal(read, pixels.transpose(0, 3, 1, 2))


def test_bytes_keep_their_size_where_the_model_leaves_it_open() -> None:
    assert batch(noise(2, 5, 6, 3), spec(None, None, None)).shape == (2, 3, 5, 6)
    with pytest.raises(DataError, match=r"have 5 x 6 pixels and the model takes 7 x \?"):
        batch(noise(2, 5, 6, 3), spec(3, 7, None))


def test_many_channels_are_kept_as_they_are() -> None:
    pixels = noise(2, 8, 8, 6)
    assert np.array_equal(batch(pixels, spec(6, 8, 8)), pixels.transpose(0, 3, 1, 2))


def test_axes_that_could_both_be_channels_follow_the_model() -> None:
    pixels = noise(2, 3, 8, 3)
    assert np.array_equal(batch(pixels, spec(3, 8, 3)), pixels)
    assert np.array_equal(batch(pixels, spec(3, 8, 3, layout="nhwc")), pixels)
    one_or_three = noise(2, 3, 8, 1)
    assert batch(one_or_three, spec(1, 3, 8)).shape == (2, 1, 3, 8)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 8, 8, 5), "neither the second nor the last axis can be its channels"),
        ((2, 8), "expected uint8 images N x H x W"),
        ((2, 1, 3, 8, 8), "expected uint8 images N x H x W"),
    ],
)
def test_bytes_that_are_no_images_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        batch(noise(*shape), spec())


def test_bytes_smaller_than_the_crop_are_refused() -> None:
    with pytest.raises(DataError, match=r"a\.npz: x: 4 x 4 pixels are fewer than the crop"):
        batch(noise(2, 4, 4, 3), spec(), Preprocessing(crop=(8, 8)))


def test_the_digest_names_the_content() -> None:
    pixels = noise(2, 8, 8, 3)
    digest = load_array(pixels, spec(), PLAIN, "x").digest
    assert digest == load_array(pixels.copy(), spec(), SCALED, "y").digest
    assert digest != load_array(pixels[::-1], spec(), PLAIN, "x").digest


def test_a_missing_value_in_a_row_of_numbers_stays_missing_and_is_counted() -> None:
    row = InputSpec("other", (3,), np.dtype("float32"))
    array = np.array([[np.nan, 1, 2], [3, np.nan, np.nan]])
    np.testing.assert_array_equal(batch(array, row), array)
    assert load_array(array, row, PLAIN, "x").notes[-1].startswith("3 values are missing")
    with pytest.raises(DataError, match=r"x\[1\]: holds values that are not finite"):
        load_array(np.array([[0, 1, 2], [3, np.inf, np.nan]]), row, PLAIN, "x")
    with pytest.raises(DataError, match=r"x\[0\]: holds values that are not finite"):
        load_array(np.full((1, 3, 8, 8), np.nan), spec(), PLAIN, "x")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_copies_are_counted_as_they_are_among_files(dtype: type[Any]) -> None:
    array = noise(4, 8, 8, 3).transpose(0, 3, 1, 2).astype(dtype)
    assert load_array(array, spec(), PLAIN, "x").notes == ()
    array[3] = array[1]
    assert "1 image(s) are copies of another one" in load_array(array, spec(), PLAIN, "x").notes[0]
