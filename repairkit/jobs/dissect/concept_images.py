"""The concept images of a job: drawn ones or a folder's, as the model takes them, with masks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repairkit.concepts import concept_folder, generated_set
from repairkit.concepts.concept_set import ConceptMasks, ImageMasks, Region
from repairkit.core import errors
from repairkit.core.process.stages import stage
from repairkit.core.suite import Annotations, ImageSource, Suite
from repairkit.data import preprocessing as prep
from repairkit.data.images import Geometry, ImageFile, load_files, plan_geometry
from repairkit.jobs.setup.workbench import Bench

GENERATED = "generated"
_MOST_CELLS = 64  # a side, of the grid on which maps and masks are compared
_OPEN_SIDE = 64  # of drawn images, where nothing fixes a size
_LEAST_SIDE = 8
_NEAREST = Image.Resampling.NEAREST


@dataclass(frozen=True, kw_only=True, eq=False)
class ConceptImages:
    """Images that the model can take, their masks on the grid, and where they come from."""

    suite: Suite
    masks: ConceptMasks
    source: str
    digest: str
    size: tuple[int, int]


def image_spec(bench: Bench) -> prep.InputSpec:
    """The model's image input.

    Raises:
        ModelError: it takes no images that could be drawn, or needs more with each image.
    """
    spec = bench.subject.spec.with_layout(bench.settings.preprocessing.layout)
    if spec.layout == "other" or spec.channels not in (1, 3, None):
        raise errors.ModelError(
            f"{bench.subject.file.path}: takes {prep.describe_shape(spec.shape)} per image, and "
            "concept images have a height, a width and 1 or 3 channels; set --layout if it was "
            "read wrongly"
        )
    if bench.dataset.further:
        raise errors.ModelError(
            f"{bench.subject.file.path}: takes {', '.join(bench.dataset.further)} with each image, "
            "and concept images have none; give a constant with --input"
        )
    return spec


def drawn_set(bench: Bench, blocks: int, seed: int) -> generated_set.DrawnSet:
    """The generated concept set at the size and in the channels of the model's images.

    Raises:
        ModelError: the model takes no such images.
    """
    spec, how = image_spec(bench), bench.settings.preprocessing
    size = plan_geometry(spec, how).final_size
    if size is None and len(bench.dataset.images):
        size = bench.image_size
    size = size or (_OPEN_SIDE, _OPEN_SIDE)
    if min(size) < _LEAST_SIDE:
        raise errors.ModelError(
            f"{bench.subject.file.path}: takes images of {size[0]} x {size[1]} pixels; concepts "
            f"are drawn from {_LEAST_SIDE} pixels a side on"
        )
    channels = spec.channels or (1 if how.color == "gray" else 3)
    with stage("drawing concepts"):
        return generated_set.draw_concepts(size, channels, blocks=blocks, seed=seed)


def from_drawn(bench: Bench, drawn: generated_set.DrawnSet) -> ConceptImages:
    """Drawn images as the model takes them."""
    how, spec = bench.settings.preprocessing, image_spec(bench)
    pixels = drawn.pixels[..., ::-1] if how.color == "bgr" else drawn.pixels
    table = prep.value_table(how, pixels.shape[-1], spec.dtype)
    images = prep.PixelImages(pixels, table, channels_first=spec.layout == "nchw")
    size = (int(pixels.shape[1]), int(pixels.shape[2]))
    grid = grid_of(size)
    masks = tuple(
        ImageMasks.of([(concept, on_grid(mask, grid))], grid[0] * grid[1])
        for concept, mask in generated_set.regions_of(drawn)
    )
    known = ConceptMasks(concepts=drawn.concepts, grid=grid, images=masks)
    digest = hashlib.sha256(drawn.pixels.tobytes()).hexdigest()
    return _concept_images(images, known, GENERATED, digest, size)


def from_folder(bench: Bench, path: Path) -> ConceptImages:
    """The images of a folder, resized and cropped as the model takes them, and their masks.

    Raises:
        DataError: the folder, an image or a mask is not as expected.
        ModelError: the model takes no such images.
    """
    how, spec = bench.settings.preprocessing, image_spec(bench)
    folder = concept_folder.read_concept_folder(path)
    loaded = load_files([ImageFile(p, str(p)) for p in folder.images], spec, how)
    shape = loaded.images.batch(np.arange(1)).shape[1:]
    size = (shape[1], shape[2]) if spec.layout == "nchw" else (shape[0], shape[1])
    grid, geometry = grid_of(size), plan_geometry(spec, how)
    masks = []
    with stage("reading masks", total=len(folder.images)) as tell:
        for position in range(len(folder.images)):
            regions = _regions(folder, position, geometry)
            fitted = [(concept, on_grid(mask, grid)) for concept, mask in regions]
            masks.append(ImageMasks.of(fitted, grid[0] * grid[1]))
            tell(position + 1)
    known = ConceptMasks(concepts=folder.concepts, grid=grid, images=tuple(masks))
    return _concept_images(loaded.images, known, str(path), loaded.digest, size)


def _regions(
    folder: concept_folder.ConceptFolder, position: int, geometry: Geometry
) -> list[Region]:
    def fit(mask: Image.Image) -> Image.Image:
        return geometry.apply(mask, _NEAREST)

    return folder.regions(position, fit)


def _concept_images(
    images: ImageSource, masks: ConceptMasks, source: str, digest: str, size: tuple[int, int]
) -> ConceptImages:
    both = hashlib.sha256(f"{digest} {masks.digest}".encode()).hexdigest()
    annotations = Annotations(labels=np.zeros(len(masks.images), np.int64))
    suite = Suite.whole("concepts", images, annotations)
    return ConceptImages(suite=suite, masks=masks, source=source, digest=both, size=size)


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """The grid for images of that size: the size itself, at most 64 cells a side."""
    factor = min(1.0, _MOST_CELLS / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def on_grid(mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at the centres of the grid's cells."""
    if mask.shape == grid:
        return mask
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * side / n).astype(np.intp), side - 1)
        for n, side in zip(grid, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
