"""The table of dreams on a terminal."""

from collections.abc import Mapping
from typing import Any

from repairkit.cli import printing

_COLUMNS = [
    "filter", "response", "best real image", "excess", "control", "its excess", "picture",
]  # fmt: skip


def print_dreams(document: Mapping[str, Any]) -> None:
    """Print each dream beside the best real image and the control, and what the figures mean."""
    dreams, images = document["dreams"], document["images"]
    layer = "layer" if any("layer" in entry for entry in dreams) else "filter"
    columns = [layer, *_COLUMNS[1:]] if images else ["filter", "response", "control", "picture"]
    columns[0] = layer
    rows = []
    for entry in dreams:
        name = entry.get("layer", entry["filter"])
        name += f" ({entry['number'] + 1})" if document["diverse"] > 1 else ""
        response, control = _number(entry["response"]), _number(entry["control"])
        if images:
            excess, its = _signed(entry["excess"]), _signed(entry["control_excess"])
            real = _number(entry["best_real"])
            rows.append([name, response, real, excess, control, its, entry["picture"]])
        else:
            rows.append([name, response, control, entry["picture"]])
    printing.table("Dreams", columns, rows)
    kind = "peak" if document["at"] == "centre" else "mean"
    printing.say(
        f"response: the {kind} over positions; control: the response to the dream of another "
        "filter of the site"
    )
    if images:
        printing.say(
            f"excess: above the best of {images['n_images']:,} {images['part']} images, in "
            "standard deviations of their responses"
        )
    else:
        printing.say("no real images were given; compare with some by --data")
    ways = {
        "gradient": f"gradients of {document['source']}",
        "passes": "forward passes alone",
    }
    passes = sum(entry["passes"] for entry in dreams)
    printing.say(
        f"made by {ways[document['way']]}: {passes:,} images in {document['seconds']:.1f} s; "
        f"pixel range: {document['pixels']['origin']}"
    )
    for note in document["notes"]:
        printing.say(f"note: {note}")
    if document["out"] is not None:
        printing.say(f"written to {document['out']}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
