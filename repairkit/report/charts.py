"""Charts as inline SVG, and arrays as small pictures that a page can carry.

There is no script; colours come from the page's style, and every text is escaped.
"""

import base64
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from repairkit.core import metric, suite
from repairkit.report.wording import visible

WIDTH, HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 42
_APART = 15.0
_NOTHING = 1e-200


@dataclass(frozen=True)
class Series:
    """Points (x, y) joined by a line; `style` is a class of the page's style sheet.

    `name` says in words what the points are; the page has that in a legend of its own.
    `labels` stand beside the points they belong to; empty ones are left out. `reach` holds the ends
    of an interval for each point, which are drawn as a band.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    labels: Sequence[str] = ()
    joined: bool = True
    marked: bool = True
    reach: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, and by what its numbers are multiplied; `whole` allows no parts."""

    title: str
    factor: float = 1.0
    whole: bool = False


@dataclass(frozen=True)
class LineChart:
    """What a chart of lines shows; `title` says it to those who do not see it."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]

    def drawn(self) -> Markup:
        """The chart as inline SVG."""
        return line_chart(self.title, self.x, self.y, self.series)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)


def tag(name: str, content: Markup | str = "", **attributes: object) -> Markup:
    """An element; attributes and text are escaped. `class_` is `class`, `_` is `-`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _safe(value))
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, _safe(content))


def _safe(value: object) -> Markup:
    return value if isinstance(value, Markup) else escape(visible(value))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], some `about` of them."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis: a little wider than the values, and never of no width."""
    known = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(known), max(known)
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * max(size, 1e-9):
        reach = size * 0.05 if size > _NOTHING else 1.0
        return low - reach, high + reach
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def line_chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Markup:
    """LineChart and points over two axes."""
    finite = [
        replace(one, points=[p for p in one.points if math.isfinite(p[0] + p[1])]) for one in series
    ]
    ends = [(one.points[0][0], end) for one in series if one.points for r in one.reach for end in r]
    across, up = _scales([*(point for one in finite for point in one.points), *ends])
    marks = [*(_band(one, across, up) for one in series if one.reach)]
    marks += [*(_draw(one, across, up) for one in finite), _labels(finite, across, up)]
    return _frame(title, x, y, across, up, Markup("").join(marks))


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points of one kind. Kinds differ by shape as well as by colour, so that no eye needs either.

    Attributes:
        name: in words.
        style: a class of the page's style sheet.
        shape: `dot`, `square`, `diamond` or `ring`.
        points: (x, y).
        titles: of each point, for a pointer that rests on it.
        reaches: of each point the ends of both intervals, (x low, x high, y low, y high); none is
            drawn where there are none.
    """

    name: str
    style: str
    shape: str
    points: Sequence[tuple[float, float]]
    titles: Sequence[str]
    reaches: Sequence[tuple[float, float, float, float]] = ()


def scatter_chart(title: str, x: Axis, y: Axis, clouds: Sequence[Cloud]) -> Markup:
    """Points of several kinds over two axes, with lines at zero and along equal values."""
    points = [point for cloud in clouds for point in cloud.points]
    across, up = _scales([*points, (0.0, 0.0)])
    parts = [
        tag("line", x1=across(0), x2=across(0), y1=_TOP, y2=HEIGHT - _BOTTOM, class_="zero"),
        tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=up(0), y2=up(0), class_="zero"),
    ]
    low, high = max(across.low, up.low), min(across.high, up.high)
    if high > low:
        x1, x2, y1, y2 = across(low), across(high), up(low), up(high)
        parts.append(tag("line", x1=x1, x2=x2, y1=y1, y2=y2, class_="grid"))
    for cloud in clouds:
        parts += [
            _cross(reach, point, across, up, cloud.style)
            for reach, point in zip(cloud.reaches, cloud.points, strict=False)
        ]
    for cloud in clouds:
        parts += [
            _shape(cloud, across(px), up(py), name)
            for (px, py), name in zip(cloud.points, cloud.titles, strict=True)
        ]
    return _frame(title, x, y, across, up, Markup("").join(parts))


def _cross(
    reach: tuple[float, float, float, float],
    point: tuple[float, float],
    across: _Scale,
    up: _Scale,
    style: str,
) -> Markup:
    """Both intervals of a point, cut where the axes end."""
    left, right = (min(max(end, across.low), across.high) for end in reach[:2])
    low, high = (min(max(end, up.low), up.high) for end in reach[2:])
    x, y = across(point[0]), up(point[1])
    style = f"whisker {style}"
    flat = tag("line", x1=across(left), x2=across(right), y1=y, y2=y, class_=style)
    return flat + tag("line", x1=x, x2=x, y1=up(low), y2=up(high), class_=style)


_SHAPES = {"square": "M-3-3H3V3H-3Z", "diamond": "M0-4.4L4.4 0L0 4.4L-4.4 0Z"}


def _shape(cloud: Cloud, x: float, y: float, title: str) -> Markup:
    hint = tag("title", title)
    if cloud.shape in _SHAPES:
        place = f"translate({x} {y})"
        path = _SHAPES[cloud.shape]
        return tag("path", hint, d=path, transform=place, class_=f"point {cloud.style}")
    radius = 3.4 if cloud.shape == "dot" else 2.4
    return tag("circle", hint, cx=x, cy=y, r=radius, class_=f"point {cloud.style}")


def split_bar(title: str, parts: Sequence[tuple[int, str]]) -> Markup:
    """Counts as the parts of one bar, in their order; each has a class of the style sheet."""
    total = sum(n for n, _ in parts) or 1
    marks, x = [], 0.0
    for n, style in parts:
        width = WIDTH * n / total
        if n:
            length = round(max(width - 1, 0.5), 2)
            style_ = f"part {style}"
            marks.append(tag("rect", x=round(x, 2), y=2, width=length, height=22, class_=style_))
        if width > 9 * len(str(n)) + 4:
            middle = round(x + width / 2, 2)
            marks.append(tag("text", str(n), x=middle, y=17.5, class_=f"count {style}"))
        x += width
    box = f"0 0 {WIDTH} 26"
    return tag(
        "svg", Markup("").join(marks), class_="chart", viewBox=box, role="img", aria_label=title
    )


def bar_chart(
    title: str, x: Axis, y: Axis, edges: Sequence[float], heights: Sequence[float]
) -> Markup:
    """A histogram: `heights` over the ranges between `edges`."""
    across = _Scale(edges[0], max(edges[-1], edges[0] + 1e-9), _LEFT, WIDTH - _RIGHT)
    up = _Scale(0.0, 1.06 * max([*heights, 1e-9]), HEIGHT - _BOTTOM, _TOP)
    bars = [
        tag(
            "rect",
            x=across(left),
            y=up(height),
            width=max(round(across(right) - across(left) - 1, 2), 0.5),
            height=round(HEIGHT - _BOTTOM - up(height), 2),
            class_="bar",
        )
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True)
        if height > 0
    ]
    return _frame(title, x, y, across, up, Markup("").join(bars))


def interval_mark(
    value: float,
    low: float,
    high: float,
    *,
    within: tuple[float, float],
    description: str,
    zero: bool = True,
    more_is_better: bool = True,
) -> Markup:
    """A point with its interval over a shared scale, as small as a word.

    What is surely good has the colour of a gain, what is surely bad that of a loss.
    """
    scale = _Scale(within[0], within[1], 4.0, 116.0)
    cut = [min(max(v, within[0]), within[1]) for v in (low, value, high)]
    good, bad = (low > 0, high < 0) if more_is_better else (high < 0, low > 0)
    style = "gain" if good else "loss" if bad else "open"
    parts = [
        tag("line", x1=scale(cut[0]), x2=scale(cut[2]), y1=9, y2=9, class_=f"reach {style}"),
        tag("circle", cx=scale(cut[1]), cy=9, r=3.6, class_=f"dot {style}"),
    ]
    if zero and within[0] <= 0 <= within[1]:
        parts.insert(0, tag("line", x1=scale(0), x2=scale(0), y1=0, y2=18, class_="zero"))
    return tag(
        "svg",
        Markup("").join(parts),
        class_="mark",
        viewBox="0 0 120 18",
        role="img",
        aria_label=description,
    )


def share_bar(share: float, description: str) -> Markup:
    """A bar of at most a word's length; `share` lies in [0, 1]."""
    length = round(118 * min(max(share, 0.0), 1.0), 2)
    bar = tag("rect", x=1, y=4, width=length, height=10, class_="bar")
    return tag("svg", bar, class_="mark", viewBox="0 0 120 18", role="img", aria_label=description)


def _scales(points: Sequence[tuple[float, float]]) -> tuple[_Scale, _Scale]:
    across = _Scale(*spread([p[0] for p in points]), _LEFT, WIDTH - _RIGHT)
    up = _Scale(*spread([p[1] for p in points]), HEIGHT - _BOTTOM, _TOP)
    return across, up


def _band(one: Series, across: _Scale, up: _Scale) -> Markup:
    """The intervals of the points that have one, as an area."""
    known = [
        (across(x), up(low), up(high))
        for (x, _), (low, high) in zip(one.points, one.reach, strict=True)
        if math.isfinite(low + high)
    ]
    outline = [(x, low) for x, low, _ in known] + [(x, high) for x, _, high in known[::-1]]
    path = "M" + "L".join(f"{x} {y}" for x, y in outline) + "Z"
    return tag("path", d=path, class_=f"band {one.style}") if len(known) > 1 else Markup("")


def _draw(one: Series, across: _Scale, up: _Scale) -> Markup:
    places = [(across(x), up(y)) for x, y in one.points]
    parts = []
    if one.joined and len(places) > 1:
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        parts.append(tag("path", d=path, class_=f"line {one.style}"))
    if one.marked:
        parts += [tag("circle", cx=x, cy=y, r=3.2, class_=f"dot {one.style}") for x, y in places]
    return Markup("").join(parts)


def _labels(series: Sequence[Series], across: _Scale, up: _Scale) -> Markup:
    """On top of everything; one too near to another is left out."""
    taken: list[tuple[float, float]] = []
    parts = []
    for one in series:
        for (x, y), label in zip(one.points, one.labels, strict=False):
            place = across(x), up(y)
            crowded = any(max(abs(place[0] - a), abs(place[1] - b)) < _APART for a, b in taken)
            if label and not crowded:
                taken.append(place)
                parts.append(_beside(*place, label))
    return Markup("").join(parts)


def _beside(x: float, y: float, label: str) -> Markup:
    """A label right of its point, or left of it near the edge."""
    right = x < WIDTH * 0.7
    below = y < _TOP + 14
    return tag(
        "text",
        label,
        x=round(x + (7 if right else -7), 2),
        y=round(y + (13 if below else -6), 2),
        text_anchor="start" if right else "end",
        class_="label",
    )


def _frame(title: str, x: Axis, y: Axis, across: _Scale, up: _Scale, marks: Markup) -> Markup:
    base, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in _ticks(y, up):
        height = up(value)
        parts.append(tag("line", x1=_LEFT, x2=right, y1=height, y2=height, class_="grid"))
        parts.append(
            tag("text", _tick(value * y.factor), x=_LEFT - 6, y=height + 4, class_="tick y")
        )
    for value in _ticks(x, across):
        place = across(value)
        parts.append(tag("line", x1=place, x2=place, y1=base, y2=base + 4, class_="axis"))
        parts.append(tag("text", _tick(value * x.factor), x=place, y=base + 16, class_="tick x"))
    parts.append(tag("line", x1=_LEFT, x2=right, y1=base, y2=base, class_="axis"))
    middle, centre = (_LEFT + right) / 2, (_TOP + base) / 2
    parts.append(tag("text", x.title, x=middle, y=HEIGHT - 6, class_="title x"))
    turned = f"rotate(-90 12 {centre})"
    parts.append(tag("text", y.title, x=12, y=centre, transform=turned, class_="title x"))
    parts.append(marks)
    return tag(
        "svg",
        Markup("").join(parts),
        class_="chart",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
    )


def _ticks(axis: Axis, scale: _Scale) -> list[float]:
    marks = ticks(scale.low, scale.high)
    return [value for value in marks if value == round(value)] if axis.whole else marks


def _tick(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def figure_axis(measure: metric.Measure) -> Axis:
    """The axis of a metric's figures, shares in per cent."""
    share = measure.is_share
    return Axis(measure.words + (", %" if share else ""), 100.0 if share else 1.0)


LARGEST = 112
"""The longer side of a thumbnail, in its own pixels, where nothing else is said."""
SMALLEST = 56
_LOSSLESS_BYTES = 3000
_BUSY_BYTES = 3 * _LOSSLESS_BYTES


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and the size of what it shows, in the model's pixels."""

    uri: str
    width: int
    height: int


def draw_picture(
    pixels: suite.Array, *, largest: int = LARGEST, smallest: int = SMALLEST
) -> Picture | None:
    """A thumbnail of an image of shape (height, width, channels); None where it is no picture.

    Bytes (uint8) are shown as they are; of other numbers the least becomes black and the greatest
    white. Three channels are red, green and blue; any other number of channels is averaged. The
    longer side has `largest` pixels at most, and `smallest` at the least: a small one is enlarged
    by whole pixels, so that nothing is made up.
    """
    if pixels.ndim != 3 or min(pixels.shape) < 1 or max(pixels.shape[:2]) < 2:
        return None
    shown = as_bytes(pixels)
    shown = shown if shown.shape[2] == 3 else shown.mean(axis=2).round().astype(np.uint8)[..., None]
    height, width = shown.shape[:2]
    image = Image.fromarray(shown if shown.shape[2] == 3 else shown[..., 0])
    longest = max(height, width)
    factor = min(1.0, largest / longest)
    if longest < smallest:
        factor = float(-(-smallest // longest))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    way = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return Picture(_data_uri(image.resize(size, way)), width, height)


def as_bytes(pixels: suite.Array) -> NDArray[np.uint8]:
    """An image in bytes: itself, or the least number black and the greatest white."""
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float64)
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    spread = (values - low) / (high - low if high > low else 1.0)
    filled = np.nan_to_num(spread, nan=0.0, posinf=1.0, neginf=0.0)
    return (255 * np.clip(filled, 0, 1)).round().astype(np.uint8)


def _data_uri(image: Image.Image) -> str:
    content, kind = b"" if _is_busy(image) else _encoded(image, "PNG"), "png"
    if not content or len(content) > _LOSSLESS_BYTES:
        content, kind = _encoded(image, "JPEG"), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _is_busy(image: Image.Image) -> bool:
    """Whether a picture is surely too large without loss: to find out by trying takes long."""
    pixels = np.asarray(image)
    slopes = np.diff(pixels, axis=1, prepend=np.zeros_like(pixels[:, :1]))
    return all(len(zlib.compress(each.tobytes(), 1)) > _BUSY_BYTES for each in (pixels, slopes))


def _encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=82, optimize=True)
    return stream.getvalue()
