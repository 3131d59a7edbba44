"""Image files are decoded safely and brought to the size that the model takes."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.images import (
    ImageFile,
    allocate_pixels,
    decode,
    load_files,
    plan_geometry,
    resize_pixels,
)
from repairkit.data.preprocessing import Preprocessing
from tests.data.builders import PLAIN, noise, save_png, spec

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


AS_IS = plan_geometry(spec(3, None, None), PLAIN)


def pixels_of(path: Path, color: str = "rgb") -> np.ndarray:
    return decode(ImageFile(path, "row 7: it"), color, AS_IS).pixels


def test_pixels_and_colour_order_are_kept(tmp_path: Path) -> None:
    pixels = noise(4, 5, 3)
    path = save_png(tmp_path / "a.png", pixels)
    assert np.array_equal(pixels_of(path), pixels)
    assert np.array_equal(pixels_of(path, "bgr"), pixels[..., ::-1])
    gray = pixels_of(path, "gray")
    assert np.array_equal(gray[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_a_gray_image_becomes_three_equal_channels(tmp_path: Path) -> None:
    pixels = noise(4, 5)
    path = save_png(tmp_path / "a.png", pixels)
    assert np.array_equal(pixels_of(path), np.repeat(pixels[..., None], 3, axis=-1))


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    pixels = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save_png(tmp_path / "a.png", pixels, exif=exif)
    assert np.array_equal(pixels_of(path), np.rot90(pixels, -1))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 256, 65535]], dtype=np.uint16)
    path = save_png(tmp_path / "a.png", values)
    assert pixels_of(path, "gray")[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("greatest", [1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_gray_maps_of_over_eight_bits_are_scaled(
    greatest: int, plain: bool, tmp_path: Path
) -> None:
    values = np.linspace(0, greatest, 12).astype(">u2").reshape(3, 4)
    head = f"{'P2' if plain else 'P5'}\n4 3\n{greatest}\n".encode()
    path = tmp_path / "a.pgm"
    path.write_bytes(
        head + (b" ".join(b"%d" % v for v in values.ravel()) if plain else values.tobytes())
    )
    expected = values.astype(float) / greatest * 255
    assert np.abs(pixels_of(path, "gray")[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_are_read_in_either_order_of_bytes(order: str, tmp_path: Path) -> None:
    values = np.array([[0, 256, 65535]], dtype=order)
    path = save_png(tmp_path / "a.tiff", values)
    assert pixels_of(path, "gray")[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("kind", "words"), [(np.float32, "floating-point"), (np.int32, "32-bit integer")]
)
def test_pixels_without_a_known_range_are_refused(kind: type, words: str, tmp_path: Path) -> None:
    path = save_png(tmp_path / "a.tiff", np.ones((2, 2), dtype=kind))
    with pytest.raises(DataError, match=f"row 7: it: the image has {words} pixels"):
        pixels_of(path)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_read_as_the_same_picture_in_eight(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 9000], [30000, 65535]], np.uint16)
    found = pixels_of(save_png(tmp_path / f"a.{suffix}", values))[..., 0]
    assert np.abs(found - values / 257.0).max() <= 1


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(noise(4, 4, 3)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert pixels_of(tmp_path / "a.png").shape == (4, 4, 3)


def test_the_first_frame_of_several_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (3, 3), color) for color in (10, 200)]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    assert (pixels_of(tmp_path / "a.tiff") == 10).all()


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 7: it: the image does not exist"):
        pixels_of(tmp_path / "a.png")
    with pytest.raises(DataError, match="row 7: it: the image is no file"):
        pixels_of(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    path = save_png(tmp_path / f"a.{suffix}", noise(32, 32, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"^row 7: it: the image is truncated or damaged \(.+\)"):
        pixels_of(path)


@pytest.mark.parametrize("content", [b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="row 7: it: is no image that Pillow can read"):
        pixels_of(tmp_path / "a.png")


def test_a_file_of_no_bytes_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="row 7: it: the file is empty"):
        pixels_of(tmp_path / "a.png")


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = b""
    # The pixel data is garbage: decoding it would be another error.
    for kind, content in ((b"IHDR", header), (b"IDAT", b"garbage"), (b"IEND", b"")):
        checksum = zlib.crc32(kind + content)
        chunks += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(DataError, match=r"row 7: it: .*decompression bomb"):
        pixels_of(tmp_path / "a.png")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_never_end_in_another_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(8, 8, 3)).save(
        buffer, data.draw(st.sampled_from(["PNG", "JPEG", "TIFF"]))
    )
    content = bytearray(buffer.getvalue())
    for _ in range(4):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.png"
    path.write_bytes(content)
    # Any other error than ours would end the test.
    with suppress(DataError):
        assert pixels_of(path).ndim == 3


def test_few_pixels_stay_in_memory() -> None:
    pixels = allocate_pixels((2, 3, 3, 1))
    assert not isinstance(pixels, np.memmap)
    assert not pixels.any()


def test_many_pixels_go_to_a_file_that_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pixels = allocate_pixels((2, 3, 3, 1), in_memory_bytes=10)
    assert isinstance(pixels, np.memmap)
    pixels[1] = 7
    assert pixels.sum() == 7 * 9
    del pixels
    assert not list(tmp_path.iterdir())


def test_more_pixels_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(DataError, match=r"the images need .* GiB and .* point TMPDIR elsewhere"):
        allocate_pixels((1 << 40, 1 << 20, 3))


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
