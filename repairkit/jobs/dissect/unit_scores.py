"""Score the filters of sites and their random copies: by masks, and by concepts of whole images.

Levels and concepts are chosen on one half of the images, and what is reported is measured on the
other half. Random filters go through the very same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.concepts import overlaps, responding
from repairkit.core.filters import Site
from repairkit.core.process.stages import stage
from repairkit.core.suite import Suite
from repairkit.jobs.dissect.concept_images import ConceptImages
from repairkit.jobs.dissect.unit_maps import UnitMaps

N_DRAWS = 500
RESPONSES = ("peak", "mean")
_GROUP_BYTES = 192 << 20
_MOST_WEIGHTS = 1 << 26  # of the random copies in one session


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskScores:
    """The concept with masks that fits each unit of a site best.

    `concept` and `iou` are (n_units,), filters first and copies behind; `low`, `high` and `chance`
    are (n_channels,), of the filters alone.
    """

    concept: NDArray[np.intp]
    iou: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    chance: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageScores:
    """The concept of whole images that each unit tells best, (n_units,), and by which response.

    `low` and `high` are (n_channels,), of the filters alone.
    """

    concept: NDArray[np.intp]
    response: NDArray[np.intp]
    auc: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def grouped(sites: Sequence[Site], maps: UnitMaps, weights: dict[str, int]) -> Iterator[list[Site]]:
    """Sites in groups that share a session: few enough that their copies have room."""
    group: list[Site] = []
    held = units = 0
    for site in sites:
        more = weights[site.name] * maps.n_copies[site.name]
        n_units = maps.n_units(site)
        if group and (held + more > _MOST_WEIGHTS or (units + n_units) * 2**15 > _GROUP_BYTES):
            yield group
            group, held, units = [], 0, 0
        group.append(site)
        held, units = held + more, units + n_units
    if group:
        yield group


def score_masks(
    maps: UnitMaps,
    images: ConceptImages,
    halves: tuple[NDArray[np.intp], NDArray[np.intp]],
    *,
    share: float,
    seed: int,
) -> dict[str, MaskScores]:
    """The scores of every site of `maps`.

    Args:
        maps: of the sites.
        images: with masks.
        halves: images that choose, and images that are held out.
        share: of positions at which a unit counts as active.
        seed: of the intervals.
    """
    chosen, held_out = (images.suite.take(half) for half in halves)
    levels = _levels(maps, chosen, share)
    masks = images.masks
    with stage("choosing concepts", total=len(chosen)) as tell:
        first = {
            site.name: overlaps.Overlaps(masks, levels[site.name], len(chosen))
            for site in maps.sites
        }
        for positions, answers in maps.stream(chosen):
            _add(first, positions, halves[0], answers)
            tell(int(positions[-1]) + 1)
    best = {name: each.counts().iou().argmax(axis=1) for name, each in first.items()}
    with stage("measuring concepts", total=len(held_out)) as tell:
        second = {
            site.name: overlaps.Overlaps(
                masks, levels[site.name], len(held_out), chosen=best[site.name]
            )
            for site in maps.sites
        }
        for positions, answers in maps.stream(held_out):
            _add(second, positions, halves[1], answers)
            tell(int(positions[-1]) + 1)
    shown = masks.shown[halves[1]].T
    return {
        site.name: _mask_scores(second[site.name].pairs(), best[site.name], shown, site, seed)
        for site in maps.sites
    }


def _levels(maps: UnitMaps, suite: Suite, share: float) -> dict[str, NDArray[np.float32]]:
    tops: dict[str, overlaps.TopValues] = {}
    with stage("measuring responses", total=len(suite)) as tell:
        for positions, answers in maps.stream(suite):
            for name, each in answers.items():
                n_units, n_places = each.shape[1], each.shape[2] * each.shape[3]
                if name not in tops:
                    tops[name] = overlaps.TopValues(n_units, n_places * len(suite), share)
                tops[name].add(np.moveaxis(each, 1, 0).reshape(n_units, -1))
            tell(int(positions[-1]) + 1)
    return {name: top.levels() for name, top in tops.items()}


def _add(
    gathered: dict[str, overlaps.Overlaps],
    positions: NDArray[np.intp],
    rows: NDArray[np.intp],
    answers: dict[str, NDArray[np.float32]],
) -> None:
    for name, each in answers.items():
        for position, one in zip(positions.tolist(), each, strict=True):
            gathered[name].add(int(rows[position]), one)


def _mask_scores(
    pairs: overlaps.PairCounts,
    concept: NDArray[np.intp],
    shown: NDArray[np.bool_],
    site: Site,
    seed: int,
) -> MaskScores:
    own = slice(0, site.n_channels)
    filters = overlaps.PairCounts(pairs.shared[own], pairs.union[own], pairs.by_chance[own])
    low, high = overlaps.resampled_iou(filters, shown[concept[own]], n_draws=N_DRAWS, seed=seed)
    return MaskScores(concept=concept, iou=pairs.iou(), low=low, high=high, chance=filters.chance())


def score_images(
    maps: UnitMaps, suite: Suite, members: NDArray[np.bool_], chooses: NDArray[np.bool_]
) -> dict[str, ImageScores]:
    """How well every unit tells the images of concepts from others.

    Args:
        maps: of the sites.
        suite: the images.
        members: (n_concepts, n_images), the images of each concept.
        chooses: (n_images,), true for the half that chooses concept and response.
    """
    gathered: dict[str, list[NDArray[np.float32]]] = {site.name: [] for site in maps.sites}
    with stage("measuring responses", total=len(suite)) as tell:
        for positions, answers in maps.stream(suite):
            for name, each in answers.items():
                both = np.stack([each.max(axis=(2, 3)), each.mean(axis=(2, 3))])
                gathered[name].append(both)
            tell(int(positions[-1]) + 1)
    return {
        site.name: _image_scores(
            np.concatenate(gathered[site.name], axis=1), members, chooses, site
        )
        for site in maps.sites
    }


def _image_scores(
    responses: NDArray[np.float32],
    members: NDArray[np.bool_],
    chooses: NDArray[np.bool_],
    site: Site,
) -> ImageScores:
    """Scores from responses, (peak and mean, n_images, n_units)."""
    by_unit = np.moveaxis(responses, 2, 1)
    n_units, n_concepts = by_unit.shape[1], len(members)
    first, second = (
        np.stack([responding.areas(each[:, half], members[:, half]) for each in by_unit])
        for half in (chooses, ~chooses)
    )
    best = first.transpose(1, 0, 2).reshape(n_units, -1).argmax(axis=1)
    response, concept = best // n_concepts, best % n_concepts
    units = np.arange(n_units)
    ends = [
        responding.area_interval(
            by_unit[response[unit], unit, ~chooses], members[concept[unit], ~chooses]
        )
        for unit in range(site.n_channels)
    ]
    low, high = np.array(ends).T
    return ImageScores(
        concept=concept,
        response=response,
        auc=second[response, units, concept],
        low=low,
        high=high,
    )
