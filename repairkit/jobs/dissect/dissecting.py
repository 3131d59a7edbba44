"""Dissect a model: which concepts its filters detect, beside random copies of their layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.concepts import concept_folder, naming
from repairkit.concepts.concept_set import halves
from repairkit.core import errors
from repairkit.core.filters import Site
from repairkit.core.suite import Suite
from repairkit.engine.ort import versions
from repairkit.formats import dissection_file as file
from repairkit.formats.documents import outputs, to_json
from repairkit.graph.random_layers import weights_count
from repairkit.jobs.dissect import concept_images, unit_scores
from repairkit.jobs.dissect.dissected import Dissected
from repairkit.jobs.dissect.unit_maps import UnitMaps, has_maps
from repairkit.jobs.output.destination import Places, check_replaced
from repairkit.jobs.setup.looking import looked_at
from repairkit.jobs.setup.subject import judging_the_model
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.jobs.setup.workbench import Bench, Settings, Subject

MOST_RANDOM = 2_000
MOST_VALUES = 20
_MOST_IMAGES = 1_000
_FEWEST_IMAGES = 10
_FEWEST_OF_A_CONCEPT = 4


@dataclass(frozen=True, kw_only=True)
class DissectSettings:
    """What a dissection needs beside the settings of any job.

    Attributes:
        concepts: a folder of images with masks; drawn ones if None.
        draw_to: also write the drawn images here.
        blocks: drawn images of each concept.
        copies: random copies of each layer, at most.
        share: of positions at which a filter counts as active.
        least_iou: what counts as a detector.
        level: the expected share of false names among the named filters of a layer.
    """

    concepts: Path | None = None
    draw_to: Path | None = None
    blocks: int = 24
    copies: int = 20
    share: float = 0.005
    least_iou: float = 0.04
    level: float = 0.05

    def __post_init__(self) -> None:
        if self.copies < 1 or self.blocks < 4:
            raise errors.SettingsError(
                f"--copies is {self.copies} and --blocks {self.blocks}; expected 1 or more, and 4 "
                "or more"
            )
        if self.concepts is not None and self.draw_to is not None:
            raise errors.SettingsError(
                "--draw-to writes drawn concepts and --concepts names others; leave one out"
            )


@dataclass(frozen=True, eq=False)
class _Results:
    """What was scored, by the name of the site."""

    masks: Mapping[str, unit_scores.MaskScores]
    images: Mapping[str, unit_scores.ImageScores]
    names: tuple[tuple[str, str], ...]  # of concepts of whole images: column and value


@judging_the_model
def dissect(
    subject: Subject, settings: Settings, plan: DissectSettings, *, out: Path | None = None
) -> Dissected:
    """Find the concepts that the filters of a model detect.

    Args:
        subject: the model.
        settings: of the job; data are needed for concepts of whole images alone.
        plan: of the dissection.
        out: a folder for `dissection.json` and `dissection.csv`; nothing is written if None.

    Raises:
        RepairkitError: anything about model, data, concepts or settings that the user can mend.
    """
    if out is not None:
        _check_place(out)
    if plan.draw_to is not None and (plan.draw_to / concept_folder.IMAGES).exists():
        raise errors.RunFolderError(
            f"{plan.draw_to}: holds concept images already; choose another place with --draw-to"
        )
    bench = _bench(subject, settings)
    sites = [site for site in bench.roster.sites if site.yields_one_number]
    if not sites:
        raise errors.ModelError(
            f"{subject.file.path}: its filters are trees, which respond at no place and to no "
            "degree; concepts are those of convolutions and dense layers"
        )
    document = _dissected(bench, sites, plan)
    if out is not None:
        with outputs(out) as drafts:
            drafts.write(out / file.DISSECTION_FILE, to_json(document).encode())
            drafts.write(out / file.TABLE_FILE, file.dissection_csv(document).encode())
    return Dissected(document, out)


def _check_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise errors.RunFolderError(f"{out}: is a file; name a folder with -o")
    kind = f'"kind": "{file.KIND}"'.encode()
    check_replaced(out / file.DISSECTION_FILE, kind, "dissection")
    check_replaced(out / file.TABLE_FILE, b"filter,site,channel,concept", "table of a dissection")


def _bench(subject: Subject, settings: Settings) -> Bench:
    if settings.data is None:
        return prepare_unjudged(subject, replace(settings, absent="zero", means=None))
    return looked_at(prepare_unjudged(subject, settings), None)


def _dissected(bench: Bench, sites: list[Site], plan: DissectSettings) -> file.DissectionDocument:
    seed = bench.settings.seed
    n_copies = {
        site.name: naming.copies_for(
            site.n_channels, level=plan.level, most_units=MOST_RANDOM, most_copies=plan.copies
        )
        for site in sites
    }
    maps = UnitMaps(
        opened=bench.working.opened,
        survey=bench.working.survey,
        sites=sites,
        n_copies=n_copies,
        seed=seed,
    )
    with_maps = [site for site in sites if has_maps(site)]
    concepts, masks = _by_masks(bench, maps, with_maps, plan) if with_maps else (None, {})
    told, images, names = _by_images(bench, maps)
    if concepts is None and told is None:
        raise errors.ModelError(
            f"{bench.subject.file.path}: its filters respond at no places, so that masks cannot be "
            "compared with them; give labelled images with --data, for concepts of whole images"
        )
    results = _Results(masks, images, names)
    return {
        "schema": file.SCHEMA,
        "kind": file.KIND,
        "model": {
            "path": Places.here().relative(bench.subject.file.path),
            "digest": bench.subject.file.digest,
        },
        "concepts": concepts,
        "images": told,
        "settings": _settings(bench, plan),
        "layers": [_layer(site, results, n_copies[site.name], plan) for site in sites],
        "filters": [each for site in sites for each in _filters(site, results, concepts, plan)],
        "notes": _notes(sites, with_maps, bench),
        "versions": versions(),
    }


def _settings(bench: Bench, plan: DissectSettings) -> file.DissectionSettings:
    job = bench.settings
    return {
        "share": plan.share,
        "least_iou": plan.least_iou,
        "level": plan.level,
        "copies": plan.copies,
        "seed": job.seed,
        "sites_at": job.sites_at,
        "include": list(job.include),
        "preprocessing": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(job.preprocessing).items()
        },
    }


def _notes(sites: list[Site], with_maps: list[Site], bench: Bench) -> list[str]:
    known = {site.name for site in with_maps}
    flat = [site.name for site in sites if site.name not in known]
    notes = list(bench.notes)
    if not len(bench.dataset.images):
        notes = [
            "without --data nothing tells whether pixels go in as the model expects; `repairkit "
            "inspect MODEL --data ...` does"
        ]
    if flat:
        notes.append(
            f"{', '.join(flat)}: respond at no places, so that no concept with masks is told"
        )
    return notes


# Concepts with masks


def _by_masks(
    bench: Bench, maps: UnitMaps, sites: list[Site], plan: DissectSettings
) -> tuple[file.ConceptSource, dict[str, unit_scores.MaskScores]]:
    seed = bench.settings.seed
    if plan.concepts is not None:
        images = concept_images.from_folder(bench, plan.concepts)
    else:
        drawn = concept_images.drawn_set(bench, plan.blocks, seed)
        if plan.draw_to is not None:
            with outputs(plan.draw_to) as drafts:
                concept_folder.write_concept_folder(drafts, plan.draw_to, drawn)
        images = concept_images.from_drawn(bench, drawn)
    parts = halves(images.masks, seed)
    if min(len(parts[0]), len(parts[1])) < _FEWEST_IMAGES:
        raise errors.DataError(
            f"{images.source}: holds {len(images.masks.images)} concept images and at least "
            f"{2 * _FEWEST_IMAGES} are needed; one half chooses, and the other is held out"
        )
    weights = weights_count(bench.working.survey, sites)
    score = partial(
        unit_scores.score_masks, images=images, halves=parts, share=plan.share, seed=seed
    )
    scores: dict[str, unit_scores.MaskScores] = {}
    for group in unit_scores.grouped(sites, maps, weights):
        scores |= score(replace(maps, sites=group))
    return _source(images, parts), scores


def _source(
    images: concept_images.ConceptImages, parts: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> file.ConceptSource:
    masks = images.masks
    source = images.source
    if source != concept_images.GENERATED:
        source = Places.here().relative(Path(source))
    named: list[file.NamedConcept] = [
        {
            "number": concept.number,
            "name": concept.name,
            "category": concept.category,
            "n_images": int(n),
            "share": float(share),
        }
        for concept, n, share in zip(masks.concepts, masks.counts, masks.shares, strict=True)
    ]
    return {
        "source": source,
        "digest": images.digest,
        "n_images": len(masks.images),
        "n_chosen": len(parts[0]),
        "n_held_out": len(parts[1]),
        "size": list(images.size),
        "grid": list(masks.grid),
        "concepts": named,
    }


# Concepts of whole images


def _by_images(
    bench: Bench, maps: UnitMaps
) -> tuple[
    file.ImageConcepts | None, dict[str, unit_scores.ImageScores], tuple[tuple[str, str], ...]
]:
    suite = bench.parts.selection.thinned(_MOST_IMAGES)
    if len(suite) < 2 * _FEWEST_IMAGES:
        return None, {}, ()
    chooses = np.zeros(len(suite), bool)
    labels = suite.annotations.labels
    order = np.random.default_rng((bench.settings.seed, 0xA0C)).permutation(len(suite))
    order = order[np.argsort(labels[order], kind="stable")]
    chooses[order[::2]] = True
    names, members = _members(bench, suite, chooses)
    if not names:
        return None, {}, ()
    columns: dict[str, list[str]] = {}
    for column, value in names:
        columns.setdefault(column, []).append(value)
    weights = weights_count(bench.working.survey, maps.sites)
    scores: dict[str, unit_scores.ImageScores] = {}
    for group in unit_scores.grouped(list(maps.sites), maps, weights):
        scores |= unit_scores.score_images(replace(maps, sites=group), suite, members, chooses)
    told: file.ImageConcepts = {
        "digest": bench.dataset.digest,
        "part": suite.name,
        "n_chosen": int(chooses.sum()),
        "n_held_out": int((~chooses).sum()),
        "columns": columns,
    }
    return told, scores, names


def _members(
    bench: Bench, suite: Suite, chooses: NDArray[np.bool_]
) -> tuple[tuple[tuple[str, str], ...], NDArray[np.bool_]]:
    """The values of classes and columns that both halves have, and the images of each."""
    about = suite.annotations
    columns: dict[str, NDArray[np.str_]] = {}
    if bench.dataset.labelled and about.labels.dtype.kind in "iu":
        columns["class"] = np.array([about.class_name(int(label)) for label in about.labels])
    for name, column in about.attributes.items():
        if column.ndim == 1:
            columns[name] = column.astype(str)
    names, members = [], []
    for name, column in columns.items():
        values = np.unique(column)
        if name != "class" and not 2 <= len(values) <= MOST_VALUES:
            continue
        for value in values:
            inside = column == value
            counts = [int((inside == side)[half].sum()) for side in (True, False)
                      for half in (chooses, ~chooses)]  # fmt: skip
            if min(counts) >= _FEWEST_OF_A_CONCEPT:
                names.append((name, str(value)))
                members.append(inside)
    return tuple(names), np.array(members, bool).reshape(len(names), len(suite))


# What is written down


def _layer(
    site: Site, results: _Results, n_copies: int, plan: DissectSettings
) -> file.DissectedLayer:
    reach = random = p = None
    if site.name in results.masks:
        each = results.masks[site.name].iou.reshape(1 + n_copies, -1) >= plan.least_iou
        counts = each.sum(axis=1)
        reach, random = int(counts[0]), float(each[1:].mean())
        p = float((1 + (counts[1:] >= counts[0]).sum()) / (1 + n_copies))
    return {
        "site": site.name,
        "kind": site.kind,
        "n_filters": site.n_channels,
        "n_copies": n_copies,
        "reach": reach,
        "random": random,
        "p": p,
    }


def _filters(
    site: Site,
    results: _Results,
    concepts: file.ConceptSource | None,
    plan: DissectSettings,
) -> list[file.DissectedFilter]:
    masks: list[file.MaskDetection | None] = [None] * site.n_channels
    images: list[file.ImageDetection | None] = [None] * site.n_channels
    if site.name in results.masks and concepts is not None:
        masks = list(_mask_detections(site, results.masks[site.name], concepts["concepts"], plan))
    if site.name in results.images:
        images = list(_image_detections(site, results.images[site.name], results.names, plan))
    return [
        {
            "filter": f"{site.name}:{channel}",
            "site": site.name,
            "channel": channel,
            "mask": masks[channel],
            "image": images[channel],
        }
        for channel in range(site.n_channels)
    ]


def _mask_detections(
    site: Site,
    scores: unit_scores.MaskScores,
    concepts: list[file.NamedConcept],
    plan: DissectSettings,
) -> list[file.MaskDetection]:
    n = site.n_channels
    p = naming.control_p_values(scores.iou[:n], scores.iou[n:])
    stands_out, q = naming.step_up(p, plan.level), naming.adjusted(p)
    detects = (scores.low > scores.chance) & (scores.iou[:n] >= plan.least_iou)
    return [
        {
            "concept": concepts[int(scores.concept[c])]["name"],
            "category": concepts[int(scores.concept[c])]["category"],
            "iou": float(scores.iou[c]),
            "low": float(scores.low[c]),
            "high": float(scores.high[c]),
            "chance": float(scores.chance[c]),
            "p": float(p[c]),
            "q": float(q[c]),
            "detects": bool(detects[c]),
            "named": bool(detects[c] and stands_out[c]),
        }
        for c in range(n)
    ]


def _image_detections(
    site: Site,
    scores: unit_scores.ImageScores,
    names: tuple[tuple[str, str], ...],
    plan: DissectSettings,
) -> list[file.ImageDetection]:
    n = site.n_channels
    p = naming.control_p_values(scores.auc[:n], scores.auc[n:])
    stands_out, q = naming.step_up(p, plan.level), naming.adjusted(p)
    return [
        {
            "concept": names[int(scores.concept[c])][1],
            "column": names[int(scores.concept[c])][0],
            "response": unit_scores.RESPONSES[int(scores.response[c])],
            "auc": float(scores.auc[c]),
            "low": float(scores.low[c]),
            "high": float(scores.high[c]),
            "p": float(p[c]),
            "q": float(q[c]),
            "detects": bool(scores.low[c] > 0.5),
            "named": bool(scores.low[c] > 0.5 and stands_out[c]),
        }
        for c in range(n)
    ]
