from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.images import ImageFile, load_files
from repairkit.data.preprocessing import Preprocessing
from tests.data.builders import PLAIN, noise, save_png, spec


def image_files(folder: Path, *sizes: tuple[int, ...]) -> list[ImageFile]:
    return [
        ImageFile(save_png(folder / f"{i}.png", noise(*size, seed=i)), f"{i}.png")
        for i, size in enumerate(sizes)
    ]


def test_images_come_in_the_order_of_their_files(tmp_path: Path) -> None:
    files = image_files(tmp_path, *[(8, 8, 3)] * 20)
    batch = load_files(files, spec(), PLAIN).images.batch(np.array([19, 0, 7]))
    for image, seed in zip(batch, (19, 0, 7), strict=True):
        assert np.array_equal(image, noise(8, 8, 3, seed=seed).transpose(2, 0, 1))


def test_a_model_of_one_channel_gets_gray_images(tmp_path: Path) -> None:
    files = image_files(tmp_path, (8, 8, 3))
    images = load_files(files, spec(8, 8, 1, layout="nhwc", dtype=np.uint8), PLAIN).images
    batch = images.batch(np.array([0]))
    assert batch.shape == (1, 8, 8, 1)
    assert batch.dtype == np.uint8


def test_the_digest_names_the_content_and_its_order(tmp_path: Path) -> None:
    files = image_files(tmp_path, (8, 8, 3), (8, 8, 3))
    digest = load_files(files, spec(), PLAIN).digest
    assert digest == load_files(files, spec(3, 4, 4), Preprocessing(scale=0.5)).digest
    assert digest != load_files(files[::-1], spec(), PLAIN).digest


def test_copies_of_an_image_are_noted(tmp_path: Path) -> None:
    files = image_files(tmp_path, (8, 8, 3), (8, 8, 3))
    assert load_files(files, spec(), PLAIN).notes == ()
    assert (
        load_files([*files, files[0]], spec(), PLAIN).notes[0].startswith("1 image(s) are copies")
    )


def test_the_first_bad_file_is_named_whatever_the_threads_do(tmp_path: Path) -> None:
    files = image_files(tmp_path, *[(8, 8, 3)] * 40)
    for index in (11, 12, 30):
        files[index].path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^11\.png: "):
        load_files(files, spec(), PLAIN)


def test_a_model_of_open_size_takes_images_of_one_size(tmp_path: Path) -> None:
    alike = image_files(tmp_path / "alike", (5, 6, 3), (5, 6, 3))
    batch = load_files(alike, spec(3, None, None), PLAIN).images.batch(np.array([1]))
    assert batch.shape == (1, 3, 5, 6)
    mixed = image_files(tmp_path / "mixed", (5, 6, 3), (6, 5, 3))
    with pytest.raises(
        DataError, match=r"^1\.png: has 6 x 5 pixels and 0\.png has 5 x 6; .*set resize = \["
    ):
        load_files(mixed, spec(3, None, None), PLAIN)


def test_a_half_open_size_is_held_to_what_is_fixed(tmp_path: Path) -> None:
    files = image_files(tmp_path, (5, 6, 3))
    assert len(load_files(files, spec(3, 5, None), PLAIN).images) == 1
    with pytest.raises(DataError, match=r"has 5 x 6 pixels and the model takes 7 x \?"):
        load_files(files, spec(3, 7, None), PLAIN)


def test_inputs_that_image_files_cannot_fill_are_refused(tmp_path: Path) -> None:
    files = image_files(tmp_path, (8, 8, 3))
    with pytest.raises(DataError, match=r"takes 10 per image, which no image file gives; .*npz"):
        load_files(files, spec(10, layout="other"), PLAIN)
    with pytest.raises(DataError, match=r"takes 4 channels .*image files give 1 or 3"):
        load_files(files, spec(4, 8, 8), PLAIN)
    with pytest.raises(SettingsError, match=r"color 'bgr' gives 3 .* and the model takes 1"):
        load_files(files, spec(1, 8, 8), Preprocessing(color="bgr"))
