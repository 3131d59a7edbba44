from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.errors import DataError
from repairkit.data.sources.arrays import read_archive


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def save_member(path: Path, content: bytes, name: str = "x.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_saved(tmp_path: Path, save: object) -> None:
    arrays = {"x": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "y": np.array(["a", "bc"])}
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    read = read_archive(tmp_path / "a.npz")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}, None]))
    with pytest.raises(DataError, match=r"a\.npz: x: is a pickled object array.*astype\(str\)"):
        read_archive(tmp_path / "a.npz")


def test_a_structured_array_of_a_later_format_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="format 3"):
        np.savez(tmp_path / "a.npz", x=np.zeros(2, dtype=[("\u03b1", "f4")]))
    with pytest.raises(DataError, match="x: is a structured array"):
        read_archive(tmp_path / "a.npz")


def test_more_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10_000_000, dtype=np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    with pytest.raises(DataError, match=r"declares .* GiB of arrays and at most"):
        read_archive(tmp_path / "a.npz", max_bytes=1_000_000)


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(2,)", "(-8,)", "(-2, -2)"])
def test_a_header_that_disagrees_with_the_archive_is_refused(tmp_path: Path, shape: str) -> None:
    path = save_member(tmp_path / "a.npz", header(shape) + b"1234")
    with pytest.raises(DataError, match=r"x: its header declares .* bytes and the archive holds 4"):
        read_archive(path)


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x09\x00\x01\x00{"]
)
def test_members_that_are_no_arrays_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.npz"):
        read_archive(save_member(tmp_path / "a.npz", content))
    with pytest.raises(DataError, match=r"holds 'readme\.txt', which is no array"):
        read_archive(save_member(tmp_path / "a.npz", content, "readme.txt"))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_archive(tmp_path / "a.npz")
    for content in (b"", b"no zip"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match="truncated, damaged or of another format"):
            read_archive(tmp_path / "a.npz")


@settings(max_examples=100, deadline=None)
@given(data=st.data(), compressed=st.booleans())
def test_damage_never_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compressed: bool
) -> None:
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, x=np.arange(20, dtype=np.uint8), y=np.arange(3))
    content = bytearray(buffer.getvalue())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    path.write_bytes(content[: data.draw(st.sampled_from([None, len(content) // 2]))])
    # Any other error than ours would end the test.
    with suppress(DataError):
        read_archive(path)


def test_a_header_of_python_2_is_read_without_a_word(tmp_path: Path) -> None:
    path = save_member(tmp_path / "a.npz", header("(3L,)") + b"\x01\x02\x03")
    assert read_archive(path)["x"].tolist() == [1, 2, 3]
