"""The page of an atlas: one file with a small script of ours that finds cards, and no network.

The script is admitted by its hash alone, so that nothing that a name or a label holds can run.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any, Literal

from markupsafe import Markup

from repairkit.core.metric import Measure
from repairkit.formats.looks import atlas_file as file
from repairkit.report import charts, page, wording

_MOST_WHISKERS = 60
_ROWS_OF_SETS = 8
_KINDS = (
    ("both", "both", "dot", "both"),
    ("a", "of-a", "square", "{a} alone"),
    ("b", "of-b", "diamond", "{b} alone"),
    ("neither", "of-none", "ring", "neither"),
)


@dataclass(frozen=True)
class Detail:
    """How much a page shows: images at each end of a filter, and longest sides in pixels."""

    n_images: int
    side: int
    patch_side: int


DETAILS = (
    Detail(4, 112, 96),
    Detail(4, 80, 64),
    Detail(3, 64, 48),
    Detail(2, 48, 40),
    Detail(1, 40, 32),
    Detail(0, 0, 0),
)
"""From the finest to none; a page has the first of which the file is not too large."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Album:
    """Pictures of a page: images by row, patches by `patch_key`, dreams by filter."""

    detail: Detail
    images: Mapping[int, charts.Picture]
    patches: Mapping[str, charts.Picture]
    dreams: Mapping[str, charts.Picture]


def patch_key(image: file.AtlasImage) -> str:
    """The name of a patch of an image: its row and its place, in whole pixels."""
    return "-".join(str(round(number)) for number in (image["row"], *image["box"]))


@cache
def script() -> str:
    """The script of the page."""
    return (resources.files("repairkit.report") / "templates" / "atlas.js").read_text(
        encoding="utf-8"
    )


@cache
def script_hash() -> str:
    """What the page's policy admits: the digest of `script`."""
    digest = hashlib.sha256(script().encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def render_atlas(document: file.AtlasDocument, album: Album, notes: Sequence[str] = ()) -> str:
    """The page of an atlas.

    Args:
        document: what `atlas.json` says.
        album: pictures; a picture that is missing is left out.
        notes: on how the page was made, beside those of the document.
    """
    return page.render("atlas.html.j2", atlas_facts(document, album, notes))


def atlas_facts(document: file.AtlasDocument, album: Album, notes: Sequence[str]) -> dict[str, Any]:
    """The variables of the template, by name."""
    measures = {name: Measure.from_json(facts) for name, facts in document["measures"].items()}
    measure = _measure(document, measures)
    sets = _sets(document)
    within = _within(document["filters"], document["metric"])
    layers = list(dict.fromkeys((card["layer"], card["site"]) for card in document["filters"]))
    return {
        "document": document,
        "versions": document["versions"],
        "name": PurePath(document["model"]["path"]).name,
        "measure": measure,
        "figure": measures[document["metric"]],
        "measures": measures,
        "verdict": {"tone": "plain", "word": "Atlas", "sentence": _sentence(document, measure)},
        "warnings": [],
        "cards": [
            _card(card, document, album, measures=measures, sets=sets, within=within)
            for card in document["filters"]
        ],
        "layers": sorted(layers),
        "valued": _named(document, sets, "by"),
        "responding": _named(document, sets, "responds_most_to"),
        "album": album,
        "stock": [(f"i{row}", picture) for row, picture in album.images.items()],
        "shared": None if document["shared"] is None else shared_facts(document["shared"]),
        "notes": [*document["notes"], *notes],
        "script": Markup(script()),
        "script_hash": script_hash(),
    }


def _measure(document: file.AtlasDocument, measures: Mapping[str, Measure]) -> Measure:
    """How the values that rank are to be understood."""
    if document["valued"]:
        return measures[document["metric"]]
    return Measure(words=document["run"]["method"])


def _sentence(document: file.AtlasDocument, measure: Measure) -> str:
    shown = f"{wording.count(len(document['filters']), 'filter')} of {document['n_filters']:,}"
    if not document["valued"]:
        return (
            f"{shown}, ranked by {measure.words}, which says nothing of what they are worth: those "
            "of both ends, and the first of each layer."
        )
    return (
        f"{shown}, from the most valuable to the most harmful for {measure.words}: those of both "
        "ends, and the best of each layer."
    )


def _sets(document: file.AtlasDocument) -> list[tuple[str, str]]:
    """Every class and group that a card names, as (kind, name)."""
    named = [
        (row["kind"], row["name"])
        for card in document["filters"]
        for row in (*card["by"], *card["responds_most_to"])
    ]
    return sorted(dict.fromkeys(named), key=lambda one: one[0])


def _named(document: file.AtlasDocument, sets: Sequence[tuple[str, str]], key: str) -> list[Any]:
    """The sets that a card names under a key, with their numbers; of values the sure ones."""
    named = {
        (row["kind"], row["name"])
        for card in document["filters"]
        for row in card[key]  # type: ignore[literal-required]
        if row.get("sign") != "open"
    }
    return [(number, one) for number, one in enumerate(sets) if one in named]


def _within(cards: Sequence[file.AtlasFilter], metric: str) -> tuple[float, float]:
    figures = [card["values"][metric] for card in cards]
    ends = [0.0, *(e for f in figures for e in f.values() if isinstance(e, float | int))]
    low, high = min(ends), max(ends)
    reach = 0.03 * (high - low) or 1.0
    return low - reach, high + reach


def _card(
    card: file.AtlasFilter,
    document: file.AtlasDocument,
    album: Album,
    *,
    measures: Mapping[str, Measure],
    sets: Sequence[tuple[str, str]],
    within: tuple[float, float],
) -> dict[str, Any]:
    number = {one: position for position, one in enumerate(sets)}
    value = card["values"][document["metric"]]
    measure = _measure(document, measures)
    n_images = album.detail.n_images
    signs = {"helps": "+", "harms": "-"}
    return {
        **card,
        "why_words": [wording.why_shown(reason, card) for reason in card["why"]],
        "value": value,
        "mark": _mark(value, measure, within, less_is_better=document["less_is_better"]),
        "others": [
            (measures[name], figure)
            for name, figure in card["values"].items()
            if name != document["metric"] and ":" not in name
        ],
        "by_shown": card["by"][:_ROWS_OF_SETS],
        "for_sets": " ".join(
            f"{number[row['kind'], row['name']]}{signs[row['sign']]}"
            for row in card["by"]
            if row["sign"] in signs
        ),
        "to_sets": " ".join(
            str(number[row["kind"], row["name"]]) for row in card["responds_most_to"]
        ),
        "ends": [
            (words, [_picture(image, album) for image in card[end][:n_images]])  # type: ignore[literal-required]
            for words, end in (("Responds most", "most"), ("Responds least", "least"))
            if end in card
        ],
        "dream_picture": album.dreams.get(card["filter"]),
    }


def _mark(
    figure: Mapping[str, Any],
    measure: Measure,
    within: tuple[float, float],
    *,
    less_is_better: bool,
) -> Markup | str:
    if figure["value"] is None:
        return ""
    low = within[0] if figure["ci_low"] is None else figure["ci_low"]
    high = within[1] if figure["ci_high"] is None else figure["ci_high"]
    words = (
        f"{measure.words}: {wording.change(figure['value'], measure)}, interval "
        f"{wording.interval(figure, measure, signed=True)}"
    )
    return charts.interval_mark(
        figure["value"],
        low,
        high,
        within=within,
        description=words,
        more_is_better=not less_is_better,
    )


def _picture(image: file.AtlasImage, album: Album) -> dict[str, Any]:
    top, left, height, width = image["box"]
    return {
        **image,
        "drawn": album.images.get(image["row"]),
        "patch": album.patches.get(patch_key(image)),
        "frame": {"x": left, "y": top, "width": width, "height": height},
    }


def shared_facts(shared: file.SharedFilters) -> dict[str, Any]:
    """The picture of shared neurons, its counts and its words."""
    a, b = shared["a"], shared["b"]
    names = {"a": a["name"], "b": b["name"]}
    counts = shared["counts"]
    kinds: list[dict[str, Any]] = [
        {
            "key": key,
            "style": style,
            "shape": shape,
            "words": words.format(**names),
            "n": counts[key],
        }
        for key, style, shape, words in _KINDS
    ]
    clouds = [_cloud(kind, shared) for kind in kinds[::-1]]
    title = (
        f"value of each filter for {names['a']} against its value for {names['b']}; the counts "
        "stand below, and the numbers in atlas.json"
    )
    chart = charts.scatter_chart(
        title,
        charts.Axis(f"value for {names['a']}, points", 100.0),
        charts.Axis(f"value for {names['b']}, points", 100.0),
        clouds,
    )
    order = ("a", "both", "b", "neither")
    by_key = {kind["key"]: kind for kind in kinds}
    bar = charts.split_bar(
        ", ".join(f"{by_key[key]['words']} {by_key[key]['n']}" for key in order),
        [(by_key[key]["n"], str(by_key[key]["style"])) for key in order],
    )
    return {
        "names": names,
        "sets": (a, b),
        "chart": chart,
        "bar": bar,
        "kinds": [by_key[key] for key in order],
        "rule": shared["rule"],
        "below": (shared["below_a"], shared["below_b"]),
    }


def _cloud(kind: Mapping[str, Any], shared: file.SharedFilters) -> charts.Cloud:
    rows = [row for row in shared["filters"] if row["of"] == kind["key"]]
    sure = kind["key"] != "neither" and len(rows) <= _MOST_WHISKERS
    reaches = [
        (
            _end(row["a"], "ci_low"),
            _end(row["a"], "ci_high"),
            _end(row["b"], "ci_low"),
            _end(row["b"], "ci_high"),
        )
        for row in rows
        if sure
    ]
    return charts.Cloud(
        name=kind["words"],
        style=kind["style"],
        shape=kind["shape"],
        points=[(_end(row["a"], "value"), _end(row["b"], "value")) for row in rows],
        titles=[row["filter"] for row in rows],
        reaches=reaches,
    )


def _end(figure: file.AtlasFigure, name: Literal["value", "ci_low", "ci_high"]) -> float:
    """The value itself where an end is not known, and zero where it is not known either."""
    known = figure["value"] if figure[name] is None else figure[name]
    return 0.0 if known is None else known
