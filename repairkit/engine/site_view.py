"""The responses of one site's filters to pictures, at the least cost.

The model is cut at the site, so that nothing behind it runs. Where one position of the site sees
only part of an image, pictures have the size of that part, and the model runs on a crop around it.
Both are found by trial on noise; where a crop gives other responses, the whole image runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.filters import Site
from repairkit.core.suite import Array
from repairkit.engine.batching import settle_batching
from repairkit.engine.runner import OpenModel, Runner
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.prefix import cut_at, with_open_image
from repairkit.graph.structure import bytes_of_largest_node

CENTRE, CHANNEL = "centre", "channel"
_RUN_BYTES = 8 * 2**20  # of the largest node; more at once is slower, for want of cache
_MOST_IN_A_RUN = 64
_SAME = 1e-4  # of the spread of responses to noise
_SAME_CROPPED = 1e-3
_ROUNDING = 1e-5
_MARGINS = (1, 2, 4)  # strides around what is seen


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in pixels."""

    row: int
    column: int
    height: int
    width: int

    def of(self, images: Array, axes: tuple[int, int]) -> Array:
        """The view of images within the rectangle; `axes` are those of height and width."""
        index = [slice(None)] * images.ndim
        index[axes[0]] = slice(self.row, self.row + self.height)
        index[axes[1]] = slice(self.column, self.column + self.width)
        return images[tuple(index)]

    def within(self, outer: Window) -> Window:
        """The same rectangle, counted from the corner of another."""
        return replace(self, row=self.row - outer.row, column=self.column - outer.column)


@dataclass(frozen=True, kw_only=True)
class Scenery:
    """What surrounds a picture.

    Attributes:
        blank: an image without a picture, (*model input without its batch axis).
        noise: a few images of noise in the pixel range, (n, *input).
        axes: of height and width in a batch.
    """

    blank: Array
    noise: Array
    axes: tuple[int, int]

    @property
    def whole(self) -> Window:
        """The rectangle of a whole image."""
        height, width = (self.noise.shape[axis] for axis in self.axes)
        return Window(0, 0, height, width)


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteView:
    """Pictures in, responses out.

    Attributes:
        site: whose filters respond.
        window: the part of an image that a picture fills; the rest is blank.
        crop: the part of an image that runs.
        place: of the response within the map, one index per axis of positions; none where the mean
            over all positions counts.
        at_once: images in a run.
    """

    site: Site
    window: Window
    crop: Window
    place: tuple[int, ...] | None
    at_once: int
    _runner: Runner
    _scenery: Scenery

    def responses(self, pictures: Array) -> NDArray[np.float64]:
        """Of all filters, (n, n_channels), to pictures of the window as the model takes them.

        Raises:
            ModelError: ONNX Runtime fails on the pictures.
        """
        parts = []
        for start in range(0, len(pictures), self.at_once):
            some = pictures[start : start + self.at_once]
            images = placed(some, self.window.within(self.crop), self._blank(len(some)), self._axes)
            answers = self._runner.run(images)[self.site.tensor]
            parts.append(_read(answers, self.site, self.place))
        return np.concatenate(parts)

    @property
    def _axes(self) -> tuple[int, int]:
        return self._scenery.axes

    def _blank(self, n: int) -> Array:
        blank = self.crop.of(self._scenery.blank[None], self._axes)
        return np.repeat(blank, n, axis=0)


def placed(pictures: Array, window: Window, images: Array, axes: tuple[int, int]) -> Array:
    """Images, with pictures written into their rectangle."""
    window.of(images, axes)[...] = pictures
    return images


def _read(answers: Array, site: Site, place: tuple[int, ...] | None) -> NDArray[np.float64]:
    """Responses, (n, n_channels), from the site's tensor."""
    maps = np.moveaxis(answers, site.channel_axis, 1)
    for index in place or ():
        maps = maps[:, :, index]
    numbers = site.numbers(maps.astype(np.float64))
    means: NDArray[np.float64] = numbers.reshape(*numbers.shape[:2], -1).mean(axis=2)
    return means


def open_view(opened: OpenModel, site: Site, scenery: Scenery, *, at: str) -> SiteView:
    """The view of a site.

    Args:
        opened: the model, which takes images alone.
        site: of this model; no tree ensemble.
        scenery: see `Scenery`.
        at: `centre`, the position in the middle of the map; or `channel`, the mean over all.

    Raises:
        ModelError: ONNX Runtime fails on the model, or it answers at random.
    """
    prefix = cut_at(opened.model, (site.tensor,))
    declared = replace(
        opened.variant(prefix), output=site.tensor, step=fixed_batch(prefix, opened.image)
    )
    free = settle_batching(declared, scenery.noise[:2], outputs=(site.tensor,)).opened
    runner = free.runner()
    answer = np.moveaxis(runner.run(scenery.noise[:1])[site.tensor], site.channel_axis, 1)
    maps = answer.shape[2:]
    view = SiteView(
        site=site,
        window=scenery.whole,
        crop=scenery.whole,
        place=tuple(size // 2 for size in maps) if at == CENTRE else None,
        at_once=_at_once(free, scenery.noise),
        _runner=runner,
        _scenery=scenery,
    )
    if at != CENTRE:
        return view
    view = replace(view, window=_seen_part(view))
    return _cropped(view, free, maps) if len(maps) == 2 else view


def _at_once(opened: OpenModel, images: Array) -> int:
    each = bytes_of_largest_node(opened.model, opened.image, images.shape[1:])
    return int(np.clip(_RUN_BYTES // max(each, images[0].nbytes, 1), 1, _MOST_IN_A_RUN))


def _seen_part(view: SiteView) -> Window:
    """The part of the image on which the responses depend, found by changing noise around it.

    The structure of a graph tells less: operators whose reach is not known, and weights of zero.
    """
    scenery = view._scenery
    before = view.responses(scenery.noise)
    allowed = _SAME * np.ptp(before, axis=0) + _ROUNDING * np.abs(before).max(axis=0)
    image, other = scenery.noise[:1], scenery.noise[1:2]

    def blind(start: int, end: int, axis: int) -> bool:
        changed = image.copy()
        index = [slice(None)] * changed.ndim
        index[axis] = slice(start, end)
        changed[tuple(index)] = other[tuple(index)]
        return bool((np.abs(view.responses(changed) - before[:1]) <= allowed).all())

    def seen(axis: int) -> tuple[int, int]:
        size = image.shape[axis]
        # Two pixels at least: one pixel of one colour has no contrast.
        first = _greatest(max(size - 2, 0), lambda n: blind(0, n, axis))
        most = max(size - first - 2, 0)
        return first, size - _greatest(most, lambda n: blind(size - n, size, axis))

    (top, bottom), (left, right) = (seen(axis) for axis in scenery.axes)
    return Window(top, left, bottom - top, right - left)


def _greatest(most: int, holds: Callable[[int], bool]) -> int:
    """The greatest number up to `most` that holds, where every smaller one does; by bisection."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if holds(middle):
            least = middle
        else:
            most = middle - 1
    return least


def _cropped(view: SiteView, opened: OpenModel, maps: tuple[int, ...]) -> SiteView:
    """The view with the smallest crop of some that gives the responses of the whole image."""
    scenery, place, window = view._scenery, view.place, view.window
    assert place is not None
    whole, free = scenery.whole, opened.variant(with_open_image(opened.model, opened.image))
    inside = window.of(scenery.noise, scenery.axes)
    expected = view.responses(inside)
    allowed = _SAME_CROPPED * np.ptp(expected, axis=0) + _ROUNDING * np.abs(expected).max(axis=0)
    for margin in _MARGINS:
        rows = _around(window.row, window.height, whole.height, maps[0], margin)
        columns = _around(window.column, window.width, whole.width, maps[1], margin)
        crop = Window(rows.start, columns.start, rows.size, columns.size)
        if crop == whole:
            break
        try:
            small = replace(
                view,
                crop=crop,
                place=(place[0] - rows.places, place[1] - columns.places),
                at_once=_at_once(free, crop.of(scenery.noise, scenery.axes)),
                _runner=free.runner(),
            )
            if (np.abs(small.responses(inside) - expected) <= allowed).all():
                return small
        except (ModelError, IndexError):  # the graph takes no other size
            break
    return view


@dataclass(frozen=True)
class _Around:
    """Along one axis: where a crop starts, its size, and the places of the map in front of it."""

    start: int
    size: int
    places: int


def _around(first: int, length: int, size: int, n_places: int, margin: int) -> _Around:
    """A crop that starts at whole strides, so that windows of layers lie as in a whole image."""
    stride = max(1, round(size / n_places))
    start = (first // stride - margin) * stride
    end = (-(-(first + length) // stride) + margin) * stride
    if start <= 0 or end >= size:
        return _Around(0, size, 0)
    return _Around(start, end - start, start // stride)
