"""What `run.json` says of a ranking by smaller images, and of which size each filter's value is."""

from typing import Any, NotRequired, TypedDict


class Ends(TypedDict):
    """V(all) and V(none) of a metric."""

    all: float
    none: float


class ScoreSize(TypedDict):
    """A ranking by images of `size`, and the filters that were measured at `full` size, if any.

    Sizes are [height, width] in pixels. Of the `filters` measured at full size, `stays` says for
    each end of the ranking which share of its `top_k` is there at full size too, with bounds of
    95 %; `rank_correlation` is that of both values, null where values are equal, and
    `rank_interval` its bounds of 95 %. `metrics` are V(all) and V(none) at full size on the
    `images` that confirm, which took no part in the ranking.
    """

    size: list[int]
    full: list[int]
    filters: list[str]
    top_k: NotRequired[int]
    stays: NotRequired[dict[str, list[float]]]
    rank_correlation: NotRequired[float | None]
    rank_interval: NotRequired[list[float]]
    images: NotRequired[int]
    evaluations: NotRequired[int]
    metrics: NotRequired[dict[str, Ends]]


def in_words(size: tuple[int, int] | list[int]) -> str:
    """A size as options and tables have it: `128x128`."""
    return f"{size[0]}x{size[1]}"


def with_sizes(rows: list[dict[str, Any]], facts: ScoreSize | None) -> list[dict[str, Any]]:
    """Rows of `scores.csv` with the size that each value is of; as they are for one size.

    Args:
        rows: each with the id of its `filter`.
        facts: what the run says.
    """
    if facts is None:
        return rows
    measured, small, full = set(facts["filters"]), in_words(facts["size"]), in_words(facts["full"])
    return [{**row, "size": full if row["filter"] in measured else small} for row in rows]
