"""Data files that lie about their size, or ask for more memory than they are worth."""

from __future__ import annotations

import io
import tomllib
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DataError, RunFolderError, SettingsError
from repairkit.data import images, tables
from repairkit.data.images import Geometry, ImageFile, decode
from repairkit.data.project import read_project
from repairkit.data.sources import arrays as archive_reader
from repairkit.data.sources.arrays import read_archive
from repairkit.data.tables import read_csv, read_parquet
from repairkit.formats.documents import read_json

MANY = 1 << 40


@contextmanager
def little_memory(most: int = 256 << 20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def npy_header(text: str, version: bytes = b"\1\0") -> bytes:
    width = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text.encode()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_reader, "_SMALL_BYTES", 16 << 20)
    path = tmp_path / "bomb.npz"
    header = npy_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({32 << 20},), }}\n")
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        file.write(header)
        file.write(bytes(32 << 20))
    assert path.stat().st_size < 1 << 20
    with little_memory(8 << 20), pytest.raises(DataError, match="as a decompression bomb does"):
        read_archive(path)


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({MANY}, {MANY}), }}\n", "declares"),
        (f"{{'descr': '<U0', 'fortran_order': False, 'shape': ({MANY},), }}\n", "declares"),
        (f"{{'descr': '|V0', 'fortran_order': False, 'shape': ({MANY},), }}\n", "declares"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n", "declares"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", "pickle"),
        ("(" * 9000, "no .npz that can be read"),
        ("{'descr': __import__('os').system('true')}\n", "no .npz that can be read"),
        ("{'descr': '''", "no .npz that can be read"),
    ],
)
def test_a_header_that_lies_is_refused(header: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy_header(header))
    with little_memory(), pytest.raises(DataError, match=word):
        read_archive(path)


def test_thousands_of_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    file = io.BytesIO()
    np.save(file, np.zeros(1))
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(1001):
            archive.writestr(f"{number}.npy", file.getvalue())
    with pytest.raises(DataError, match="1001 arrays"):
        read_archive(path)


def test_one_long_value_does_not_widen_a_whole_column(tmp_path: Path) -> None:
    rows = "a.png,0\n" * 20_000
    (tmp_path / "m.csv").write_text(f"path,label\n{'x' * 100_000},0\n{rows}")
    with little_memory(), pytest.raises(DataError, match="a value of path has 100000 characters"):
        read_csv(tmp_path / "m.csv")


def test_a_manifest_of_commas_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_CELLS", 100_000)
    (tmp_path / "m.csv").write_text(("," * 2000 + "\n") * 6000)
    with little_memory(64 << 20), pytest.raises(DataError, match="over 100000 values"):
        read_csv(tmp_path / "m.csv")


def test_a_file_without_end_is_refused_by_its_size(tmp_path: Path) -> None:
    for name in ("m.csv", "repairkit.toml", "run.json", "image.png"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)  # sparse: it takes no room
    with little_memory(), pytest.raises(DataError, match="MiB"):
        read_csv(tmp_path / "m.csv")
    with little_memory(), pytest.raises(SettingsError, match="KiB"):
        read_project(tmp_path / "repairkit.toml")
    with little_memory(), pytest.raises(RunFolderError, match="too large"):
        read_json(tmp_path / "run.json", "a run")
    with little_memory(), pytest.raises(DataError, match="MiB"):
        decode(ImageFile(tmp_path / "image.png", "it"), "rgb", Geometry(None, None, (None, None)))


def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "bomb.parquet"
    column = pyarrow.array(["x" * 100_000]).dictionary_encode()
    indices = pyarrow.array(np.zeros(200_000, np.int32))
    table = pyarrow.table({"path": pyarrow.DictionaryArray.from_arrays(indices, column.dictionary)})
    parquet.write_table(table.cast(pyarrow.schema([("path", table.schema[0].type)])), path)
    assert path.stat().st_size < 1 << 20
    with little_memory(), pytest.raises(DataError):
        read_parquet(path)
    assert pyarrow.total_allocated_bytes() < 1 << 30


DEEP: dict[str, str] = {
    "lists": "a = " + "[" * 50_000,
    "tables": "a = " + "{a=" * 20_000,
    "keys": "a" + ".a" * 20_000 + " = 1",
    "headers": "[a" + ".a" * 20_000 + "]",
}


@pytest.mark.parametrize("kind", DEEP)
def test_settings_nested_without_end_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "repairkit.toml").write_text(DEEP[kind])
    with pytest.raises(SettingsError):
        read_project(tmp_path / "repairkit.toml")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * 100_000, "cannot be read"),
        ('{"a":' * 100_000, "cannot be read"),
        ('{"a": 1, "a": 2}', "names a value twice"),
        ('{"a": NaN}', "NaN, which is no JSON"),
        ('{"a": -Infinity}', "no JSON"),
        ("1" * 5000, "cannot be read"),
        ("[" + "[]," * 4_000_000 + "0]", "too many values"),
    ],
)
def test_json_that_is_odd_or_endless_is_refused(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with little_memory(), pytest.raises(RunFolderError, match=word):
        read_json(tmp_path / "x.json", "a run")


def test_large_images_are_decoded_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    seen: list[bool] = []
    convert: Callable[..., Image.Image] = images._convert

    def spy(*args: object) -> Image.Image:
        seen.append(images._LARGE.locked())
        return convert(*args)

    monkeypatch.setattr(images, "_convert", spy)
    monkeypatch.setattr(images, "_LARGE_PIXELS", 100)
    for side in (10, 11):
        Image.new("RGB", (side, side)).save(tmp_path / "a.png")
        decode(ImageFile(tmp_path / "a.png", "it"), "rgb", Geometry(None, None, (None, None)))
    assert seen == [False, True]


def test_the_settings_of_a_sound_project_are_still_read(tmp_path: Path) -> None:
    text = 'model = "m.onnx"\nclasses = ["a", "b"]\n'
    (tmp_path / "repairkit.toml").write_text(text)
    assert read_project(tmp_path / "repairkit.toml").class_names == tuple(
        tomllib.loads(text)["classes"]
    )
