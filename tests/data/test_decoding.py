from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repairkit.core.errors import DataError
from repairkit.data.images import ImageFile, decode, plan_geometry
from tests.data.builders import PLAIN, noise, save_png, spec

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
