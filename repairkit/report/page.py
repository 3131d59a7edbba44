"""Documents to self-contained pages: one file, no script, no network, every string escaped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from repairkit.core.metric import SHARE
from repairkit.report import wording
from repairkit.report.charts import share_bar
from repairkit.report.pictures import Picture
from repairkit.report.repair_page import repair_facts
from repairkit.report.run_page import run_facts

Pictures = Mapping[int, Picture]
"""Pictures of images by their row in the data."""


def render_patch(document: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """The page of a repair, from what `report.json` says of it.

    Blocks that the document lacks are left out of the page.
    """
    return _render("repair.html.j2", repair_facts(document), pictures)


def render_run(document: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """The page of a scoring, from what `report.json` says of it; see `render_patch`."""
    return _render("run.html.j2", run_facts(document), pictures)


def _render(template: str, facts: Mapping[str, Any], pictures: Pictures | None) -> str:
    page: str = _environment().get_template(template).render(facts, pictures=pictures or {})
    return page


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("repairkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": wording.visible,
        "number": wording.number,
        "figure": wording.figure,
        "change": wording.change,
        "interval": wording.interval,
    }
    environment.globals |= {
        "count": wording.count,
        "of_part": wording.of_part,
        "is_cross_fitted": wording.is_cross_fitted,
        "SHARE": SHARE,
        "share_bar": share_bar,
        "spot": spot,
    }
    return environment


def spot(image: Mapping[str, Any], entry: Mapping[str, Any], picture: Picture) -> dict[str, float]:
    """Where in a picture a filter responds most: the rectangle that its position sees, in pixels.

    The whole picture where the position sees it all.
    """
    sees = entry.get("sees")
    height, width = (picture.height, picture.width) if sees is None else sees
    height, width = min(height, picture.height), min(width, picture.width)
    row, column = image["at"]
    top = min(max(row * picture.height - height / 2, 0), picture.height - height)
    left = min(max(column * picture.width - width / 2, 0), picture.width - width)
    return {"x": round(left, 2), "y": round(top, 2), "width": width, "height": height}
