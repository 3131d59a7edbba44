"""`NAME.monitor.json`: the images at which a promise was watched so far, and how each came out.

The file holds outcomes and no verdicts: what they say is computed anew from the first image on, so
that many looks say the same as one.
"""

import base64
from itertools import accumulate
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np

from repairkit.core.errors import RunFolderError, VerificationError
from repairkit.formats.documents import fault_of, read_json, to_json
from repairkit.formats.patch_file import claim_digest

SCHEMA = 1
KIND = "repairkit monitor"
LEFT_OUT = "."
"""Stands for an image that a figure does not count."""
SCORES = {"0": 0.0, "1": 1.0, "-": 0.0, "=": 0.5, "+": 1.0}
"""Right or wrong; of a gain: lost, as before, gained. On the scale from 0 to 1."""
GAIN = "gain:"
"""Begins the name of a figure that compares with the original."""
_DIGEST_BYTES = 12
_MARKS = {False: {"0", "1", LEFT_OUT}, True: {"-", "=", "+", LEFT_OUT}}


class MonitoredModel(TypedDict):
    """A model by its file's name and digest."""

    name: str
    digest: str


class WatchedFigure(TypedDict):
    """A figure, the floor that it must hold, and what was measured when that was promised.

    `figure` is `accuracy`, `accuracy:GROUP` or `recall:CLASS`, or one of these behind `gain:`: the
    repaired model's less the original's. `stated` is null where the floor was given by hand.
    """

    figure: str
    floor: float
    stated: float | None


class MonitorLook(TypedDict):
    """Images that came together, in the order in which they count.

    Attributes:
        time: when they were looked at, in UTC.
        data: digest of the data set that held them.
        n_read: images of that data set, those that were counted before among them.
        in_order: whether they count in the order of the data, else in that of their digests.
        images: the first 12 bytes of each image's digest, one behind the other, in base64.
        outcomes: by figure, a character per image: `1` right, `0` wrong; of a gain `+` gained, `-`
            lost, `=` as before; `.` where the figure does not count the image.
    """

    time: str
    data: str
    n_read: int
    in_order: bool
    images: str
    outcomes: dict[str, str]


class MonitorDocument(TypedDict):
    """The file.

    Attributes:
        schema: of the form of this file.
        kind: what the file is.
        model: the model that is watched.
        original: the model before, with which it is compared; null where it is not.
        promise: digest of the patch whose report made the promise; null for floors given by hand.
        confidence: with which an alarm is true, over all looks and figures together.
        groups: columns whose values make groups.
        read_as: the settings by which images and outputs were read.
        figures: that are watched.
        looks: in their order.
        seal: digest of all else, so that a changed byte is noticed.
    """

    schema: int
    kind: str
    model: MonitoredModel
    original: MonitoredModel | None
    promise: str | None
    confidence: float
    groups: list[str]
    read_as: dict[str, Any]
    figures: list[WatchedFigure]
    looks: list[MonitorLook]
    seal: str


def named_images(look: MonitorLook) -> list[bytes]:
    """The names of the images of a look, in the order in which they count.

    Raises:
        ValueError: the text does not hold whole names.
    """
    content = base64.b64decode(look["images"], validate=True)
    if len(content) % _DIGEST_BYTES:
        raise ValueError("its images are not named in whole")
    return [content[at : at + _DIGEST_BYTES] for at in range(0, len(content), _DIGEST_BYTES)]


def name_of(digest: bytes) -> bytes:
    """The name of an image with this SHA-256."""
    return digest[:_DIGEST_BYTES]


def names_text(names: list[bytes]) -> str:
    """What `images` of a look holds."""
    return base64.b64encode(b"".join(names)).decode()


def outcomes_of(document: MonitorDocument, figure: str) -> tuple[np.ndarray, list[int]]:
    """The outcomes of a figure on the scale from 0 to 1, and how many there are after each look.

    Returns:
        Shape (n_images that it counts,), and a number per look.
    """
    texts = [look["outcomes"][figure].replace(LEFT_OUT, "") for look in document["looks"]]
    scale = np.zeros(128)
    scale[[ord(mark) for mark in SCORES]] = list(SCORES.values())
    marks = np.frombuffer("".join(texts).encode("ascii"), np.uint8)
    return scale[marks], list(accumulate(map(len, texts)))


def monitor_text(document: MonitorDocument) -> str:
    """What the file holds, sealed."""
    body = {name: value for name, value in document.items() if name != "seal"}
    return to_json({**body, "seal": claim_digest(body)})


def read_monitor(path: Path) -> MonitorDocument:
    """Read the file and check it.

    Raises:
        RunFolderError: it cannot be read, is no such file, or contradicts itself.
        VerificationError: it was altered.
    """
    document = read_json(path, "a state of monitor")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise RunFolderError(
            f"{path}: is no state of repairkit monitor; give another place with --state"
        )
    if type(document.get("schema")) is not int or document["schema"] != SCHEMA:
        raise RunFolderError(
            f"{path}: has schema {document.get('schema')!r}; this version reads {SCHEMA}"
        )
    body = {name: value for name, value in document.items() if name != "seal"}
    if document.get("seal") != claim_digest(body):
        raise VerificationError(f"{path}: was altered (its content does not match its seal)")
    fault = fault_of(document, MonitorDocument) or _fault(document)
    if fault:
        raise RunFolderError(f"{path}: is a broken state of monitor ({fault})")
    return cast("MonitorDocument", document)


def _fault(document: dict[str, Any]) -> str:
    """What of a document of the right form cannot be; empty where nothing is wrong."""
    # What may be null may not be missing.
    records = [(document, MonitorDocument), *((row, WatchedFigure) for row in document["figures"])]
    for record, kind in records:
        missing = kind.__annotations__.keys() - record.keys()
        if missing:
            return f"{min(missing)} is missing"
    figures = [each["figure"] for each in document["figures"]]
    if not figures or len(set(figures)) < len(figures) or not 0.5 <= document["confidence"] < 1:
        return "it watches nothing, or a figure twice, or at no confidence"
    for each in document["figures"]:
        lowest = -1.0 if each["figure"].startswith(GAIN) else 0.0
        if not lowest < each["floor"] < 1.0:
            return f"{each['figure']} has a floor of {each['floor']}"
    seen: set[bytes] = set()
    for look in document["looks"]:
        try:
            names = named_images(look)
        except ValueError as error:
            return str(error)
        n_before = len(seen)
        seen.update(names)
        if len(seen) < n_before + len(names):
            return "it counts an image twice"
        for name in figures:
            marks = look["outcomes"].get(name, "")
            if len(marks) != len(names) or set(marks) - _MARKS[name.startswith(GAIN)]:
                return f"it lacks outcomes of {name}"
    return ""
