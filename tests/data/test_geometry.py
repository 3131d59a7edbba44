from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.images import plan_geometry, resize_pixels
from repairkit.data.preprocessing import Preprocessing
from tests.data.builders import PLAIN, noise, spec

IMAGE = Image.fromarray(noise(20, 30, 3))


def test_images_are_resized_straight_to_the_model_by_default() -> None:
    resized = plan_geometry(spec(3, 8, 9), PLAIN).apply(IMAGE)
    expected = IMAGE.resize((9, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(resized), np.asarray(expected))


def test_the_shorter_side_is_resized_and_the_centre_cropped() -> None:
    geometry = plan_geometry(spec(3, 8, 8), Preprocessing(resize=10, crop=(8, 8)))
    expected = IMAGE.resize((15, 10), Image.Resampling.BILINEAR).crop((4, 1, 12, 9))
    assert np.array_equal(np.asarray(geometry.apply(IMAGE)), np.asarray(expected))


def test_a_shorter_side_alone_is_followed_by_a_crop_to_the_model() -> None:
    assert plan_geometry(spec(3, 8, 8), Preprocessing(resize=10)).final_size == (8, 8)


def test_a_crop_alone_leaves_the_scale_of_the_image() -> None:
    geometry = plan_geometry(spec(3, 8, 8), Preprocessing(crop=(8, 8)))
    assert np.array_equal(np.asarray(geometry.apply(IMAGE)), np.asarray(IMAGE)[6:14, 11:19])


def test_a_model_of_open_size_leaves_images_as_they_are() -> None:
    geometry = plan_geometry(spec(3, None, None), PLAIN)
    assert geometry.final_size is None
    assert geometry.apply(IMAGE) is IMAGE


@pytest.mark.parametrize(
    ("preprocessing", "key"),
    [(Preprocessing(resize=(9, 9)), "resize"), (Preprocessing(resize=20, crop=(9, 9)), "crop")],
)
def test_a_size_other_than_the_models_is_refused(preprocessing: Preprocessing, key: str) -> None:
    told = f"9 x 9 pixels and the model takes 8 x 8 .* give --{key} 8,8, or leave it out"
    with pytest.raises(SettingsError, match=told):
        plan_geometry(spec(3, 8, 8), preprocessing)


def test_an_image_smaller_than_the_crop_is_refused() -> None:
    geometry = plan_geometry(spec(3, 24, 24), Preprocessing(crop=(24, 24)))
    with pytest.raises(DataError, match="20 x 30 pixels are fewer than the crop of 24 x 24"):
        geometry.apply(IMAGE)


def test_an_image_too_narrow_to_be_resized_is_refused() -> None:
    geometry = plan_geometry(spec(3, None, None), Preprocessing(resize=5000))
    with pytest.raises(DataError, match="1 x 300 pixels would grow to 5000 x 1500000"):
        geometry.apply(Image.new("L", (300, 1)))


@pytest.mark.parametrize(("found", "channels"), [(1, 1), (1, 3), (3, 3), (3, 1), (5, 5)])
def test_arrays_of_any_channel_count_are_brought_to_size(found: int, channels: int) -> None:
    pixels = noise(10, 12, found)
    resized = resize_pixels(pixels, plan_geometry(spec(channels, 8, 9), PLAIN), channels)
    assert resized.shape == (8, 9, channels)
    if found == 5:
        alone = Image.fromarray(pixels[..., 4]).resize((9, 8), Image.Resampling.BILINEAR)
        assert np.array_equal(resized[..., 4], np.asarray(alone))
    if (found, channels) == (1, 3):
        assert np.array_equal(resized[..., 0], resized[..., 2])
