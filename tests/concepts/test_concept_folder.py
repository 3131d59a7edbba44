"""A folder of concept images is read as it was written, and what is wrong is told in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from repairkit.concepts.concept_folder import (
    ConceptFolder,
    read_concept_folder,
    write_concept_folder,
)
from repairkit.concepts.generated_set import draw_concepts
from repairkit.core.errors import DataError
from repairkit.core.process.writing import together


def same(mask: Image.Image) -> Image.Image:
    return mask


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images; the one has index masks in two layers, the other has none."""
    place = tmp_path / "concepts"
    for name in ("a", "b"):
        save(place / "images" / f"{name}.png", np.zeros((4, 6, 3), np.uint8))
    index = np.zeros((4, 6), np.uint8)
    index[1:3, 2:] = 3
    save(place / "masks" / "a.png", index)
    save(place / "masks" / "colours" / "a.png", np.full((4, 6), 900, np.uint16))
    (place / "concepts.csv").write_text("number,name,category\n3,dog,object\n900,red,colour\n")
    return place


def test_drawn_concepts_go_there_and_back(tmp_path: Path) -> None:
    drawn = draw_concepts((16, 20), 3, blocks=4, seed=0)
    with together() as drafts:
        write_concept_folder(drafts, tmp_path / "set", drawn)
    read = read_concept_folder(tmp_path / "set")
    assert read.concepts == drawn.concepts
    for position, path in enumerate(read.images):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), drawn.pixels[position])
        ((concept, mask),) = read.regions(position, same)
        assert concept == drawn.shown[position]
        np.testing.assert_array_equal(mask, drawn.masks[position])


def test_layers_hold_concepts_that_overlap(folder: Path) -> None:
    read = read_concept_folder(folder)
    assert [concept.name for concept in read.concepts] == ["dog", "red"]
    regions = dict(read.regions(0, same))
    assert (int(regions[0].sum()), int(regions[1].sum())) == (8, 24)
    assert read.regions(1, same) == []


def test_a_folder_for_each_concept_needs_no_table(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((4, 6, 3), np.uint8))
    mask = np.zeros((4, 6), np.uint8)
    mask[0] = 255
    save(tmp_path / "masks" / "texture" / "dotted" / "a.png", mask)
    save(tmp_path / "masks" / "sky" / "a.png", mask)
    read = read_concept_folder(tmp_path)
    assert [(c.category, c.name) for c in read.concepts] == [("", "sky"), ("texture", "dotted")]
    assert [int(m.sum()) for _, m in read.regions(0, same)] == [6, 6]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_have_the_size_of_the_image_as_it_is_shown(tmp_path: Path, orientation: int) -> None:
    """A camera stores an image as it lies, and says in EXIF how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a.jpg"
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, exif=exif)
    with Image.open(path) as image:
        width, height = ImageOps.exif_transpose(image).size
    save(tmp_path / "masks" / "sky" / "a.png", np.ones((height, width), np.uint8))
    ((_, mask),) = read_concept_folder(tmp_path).regions(0, same)
    assert mask.shape == (height, width)
    save(tmp_path / "masks" / "sky" / "a.png", np.ones((width, height), np.uint8))
    with pytest.raises(DataError, match="a mask has the size of its image"):
        read_concept_folder(tmp_path).regions(0, same)


def read_all(place: Path) -> ConceptFolder:
    folder = read_concept_folder(place)
    for position in range(len(folder.images)):
        folder.regions(position, same)
    return folder


def remove(path: Path) -> None:
    path.unlink()


def table(place: Path, text: str) -> None:
    (place / "concepts.csv").write_text(text)


GREY = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: save(p / "masks" / "a.png", np.zeros((4, 5), np.uint8)), "the size of its im"),
        (lambda p: save(p / "masks" / "a.png", np.full((4, 6), 4, np.uint8)), "no concept of that"),
        (lambda p: save(p / "masks" / "a.png", np.zeros((4, 6, 3), np.uint8)), "mode RGB; a mask"),
        (lambda p: save(p / "masks" / "c.png", GREY), "has no image 'c'"),
        (lambda p: save(p / "masks" / "a.bmp", GREY), "masks are PNG files"),
        (lambda p: (p / "masks" / "a.png").write_bytes(b"PNG"), "is no PNG that can be read"),
        (lambda p: (p / "images" / "a.png").write_bytes(b"PNG"), "is no image that can be read"),
        (
            lambda p: save(p / "images" / "a.jpg", GREY),
            "two images are named",
        ),
        (lambda p: remove(p / "concepts.csv"), "is an index mask and there is no concepts.csv"),
        (lambda p: table(p, "a,b\n1,2\n"), "expected rows with the columns"),
        (
            lambda p: table(p, "number,name\n0,x\n"),
            "line 2 has the number '0'",
        ),
        (lambda p: table(p, "number,name\n1,\n"), "line 2 has no name"),
        (
            lambda p: table(p, "number,name\n3,x\n3,y\n"),
            "two concepts have the number 3",
        ),
        (lambda p: (p / "concepts.csv").write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(folder: Path, spoil: object, message: str) -> None:
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(DataError, match=message) as raised:
        read_all(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("", "does not exist; give a folder with images and masks"),
        ("images", "concept images lie in a sub-folder images"),
        ("masks", "masks lie in a sub-folder masks"),
    ],
)
def test_what_is_missing_is_told_in_one_line(folder: Path, missing: str, message: str) -> None:
    place = folder / missing if missing else folder
    place.rename(folder.with_name("elsewhere"))
    with pytest.raises(DataError, match=message):
        read_concept_folder(folder)
