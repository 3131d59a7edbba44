"""The record of dreams, `dreams.json`, in a folder with a picture of each and `dreams.npz`.

`dreams.npz` holds `x`, the images as the model takes them, in the order of the record.
"""

import re
from typing import Literal, NotRequired, TypedDict

DREAMS_FILE, INPUTS_FILE = "dreams.json", "dreams.npz"
KIND = "repairkit dreams"
SCHEMA = 1
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 80


class DreamWindow(TypedDict):
    """The part of the image that the filter sees, in pixels."""

    row: int
    column: int
    height: int
    width: int


class DreamRecord(TypedDict):
    """One dream.

    Attributes:
        filter: its id.
        layer: the framework's name of it, where it is known.
        number: among the dreams of the filter, from 0.
        picture: the file, in the same folder.
        window: what the picture shows of the image.
        response: of the filter to the dream.
        best_real: the greatest response to a real image; null without images.
        mean_real: the mean response to real images.
        spread_real: the standard deviation of these responses.
        excess: `(response - best_real) / spread_real`; null where there is none.
        control_filter: another filter of the site; null where there is none.
        control: the response of `filter` to the dream of `control_filter`.
        control_excess: as `excess`, of the control.
        passes: images that ran for this dream.
    """

    filter: str
    layer: NotRequired[str]
    number: int
    picture: str
    window: DreamWindow
    response: float
    best_real: float | None
    mean_real: float | None
    spread_real: float | None
    excess: float | None
    control_filter: str | None
    control: float | None
    control_excess: float | None
    passes: int


class DreamtModel(TypedDict):
    """The model that dreamt."""

    path: str
    digest: str


class DreamPixels(TypedDict):
    """The darkest and the brightest pixel of each colour in the model's input, and why."""

    low: list[float]
    high: list[float]
    origin: str


class RealImages(TypedDict):
    """The real images that dreams are compared with."""

    path: str
    digest: str
    part: str
    n_images: int


class DreamsDocument(TypedDict):
    """What `dreams.json` holds.

    Attributes:
        at: `centre`: responses are peaks over positions. `channel`: they are means over positions.
        way: `gradient`, through the framework's model; or `passes`, forward passes alone.
        diverse: dreams of each filter.
        source: the framework's model that gave gradients; null without.
        images: null where there were none.
        seconds: that all dreams took.
    """

    schema: int
    kind: str
    versions: dict[str, str]
    model: DreamtModel
    source: str | None
    at: Literal["centre", "channel"]
    way: Literal["gradient", "passes"]
    diverse: int
    seed: int
    pixels: DreamPixels
    images: RealImages | None
    dreams: list[DreamRecord]
    seconds: float
    notes: list[str]


def picture_name(position: int, filter_id: str, number: int, *, diverse: bool) -> str:
    """The name of a picture's file: plain letters only, whatever the layers are called.

    Args:
        position: among all dreams of the job, which makes the name unique.
        filter_id: as `SITE:CHANNEL`.
        number: among the dreams of the filter.
        diverse: whether a filter has several dreams.
    """
    site, _, channel = filter_id.rpartition(":")
    safe = _UNSAFE.sub("-", site).strip(".-")[-_LONGEST:] or "site"
    behind = f"-{number + 1}" if diverse else ""
    return f"{position + 1:03d}-{safe}-{channel}{behind}.png"
