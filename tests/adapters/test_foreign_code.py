"""What pickles would import is told without running them, and so is what could not be read."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest

from repairkit_adapters.foreign_code import read_names

PRINT = b"\x80\x02cbuiltins\nprint\n."
BROKEN = b"\x80\x02cbuiltins\nprint\n\xff."  # no opcode is 255


def archive(**members: bytes) -> bytes:
    """A zip with these members; `__` in a name stands for a dot."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        for name, member in members.items():
            written.writestr(name.replace("__", "."), member)
    return content.getvalue()


def test_foreign_names_are_those_that_no_state_dict_needs(tmp_path: Path) -> None:
    place = tmp_path / "weights.pt"
    place.write_bytes(archive(data__pkl=PRINT, more__pkl=pickle.dumps(OrderedDict(), 2)))
    pickled = read_names(place)
    assert pickled.names == ("builtins:print", "collections:OrderedDict")
    assert pickled.foreign == ("builtins:print",)
    assert pickled.faults == ()


def test_a_broken_pickle_is_told_with_what_stands_before(tmp_path: Path) -> None:
    place = tmp_path / "weights.pt"
    place.write_bytes(archive(data__pkl=BROKEN, inner=archive(other__pkl=BROKEN[:-2])))
    pickled = read_names(place)
    assert pickled.names == ("builtins:print",)
    first, second = pickled.faults
    assert first.startswith("the pickle data.pkl is broken at byte 19 (at position 18, opcode")
    assert (
        second == "the pickle other.pkl is broken at byte 18 (pickle exhausted before seeing STOP)"
    )


@pytest.mark.parametrize("content", [BROKEN, PRINT[:9], b"\x80"])
def test_a_broken_pickle_that_is_no_zip_is_told(content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "weights.pt"
    place.write_bytes(content)
    (fault,) = read_names(place).faults
    assert fault.startswith("a pickle is broken at byte ")


def test_numbers_behind_pickles_are_no_fault(tmp_path: Path) -> None:
    old = tmp_path / "old.pt"
    old.write_bytes(5 * PRINT + b"\xff\xfe numbers")
    new = tmp_path / "new.pt"
    new.write_bytes(archive(data__pkl=PRINT, numbers=b"\x80\xff", zip=b"PK as numbers"))
    for place in (old, new):
        assert read_names(place).faults == ()
        assert read_names(place).foreign == ("builtins:print",)


def test_what_cannot_be_read_of_a_zip_is_told(tmp_path: Path) -> None:
    content = bytearray(archive(data__pkl=PRINT))
    content[content.index(PRINT)] ^= 1  # its checksum no longer fits
    place = tmp_path / "weights.pt"
    place.write_bytes(content)
    pickled = read_names(place)
    assert pickled.names == ()
    assert pickled.faults == ("data.pkl cannot be read (Bad CRC-32 for file 'data.pkl')",)


def test_a_file_that_is_no_pickle_has_no_names(tmp_path: Path) -> None:
    place = tmp_path / "page.pt"
    place.write_text("<html>")
    pickled = read_names(place)
    assert pickled.names == pickled.faults == ()
