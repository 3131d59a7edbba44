"""What a dissection found, as the documents `dissection.json` and `dissection.csv` hold it."""

import csv
import io
from pathlib import Path
from typing import Any, TypedDict, cast

from repairkit.core.errors import RunFolderError
from repairkit.core.process.text import plain_cell
from repairkit.formats.documents import fault_of, read_json

SCHEMA = 1
KIND = "repairkit dissection"
DISSECTION_FILE, TABLE_FILE = "dissection.json", "dissection.csv"
_COLUMNS = (
    "filter", "site", "channel", "concept", "category", "iou", "iou_low", "iou_high", "iou_chance",
    "iou_p", "detects", "named", "image_concept", "column", "response", "auc", "auc_low",
    "auc_high", "auc_p", "image_named",
)  # fmt: skip


class NamedConcept(TypedDict):
    """A concept with masks: in how many images it is seen, and the share of cells it covers."""

    number: int
    name: str
    category: str
    n_images: int
    share: float


class ConceptSource(TypedDict):
    """The concept images.

    Attributes:
        source: a path, or `generated`.
        digest: SHA-256 over images and masks, in hexadecimal.
        n_images: all of them.
        n_chosen: how many set levels and chose the concept of each filter.
        n_held_out: how many measured what is reported.
        size: height and width of the images in pixels.
        grid: height and width of the masks that maps are compared with, in cells.
        concepts: those that could be chosen.
    """

    source: str
    digest: str
    n_images: int
    n_chosen: int
    n_held_out: int
    size: list[int]
    grid: list[int]
    concepts: list[NamedConcept]


class ImageConcepts(TypedDict):
    """Concepts of whole images: the columns of the data, and how many images chose and reported."""

    digest: str
    part: str
    n_chosen: int
    n_held_out: int
    columns: dict[str, list[str]]


class MaskDetection(TypedDict):
    """The concept with masks that fits a filter best, measured on images that did not choose it.

    Attributes:
        concept: its name.
        category: its category.
        iou: intersection over union on held-out images.
        low: the lower end of its 95 % interval over images.
        high: the upper end.
        chance: what the same maps reach beside the masks of images drawn anew.
        p: the share of random filters of the layer that reach as much, itself counted in.
        q: the least level at which the filter is named, in its layer.
        detects: whether `low` lies above `chance`, and `iou` reaches the least that counts.
        named: whether it detects and stands out among random filters.
    """

    concept: str
    category: str
    iou: float
    low: float
    high: float
    chance: float
    p: float
    q: float
    detects: bool
    named: bool


class ImageDetection(TypedDict):
    """The concept of whole images that a filter tells best, on images that did not choose it.

    `response` is `peak` or `mean`, over positions; the other entries are as in `MaskDetection`,
    where 0.5 is chance.
    """

    concept: str
    column: str
    response: str
    auc: float
    low: float
    high: float
    p: float
    q: float
    detects: bool
    named: bool


class DissectedFilter(TypedDict):
    """A filter, and the concepts that it detects; null where it has no map, or no images told."""

    filter: str
    site: str
    channel: int
    mask: MaskDetection | None
    image: ImageDetection | None


class DissectedLayer(TypedDict):
    """A site beside its random copies.

    `reach` is how many filters reach the least IoU that counts, `random` the share of random
    filters that do, and `p` how many of the copies have as many, the layer counted in. All three
    are null where there are no maps.
    """

    site: str
    kind: str
    n_filters: int
    n_copies: int
    reach: int | None
    random: float | None
    p: float | None


class DissectionModel(TypedDict):
    """The model that was dissected."""

    path: str
    digest: str


class DissectionSettings(TypedDict):
    """What a dissection was asked for.

    Attributes:
        share: of positions at which a filter counts as active.
        least_iou: what counts as a detector.
        level: the expected share of false names among the named filters of a layer.
        copies: random copies of each layer, at most.
        seed: of drawn images, parts, copies and intervals.
        sites_at: where filters are read.
        include: further kinds of sites.
        preprocessing: how pixels became the model's input.
    """

    share: float
    least_iou: float
    level: float
    copies: int
    seed: int
    sites_at: str
    include: list[str]
    preprocessing: dict[str, Any]


class DissectionDocument(TypedDict):
    """What `repairkit dissect` found; filters are in the order of the model's sites."""

    schema: int
    kind: str
    model: DissectionModel
    concepts: ConceptSource | None
    images: ImageConcepts | None
    settings: DissectionSettings
    layers: list[DissectedLayer]
    filters: list[DissectedFilter]
    notes: list[str]
    versions: dict[str, str]


def is_dissection(path: Path) -> bool:
    """Whether a path is that of a dissection: its folder, or its JSON file."""
    if path.is_dir():
        return (path / DISSECTION_FILE).is_file()
    return path.suffix == ".json" and path.is_file()


def read_dissection(path: Path) -> DissectionDocument:
    """Read a dissection, from its folder or its file.

    Raises:
        RunFolderError: there is none, or it is broken or of another version.
    """
    file = path / DISSECTION_FILE if path.is_dir() else path
    document = read_json(file, "a dissection")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise RunFolderError(f"{file}: is no dissection; name a folder that dissect wrote")
    if document.get("schema") != SCHEMA:
        raise RunFolderError(
            f"{file}: has the schema {document.get('schema')!r} and {SCHEMA} is known; dissect the "
            "model again"
        )
    fault = fault_of(document, DissectionDocument)
    if fault:
        raise RunFolderError(f"{file}: is damaged: {fault}; dissect the model again")
    return cast("DissectionDocument", document)


def dissection_rows(document: DissectionDocument) -> list[dict[str, Any]]:
    """A row for each filter, with the columns of `dissection.csv`; None where nothing is known."""
    return [_row(each) for each in document["filters"]]


def _row(each: DissectedFilter) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_COLUMNS)
    row |= {name: each[name] for name in ("filter", "site", "channel")}
    mask, image = each["mask"], each["image"]
    if mask is not None:
        row |= {name: mask[name] for name in ("concept", "category", "detects", "named")}
        row |= {"iou": mask["iou"], "iou_p": mask["p"]}
        row |= {f"iou_{end}": mask[end] for end in ("low", "high", "chance")}
    if image is not None:
        row |= {"image_concept": image["concept"], "image_named": image["named"]}
        row |= {name: image[name] for name in ("column", "response", "auc")}
        row |= {f"auc_{end}": image[end] for end in ("low", "high", "p")}
    return row


def dissection_csv(document: DissectionDocument) -> str:
    """The table `dissection.csv`: a row for each filter, empty where nothing is known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    for row in dissection_rows(document):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return "" if value is None else plain_cell(str(value))
