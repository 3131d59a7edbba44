"""Images of the data as small pictures, by their row in the data."""

from collections.abc import Sequence

import numpy as np

from repairkit.core.suite import Array, Suite
from repairkit.data.preprocessing import PixelImages
from repairkit.jobs.setup.workbench import Bench
from repairkit.report.charts import Picture, draw_picture

BYTES_OF_PICTURES = 3_000_000
_DARK = 64


def pictures_of(
    bench: Bench, suite: Suite, rows: Sequence[int], *, n_bytes: int = BYTES_OF_PICTURES
) -> dict[int, Picture]:
    """Thumbnails of rows of the data, the first ones up to `n_bytes` in all.

    Args:
        bench: with the model and the images.
        suite: of any part: all parts share one source of images.
        rows: of the data; one that is named twice is drawn once.
        n_bytes: of all thumbnails, as they stand on a page.
    """
    pictures: dict[int, Picture] = {}
    spent = 0
    for row, pixels in bright_pixels(bench, suite, rows).items():
        picture = draw_picture(pixels)
        if picture is None or spent + len(picture.uri) > n_bytes:
            continue
        spent += len(picture.uri)
        pictures[row] = picture
    return pictures


def bright_pixels(bench: Bench, suite: Suite, rows: Sequence[int]) -> dict[int, Array]:
    """Images (height, width, channels) by row, as people see them.

    They are stretched to the whole range if their bytes use little of it, such as 0 to 16.
    """
    images = {row: _pixels(bench, suite, row) for row in dict.fromkeys(rows)}
    stored = [image for image in images.values() if image.dtype == np.uint8]
    greatest = max((int(image.max(initial=0)) for image in stored), default=0)
    if not 0 < greatest < _DARK:
        return images
    factor = 255 / greatest
    return {
        row: (image * factor).round().astype(np.uint8) if image.dtype == np.uint8 else image
        for row, image in images.items()
    }


def _pixels(bench: Bench, suite: Suite, row: int) -> Array:
    """An image as (height, width, channels), before the model's scale and mean if that is known."""
    source = suite.images
    if isinstance(source, PixelImages):
        stored = np.asarray(source.pixels[row])
        return stored[..., ::-1] if bench.settings.preprocessing.color == "bgr" else stored
    ready: Array = source.batch(np.array([row]))[0]
    spec = bench.subject.spec.with_layout(bench.settings.preprocessing.layout)
    return ready.transpose(1, 2, 0) if spec.layout == "nchw" else ready
