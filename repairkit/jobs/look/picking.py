"""Which filters of a ranking to look at: both ends, and the best of each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from repairkit.core.filters import Filter

End = Literal["valuable", "harmful", "layer"]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a filter is looked at: the `place`-th of an end, from 1, or the best of a layer."""

    of: End
    place: int


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A filter to look at; `place` is its place in the ranking, from 1, and `why` all reasons."""

    filter: Filter
    place: int
    why: tuple[Reason, ...]


def pick_filters(ranked: Sequence[str], n: int, *, less_is_better: bool = False) -> list[Pick]:
    """At most `n` filters: the best of each layer, then the most valuable and the most harmful.

    Layers take half of the places at most, those with the most valuable filter first. The ends
    share the others evenly: they take turns, the valuable end first, and a filter that was taken
    already costs no place.

    Args:
        ranked: names of filters, from the highest value to the lowest.
        n: at least 1.
        less_is_better: whether a filter of low value is valuable.

    Returns:
        From the most valuable to the most harmful, each once.
    """
    ids = list(ranked)[::-1] if less_is_better else list(ranked)
    best: dict[str, str] = {}
    for name in ids:
        best.setdefault(Filter.parse(name).site, name)
    taken = dict.fromkeys(list(best.values())[: max(n // 2, 1)])
    depths = {"valuable": 0, "harmful": 0}
    while len(taken) < min(n, len(ids)):
        for end in ("valuable", "harmful"):
            depths[end] = _next(ids if end == "valuable" else ids[::-1], depths[end], taken, n)
    place = {name: number for number, name in enumerate(ids)}
    chosen = sorted(taken, key=place.__getitem__)
    return [
        Pick(
            filter=Filter.parse(name),
            place=len(ids) - place[name] if less_is_better else place[name] + 1,
            why=_why(place[name], len(ids), depths, name in best.values()),
        )
        for name in chosen
    ]


def _next(ids: Sequence[str], depth: int, taken: dict[str, None], n: int) -> int:
    """Take the next filter from an end that was not taken yet; how far that end has come."""
    while depth < len(ids) and len(taken) < n:
        depth += 1
        if ids[depth - 1] not in taken:
            taken[ids[depth - 1]] = None
            break
    return depth


def _why(place: int, n_all: int, depths: Mapping[str, int], best: bool) -> tuple[Reason, ...]:
    reasons = []
    if place < depths["valuable"]:
        reasons.append(Reason(of="valuable", place=place + 1))
    if n_all - 1 - place < depths["harmful"]:
        reasons.append(Reason(of="harmful", place=n_all - place))
    if best:
        reasons.append(Reason(of="layer", place=1))
    return tuple(reasons)
