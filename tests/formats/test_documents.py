"""A document that does not fit its record is refused, with the place of the first fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from repairkit.core.errors import RunFolderError
from repairkit.formats.documents import fault_of
from repairkit.formats.patch_file import read_patch_file


class Part(TypedDict):
    n_images: int
    share: NotRequired[float | None]


class Whole(TypedDict):
    kind: Literal["whole"]
    parts: dict[str, Part]
    names: list[str]
    sure: bool
    extra: NotRequired[Any]


def whole(**changes: Any) -> dict[str, Any]:
    parts = {"test": {"n_images": 3, "share": 1}}
    return {"kind": "whole", "parts": parts, "names": ["a"], "sure": True} | changes


def test_what_fits_has_no_fault() -> None:
    assert fault_of(whole(), Whole) == ""
    assert fault_of(whole(extra=[1, {}], unknown="kept"), Whole) == ""
    assert fault_of(whole(parts={"test": {"n_images": 3, "share": None}}), Whole) == ""


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"kind": "part"}, "kind is missing or none of whole"),
        ({"parts": []}, "parts is missing or no dict"),
        ({"parts": {"test": {}}}, "parts.test.n_images is missing or no int"),
        ({"parts": {"test": {"n_images": True}}}, "parts.test.n_images is missing or no int"),
        ({"parts": {"test": {"n_images": 1.0}}}, "parts.test.n_images is missing or no int"),
        (
            {"parts": {"test": {"n_images": 1, "share": "1"}}},
            "parts.test.share is missing or no float or NoneType",
        ),
        ({"names": "a"}, "names is missing or no list"),
        ({"names": [1]}, "names is missing or no str"),
        ({"sure": 1}, "sure is missing or no bool"),
    ],
)
def test_the_first_fault_is_named_with_its_place(changes: dict[str, Any], fault: str) -> None:
    assert fault_of(whole(**changes), Whole) == fault


def test_a_missing_entry_is_a_fault() -> None:
    assert fault_of({"kind": "whole"}, Whole) == "parts is missing or no dict"
    assert fault_of([], Whole) == "it is missing or no dict"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\n", "(it is no JSON, see line 1, column 1)"),
        ('{"kind":\n 1,}', "(it is no JSON, see line 2, column 4)"),
        ("[]", "give the NAME.patch.json that patch wrote"),
    ],
)
def test_another_file_than_a_patch_file_is_named_as_such(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(RunFolderError) as refused:
        read_patch_file(tmp_path / "other.json")
    assert words in str(refused.value)
