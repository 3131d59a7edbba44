"""Dream filters: make an image that excites each of them, and judge it beside real images.

Dreams and real images are judged by one function. A control tells what the dream of a random other
filter of the site does to the filter: a dream that shows something of its own excites it more.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from repairkit.core import errors
from repairkit.core.filters import Filter, Site
from repairkit.core.framework import Exciting, FrameworkModel
from repairkit.core.process.stages import stage
from repairkit.engine.evaluator import default_workers
from repairkit.engine.site_view import Scenery
from repairkit.jobs.dream.dream import Dream, DreamSettings, RealResponses
from repairkit.jobs.dream.pixel_input import settle_palette, settle_pixels
from repairkit.jobs.dream.studio import SlopeSource, Studio, dream_site, judged
from repairkit.jobs.setup.subject import USUAL_FIRST, noise_images
from repairkit.jobs.setup.workbench import Bench

_MOST_IMAGES = 1000
_N_NOISE = 6


def dream_filters(
    bench: Bench,
    filters: Sequence[Filter],
    settings: DreamSettings,
    *,
    source: tuple[str, FrameworkModel] | None = None,
) -> tuple[Dream, ...]:
    """Dreams in the order of the filters; those of one filter stand together.

    Several sites are dreamt at once, on as many threads as the bench has workers, with the same
    result. Real images are at most a thousand of the selection part.

    Args:
        bench: the model, with or without images.
        filters: at least one, none of them a tree; one that is named twice counts once.
        settings: how to dream.
        source: name and framework's model that gives gradients; forward passes alone if None.

    Raises:
        SettingsError: there is no such filter, or it is none that an image excites.
        ModelError: ONNX Runtime fails on the model.
    """
    wanted = tuple(dict.fromkeys(filters))
    _check(bench, wanted)
    studio = open_studio(bench, settings, source=source)
    sites = [site for site in bench.roster.sites if any(f.site == site.name for f in wanted)]
    groups = [[f for f in wanted if f.site == site.name] for site in sites]
    dreams: dict[Filter, list[Dream]] = {f: [] for f in wanted}
    with (
        stage("dreaming", total=len(wanted), unit="filters") as tell,
        ThreadPoolExecutor(bench.settings.workers or default_workers()) as pool,
    ):
        done = 0
        for made in pool.map(lambda site, some: dream_site(studio, site, some), sites, groups):
            for dream in made:
                dreams[dream.filter].append(dream)
            done += len({dream.filter for dream in made})
            tell(done)
    real = _real_responses(bench, sites, wanted, settings)
    return tuple(replace(dream, real=real.get(f)) for f in wanted for dream in dreams[f])


def open_studio(
    bench: Bench, settings: DreamSettings, *, source: tuple[str, FrameworkModel] | None = None
) -> Studio:
    """The studio of a model; gradients come from the `source`, a name and a model, if any.

    Raises:
        AdapterError: the source gives no gradients, or the model does not say what it came from.
        SettingsError: the model takes no images, or no range of pixels fits it.
        ModelError: the model runs on no size that was tried.
    """
    spec, preparation = bench.subject.spec, bench.settings.preprocessing
    pixels = settle_pixels(spec, preparation, bench.dataset, settings.pixel_range)
    palette = settle_palette(bench.parts.calibration, pixels)
    if len(bench.dataset.images):
        shape = bench.dataset.images.batch(np.arange(1)).shape
    else:
        shape = noise_images(bench.subject, 1, sides=USUAL_FIRST).shape
    sizes = [shape[axis] for axis in pixels.axes]
    noise = np.random.default_rng(0).uniform(-1, 1, (_N_NOISE, *sizes, len(pixels.low)))
    if noise[0].size < 2:
        raise errors.SettingsError(
            f"{bench.subject.file.path}: an image is a single number, and a dream is a picture; "
            "give a model of images"
        )
    blank = np.broadcast_to(palette.blank, (1, *noise.shape[1:]))
    return Studio(
        opened=bench.working.opened,
        scenery=Scenery(
            blank=pixels.inputs(blank)[0], noise=pixels.inputs(noise), axes=pixels.axes
        ),
        pixels=pixels,
        palette=palette,
        settings=settings,
        seed=bench.settings.seed,
        gradients=None if source is None else _gradient_source(bench, *source),
    )


def _gradient_source(bench: Bench, name: str, model: FrameworkModel) -> SlopeSource:
    layers = bench.subject.layer_map
    if layers is None:
        raise errors.AdapterError(
            f"{bench.subject.file.path} has no map of layers; make it with repairkit export, or "
            "leave --source out"
        )
    if bench.settings.sites_at != "pre-activation":
        raise errors.SettingsError(
            "gradients are for --sites-at pre-activation; leave that out, or leave --source out"
        )
    if not isinstance(model, Exciting):
        raise errors.AdapterError(
            f"{name}: the adapter of {model.framework} gives no gradients of channels; leave "
            "--source out"
        )
    return SlopeSource(name, model, layers)


def _check(bench: Bench, filters: Sequence[Filter]) -> None:
    if not filters:
        raise errors.SettingsError(
            "no filter was named; name one or several, such as conv1:7 (`repairkit inspect MODEL` "
            "lists the sites)"
        )
    sites = {site.name: site for site in bench.roster.sites}
    for wanted in filters:
        bench.roster.column(wanted)
        if not sites[wanted.site].yields_one_number:
            raise errors.SettingsError(
                f"{wanted.id} yields several numbers, and only channels have dreams; "
                "name channels of a network that takes images"
            )


def _real_responses(
    bench: Bench, sites: Sequence[Site], filters: Sequence[Filter], settings: DreamSettings
) -> dict[Filter, RealResponses]:
    """The responses to selection images; empty without images."""
    suite = bench.parts.selection.thinned(_MOST_IMAGES)
    if not len(suite):
        return {}
    with stage("measuring responses to real images"):
        responses = judged(bench.working.opened, sites, filters, suite, at=settings.at)
    return {
        wanted: RealResponses(
            best=float(row.max()),
            mean=float(row.mean()),
            spread=float(row.std()),
            n_images=len(suite),
        )
        for wanted, row in zip(filters, responses, strict=True)
    }
