"""Make the atlas of a run: choose filters, look at them, and write a page and its numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters
from repairkit.core.process.stages import stage
from repairkit.engine.ort import versions
from repairkit.formats import documents, run_file
from repairkit.formats.looks import atlas_file as file
from repairkit.jobs.atlas import atlas_cards, sharing, values_by
from repairkit.jobs.look import interpreting, picking, single_effects, thumbnails
from repairkit.jobs.output.destination import Places, check_replaced
from repairkit.jobs.runs import reopening, run_document
from repairkit.jobs.setup.workbench import Bench
from repairkit.report import atlas_page, charts

MOST_BYTES = 10_000_000
"""Of a page."""
MOST_FILTERS = 1000


@dataclass(frozen=True, kw_only=True)
class AtlasSettings:
    """What an atlas is to show.

    Attributes:
        filters: how many.
        dreams: make an image that excites each filter.
        dissection: a folder that `dissect` wrote, whose concepts are shown; none if None.
        between: names of two classes or groups whose shared filters are shown; the two that differ
            most if empty.
    """

    filters: int = 50
    dreams: bool = True
    dissection: Path | None = None
    between: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.filters <= MOST_FILTERS:
            raise errors.SettingsError(
                f"--filters is {self.filters}; give a number from 1 to {MOST_FILTERS}"
            )


@dataclass(frozen=True)
class Atlas:
    """Where an atlas was written, and what it says."""

    page: Path
    atlas_file: Path
    document: file.AtlasDocument = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Originals:
    """Images as people see them, by their row in the data, and dreams by filter."""

    images: Mapping[int, NDArray[np.uint8]]
    dreams: Mapping[str, NDArray[np.uint8]]


@stage("making the atlas")
def make_atlas(
    folder: Path,
    settings: AtlasSettings,
    jobs: atlas_cards.OtherJobs,
    *,
    out: Path | None = None,
    places: reopening.Whereabouts | None = None,
) -> Atlas:
    """Write the atlas of a run folder: a page, and its numbers beside it, both or neither.

    Args:
        folder: what `score` wrote.
        settings: what to show.
        jobs: that make dreams and read concepts.
        out: the page; `atlas.html` in the folder if None.
        places: of model, data and means, and the code that may run; what the run recorded if None.

    Raises:
        SettingsError: the run names code that is not trusted, or knows no such class or group.
        RunFolderError: the folder is no finished run, or the page cannot be written.
        RepairkitError: model or data cannot be read, or are not those of the run.
    """
    run_folder = run_file.RunFolder(folder)
    run = run_folder.read_finished()
    page = folder / "atlas.html" if out is None else out
    atlas_file = page.with_suffix(".json")
    if atlas_file == page:
        raise errors.RunFolderError(
            f"{page}: is the name of the numbers beside the page; give -o a name that ends in .html"
        )
    check_replaced(page, b'content="repairkit"', "page of repairkit's")
    check_replaced(atlas_file, f'"kind": "{file.KIND}"'.encode(), "atlas of repairkit's")
    rows = run_folder.read_rows()
    if not rows:
        raise errors.RunFolderError(
            f"{run_folder.scores_file}: holds no scores; score the model again"
        )
    concepts = {}
    if settings.dissection is not None:
        ranked = [filters.Filter.parse(row.filter) for row in rows]
        concepts = jobs.concepts(settings.dissection, run["model"]["digest"], ranked)
    known = values_by.values_by(folder, run, rows)
    shared = sharing.shared_filters(known, settings.between)
    work = partial(
        _looked_at, run=run, rows=rows, known=known, concepts=concepts, settings=settings, jobs=jobs
    )
    document, originals = reopening.looked_at_again(
        run_folder, run, places or reopening.Whereabouts(), work
    )
    document = _told(document, run, folder, known, shared)
    text = fitting_page(document, partial(album_of, document, originals))
    with documents.outputs(page) as drafts:
        drafts.write(atlas_file, documents.to_json(document).encode())
        drafts.write(page, text.encode())
    return Atlas(page, atlas_file, document)


def _looked_at(
    bench: Bench,
    *,
    run: run_file.RunDocument,
    rows: Sequence[run_file.ScoreRow],
    known: values_by.ValuesBy,
    concepts: dict[str, list[file.AtlasConcept]],
    settings: AtlasSettings,
    jobs: atlas_cards.OtherJobs,
) -> tuple[Any, Originals]:
    """What model and images tell: the document, but for what the run alone tells; and pictures."""
    metrics = tuple(dict.fromkeys(run["metrics"])) or bench.metric_names[:1]
    turned = metrics[0] in run.get("less_is_better", [])
    picks = picking.pick_filters(
        [row.filter for row in rows], settings.filters, less_is_better=turned
    )
    chosen = [pick.filter for pick in picks]
    suite = interpreting.looked_through(bench)
    tried = single_effects.affordable(bench, chosen, suite)
    effects = single_effects.single_effects(bench, chosen, tried, metrics[0], full=True)
    dreams = jobs.dreams(bench, chosen) if settings.dreams else atlas_cards.Dreams()
    findings = atlas_cards.Findings(
        metrics=metrics,
        less_is_better=turned,
        rows={row.filter: row for row in rows},
        known=known,
        effects=_by_name(picks, effects),
        dreams=dreams.records,
        concepts=concepts,
    )
    entries = interpreting.entries_of(bench, chosen, suite)
    cards = atlas_cards.cards_of(picks, entries, bench.image_size, findings)
    shown = [
        image["row"]
        for card in cards
        for images in (card.get("most", []), card.get("least", []))
        for image in images
    ]
    pixels = thumbnails.bright_pixels(bench, suite, shown)
    document = {
        "metric": metrics[0],
        "valued": bool(run["metrics"]),
        "less_is_better": turned,
        "n_asked": settings.filters,
        "images": {"suite": suite.name, "n_images": len(suite), "n_effects": len(tried)},
        "sites": [site.name for site in bench.roster.sites],
        "filters": cards,
        "notes": [*dreams.notes],
        **bench.roster.unit,
    }
    return document, Originals(
        images={row: charts.as_bytes(image) for row, image in pixels.items()},
        dreams=dreams.pictures,
    )


def _by_name(
    picks: Sequence[picking.Pick], effects: Sequence[single_effects.SingleEffect]
) -> dict[str, single_effects.SingleEffect]:
    return {pick.filter.id: effect for pick, effect in zip(picks, effects, strict=True)}


def _told(
    looked_at: Mapping[str, Any],
    run: run_file.RunDocument,
    folder: Path,
    known: values_by.ValuesBy,
    shared: file.SharedFilters | None,
) -> file.AtlasDocument:
    """The whole document."""
    places = Places.here()
    measured = any(card["by"] for card in looked_at["filters"])
    source = "value" if known.columns else "effect" if measured else "none"
    document: Any = {
        "schema": file.SCHEMA,
        "kind": file.KIND,
        "versions": versions(),
        "run": {
            "path": places.relative(folder),
            "key": run["key"],
            "method": run["settings"]["method"],
            "interval": run.get("interval", ""),
        },
        "model": {**run["model"], "path": places.relative(Path(run["model"]["path"]))},
        "data": {
            "path": places.relative(Path(run["data"]["path"])),
            "digest": run["data"]["digest"],
        },
        "measures": run_document.measures_in(run),
        "n_filters": run["n_filters"],
        "by_source": source,
        "by_words": _by_words(source, known),
        "shared": shared,
        "shared_words": "" if shared is not None else _why_not_shared(known),
        **looked_at,
        **({"layers": run["layers"]} if "layers" in run else {}),
    }
    cleaned: file.AtlasDocument = places.cleaned(document)
    return cleaned


def _by_words(source: str, known: values_by.ValuesBy) -> str:
    if source == "value":
        return f"They are {known.words}. Intervals hold for each value alone."
    why = f" ({known.words})" if known.words else ""
    if source == "effect":
        return (
            "They are what freezing each filter alone changes in the accuracy on these images, "
            "with 95 % intervals, each for itself. They are no values: those by class and group "
            f"are not known{why}; {values_by.HOW_TO_KNOW}."
        )
    return f"Not known: the answers are no classes{why}."


def _why_not_shared(known: values_by.ValuesBy) -> str:
    why = f" ({known.words})" if known.words and not known.columns else ""
    if known.columns:
        return "Values are known for one class or group alone, so that there is nothing to share."
    return f"Values by class and group are not known{why}; {values_by.HOW_TO_KNOW}."


@stage("writing the page")
def fitting_page(
    document: file.AtlasDocument,
    album: Callable[[Any], atlas_page.Album],
    *,
    most: int = MOST_BYTES,
) -> str:
    """The page in the finest detail of which it has at most `most` bytes.

    Where it is too large even without pictures, only so many filters are shown as have room.

    Raises:
        RunFolderError: not even one filter has room.
    """
    for detail in atlas_page.DETAILS:
        notes = (
            []
            if detail == atlas_page.DETAILS[0]
            else [_of_detail(detail.n_images, detail.side, most)]
        )
        text = atlas_page.render_atlas(document, album(detail), notes)
        if len(text.encode()) <= most:
            return text
    cards = document["filters"]
    while len(cards) > 1:
        cards = cards[: len(cards) // 2]
        fewer: Any = {**document, "filters": cards}
        notes = [
            f"the page holds {most / 1e6:g} MB at most, so that it shows no picture and the first "
            f"{len(cards)} filters alone; atlas.json tells of all"
        ]
        text = atlas_page.render_atlas(fewer, album(atlas_page.DETAILS[-1]), notes)
        if len(text.encode()) <= most:
            return text
    raise errors.RunFolderError(
        f"the page of one filter alone is larger than {most / 1e6:g} MB; names of classes, groups "
        "or layers are too long for a page: give shorter ones"
    )


def _of_detail(n_images: int, side: int, most: int) -> str:
    shown = f"{n_images} at each end, of {side} pixels at most" if n_images else "none"
    return f"the page holds {most / 1e6:g} MB at most; so fewer or smaller pictures: {shown}"


def album_of(
    document: file.AtlasDocument, originals: Originals, detail: atlas_page.Detail
) -> atlas_page.Album:
    """The pictures of a page in the given detail.

    A patch is a picture of its own where the thumbnail of its image has fewer pixels than the
    image; else the page cuts it out of the thumbnail.
    """
    images: dict[int, charts.Picture] = {}
    patches: dict[str, charts.Picture] = {}
    dreams: dict[str, charts.Picture] = {}
    if not detail.n_images:
        return atlas_page.Album(detail=detail, images=images, patches=patches, dreams=dreams)
    for card in document["filters"]:
        for image in _shown(card, detail):
            pixels = originals.images[image["row"]]
            if image["row"] not in images:
                drawn = charts.draw_picture(pixels, largest=detail.side, smallest=1)
                if drawn is None:
                    continue
                images[image["row"]] = drawn
            if max(pixels.shape[:2]) > detail.side:
                cut = charts.draw_picture(
                    _cut(pixels, image["box"]), largest=detail.patch_side, smallest=1
                )
                if cut is not None:
                    patches.setdefault(atlas_page.patch_key(image), cut)
        dream = originals.dreams.get(card["filter"])
        drawn = (
            None if dream is None else charts.draw_picture(dream, largest=detail.side, smallest=1)
        )
        if drawn is not None:
            dreams[card["filter"]] = drawn
    return atlas_page.Album(detail=detail, images=images, patches=patches, dreams=dreams)


def _shown(card: file.AtlasFilter, detail: atlas_page.Detail) -> list[file.AtlasImage]:
    if "most" not in card:
        return []
    return [image for end in ("most", "least") for image in card[end][: detail.n_images]]


def _cut(pixels: NDArray[np.uint8], box: list[float]) -> NDArray[np.uint8]:
    """The patch, of whole pixels, and of two each way at the least."""
    top, left, height, width = box
    rows = slice(int(top), max(int(np.ceil(top + height)), int(top) + 2))
    columns = slice(int(left), max(int(np.ceil(left + width)), int(left) + 2))
    return pixels[rows, columns]
