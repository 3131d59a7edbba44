"""Tables of a dissection on standard output."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from repairkit.cli import printing
from repairkit.core.process.text import counted

_SHOWN = 20
Detection = Mapping[str, Any]


def print_dissected(document: Mapping[str, Any]) -> None:
    """Print the layers, the filters that stand out most, and what they rest on."""
    filters, concepts, images = (document[name] for name in ("filters", "concepts", "images"))
    level = f"{100 * document['settings']['level']:g} %"
    if concepts is not None:
        printing.table(
            "Concepts with masks, by layer",
            ["layer", "filters", "detect", "named", "what the named detect", "reach", "random"],
            [_layer_row(layer, filters) for layer in document["layers"] if layer["p"] is not None],
        )
        least = document["settings"]["least_iou"]
        printing.say(
            "detect: filters that fit a concept better than masks of other images would; named: "
            "those of them that stand out among random filters of their layer (at most "
            f"{level} of the named are expected to be false)"
        )
        printing.say(
            f"reach: share of filters with an IoU of {least:g} or more; random: the same of random "
            "filters, which have the layer's weights in another order"
        )
        _print_best(filters, "mask", "iou", "IoU")
    if images is not None:
        _print_best(filters, "image", "auc", "AUC")
    _print_origin(concepts, images)
    for note in document["notes"]:
        printing.say(f"note: {note}")


def _layer_row(layer: Detection, filters: Sequence[Detection]) -> list[str]:
    masks = [each["mask"] for each in filters if each["site"] == layer["site"]]
    named = [mask for mask in masks if mask["named"]]
    by_category = Counter(mask["category"] or mask["concept"] for mask in named)
    return [
        layer["site"],
        str(layer["n_filters"]),
        str(sum(mask["detects"] for mask in masks)),
        str(len(named)),
        ", ".join(f"{name} {n}" for name, n in by_category.most_common(4)),
        f"{100 * layer['reach'] / layer['n_filters']:.0f} %",
        f"{100 * layer['random']:.0f} %",
    ]


def _print_best(filters: Sequence[Detection], kind: str, score: str, words: str) -> None:
    """Print the named filters of one kind, the best first; the best of all where none is named."""
    known = [(each["filter"], each[kind]) for each in filters if each[kind] is not None]
    named = [pair for pair in known if pair[1]["named"]]
    shown = sorted(named or known, key=lambda pair: -pair[1][score])[:_SHOWN]
    what = "images" if kind == "image" else "masks"
    title = (
        f"Named filters by {what}, best first" if named else f"None is named by {what}; the best"
    )
    if len(named) > _SHOWN:
        title += f" {_SHOWN} of {len(named)}"
    printing.table(
        title,
        ["filter", "concept", "of", words, "from", "to", "p among random"],
        [
            [
                name,
                each["concept"],
                each["category"] if kind == "mask" else f"{each['column']} ({each['response']})",
                *(f"{each[key]:.3f}" for key in (score, "low", "high")),
                f"{each['p']:.2g}",
            ]
            for name, each in shown
        ],
    )


def _print_origin(concepts: Detection | None, images: Detection | None) -> None:
    if concepts is not None:
        size = " x ".join(map(str, concepts["size"]))
        printing.say(
            f"concept images: {concepts['source']}, {counted(len(concepts['concepts']), 'concept')}"
            f", {concepts['n_images']} images of {size}; {concepts['n_chosen']} chose the concept "
            f"of each filter, {concepts['n_held_out']} others measured it"
        )
    if images is not None:
        columns = ", ".join(f"{name} ({len(v)})" for name, v in images["columns"].items())
        printing.say(
            f"concepts of whole images: {columns}; {images['n_chosen']} {images['part']} images "
            f"chose, {images['n_held_out']} others measured"
        )


def print_valued(document: Mapping[str, Any]) -> None:
    """Print whether filters of extreme value carry concepts more often; see `ValuedConcepts`."""
    for each in document["kinds"]:
        _print_links(each, document["metric"])
    printing.say(
        "by chance: the middle 95 % where values are dealt out anew within each layer; p is "
        "two-sided, from the same draws"
    )
    if document["noise"] is not None:
        printing.say(
            f"{100 * document['noise']:.0f} % of the spread of values within layers is the error "
            "of their estimates"
        )
    for note in document["notes"]:
        printing.say(f"note: {note}")


def _print_links(known: Detection, metric: str) -> None:
    masks = known["kind"] == "mask"
    score, what = ("IoU", "masks") if masks else ("AUC", "whole images")
    words = {"named": "share named", "detects": "share that detects", "score": f"mean {score}"}
    printing.table(
        f"Concepts of {what}: filters of extreme value for {metric}, beside others of their layers",
        ["values", "filters", "of", "they", "others", "difference", "by chance", "p"],
        [
            [
                each["group"],
                str(each["n"]),
                words[each["measure"]],
                *(_number(each[key], sign=key == "difference") for key in _MEANS),
                _between(each),
                _p(each["p"]),
            ]
            for each in known["groups"]
        ],
    )
    printing.table(
        f"Rank correlation with the {score} on held-out images, within layers",
        ["of", "correlation", "by chance", "p"],
        [
            [each["of"], _number(each["correlation"], sign=True), _between(each), _p(each["p"])]
            for each in known["links"]
        ],
    )
    printing.table(
        "By layer",
        ["layer", "filters", "detect", "named", "highest", "lowest", "rank corr.", "they detect"],
        [
            [
                each["site"],
                *(str(each[key]) for key in ("n", "detects", "named", "n_highest", "n_lowest")),
                _number(each["correlation"], sign=True),
                ", ".join(f"{name} {n}" for name, n in list(each["categories"].items())[:4]),
            ]
            for each in known["layers"]
        ],
    )
    for note in known["notes"]:
        printing.say(f"note: {note}")


_MEANS = ("mean", "others", "difference")


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def _between(each: Detection) -> str:
    if each["chance_low"] is None:
        return "-"
    return f"{each['chance_low']:+.3f} to {each['chance_high']:+.3f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
