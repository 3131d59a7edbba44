"""Where dreams of a site are made, and judged by the function that judges real images."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.filters import Filter, Site
from repairkit.core.framework import Exciting, LayerMap
from repairkit.core.suite import Annotations, Array, Suite
from repairkit.data.preprocessing import ReadyImages
from repairkit.dreams.ascent import RespondWithSlopes, ascend
from repairkit.dreams.evolution import Evolution, evolve
from repairkit.dreams.pictures import Floats, Palette, low_pictures
from repairkit.engine.activations import measure_responses
from repairkit.engine.runner import OpenModel
from repairkit.engine.site_view import CENTRE, Scenery, SiteView, Window, open_view, placed
from repairkit.graph.prefix import cut_at
from repairkit.jobs.dream.dream import Dream, DreamSettings, Way
from repairkit.jobs.dream.pixel_input import PixelInput

_LIGHT = 144 * 144  # pixels of a crop up to which the whole search is affordable
_LEAST_SHARE = 0.25
_SAME = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Studio:
    """What all dreams of a job share.

    Attributes:
        opened: the model.
        scenery: what surrounds pictures.
        pixels: how pictures become the model's input.
        palette: their colours.
        settings: how to dream.
        seed: of all that is drawn.
        gradients: the framework's model, where dreams are made by gradients.
    """

    opened: OpenModel
    scenery: Scenery
    pixels: PixelInput
    palette: Palette
    settings: DreamSettings
    seed: int
    gradients: SlopeSource | None


@dataclass(frozen=True)
class SlopeSource:
    """A framework's model, its name, and which of its layers each site is."""

    name: str
    model: Exciting
    layers: LayerMap


@dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """Pictures of dreams, filter by filter, and what they cost together."""

    pictures: Floats
    window: Window
    way: Way
    passes: int


def dream_site(studio: Studio, site: Site, filters: Sequence[Filter]) -> list[Dream]:
    """Dreams of filters of one site, not yet beside real images.

    A dream depends on the seed, the site and the filter alone.
    """
    began = time.perf_counter()
    controls = {wanted: _control(studio, site, wanted, filters) for wanted in filters}
    dreamt = list(dict.fromkeys([*filters, *filter(None, controls.values())]))
    make = _by_passes if studio.gradients is None else _by_gradients
    made = make(studio, site, dreamt)
    n, each = studio.settings.diverse, len(made.pictures)
    inputs = _placed(studio, made.window, made.pictures)
    responses = measured(studio, site, dreamt, inputs)
    seconds = time.perf_counter() - began

    def dream(number: int, which: int) -> Dream:
        wanted, position = filters[number], number * n + which
        other = controls[wanted]
        control = None if other is None else responses[number, dreamt.index(other) * n]
        return Dream(
            filter=wanted,
            number=which,
            image=studio.pixels.shown(made.pictures[position]),
            input=inputs[position],
            window=made.window,
            response=float(responses[number, position]),
            real=None,
            control=None if control is None else float(control),
            control_filter=other,
            way=made.way,
            passes=round(made.passes / each),
            seconds=seconds / each,
        )

    return [dream(number, which) for number in range(len(filters)) for which in range(n)]


def _control(
    studio: Studio, site: Site, wanted: Filter, filters: Sequence[Filter]
) -> Filter | None:
    """Another filter of the site: one that is dreamt anyway if there is one; drawn at random."""
    others = [f for f in filters if f != wanted] or [
        f for f in (Filter(site.name, c) for c in range(site.n_channels)) if f != wanted
    ]
    return others[_seed(studio, wanted, "control") % len(others)] if others else None


def _seed(studio: Studio, wanted: Filter, what: str) -> int:
    words = [studio.seed, zlib.crc32(wanted.id.encode()), zlib.crc32(what.encode())]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _by_passes(studio: Studio, site: Site, dreamt: Sequence[Filter]) -> _Made:
    """Dreams by forward passes of the model cut at the site."""
    settings = studio.settings
    view = open_view(studio.opened, site, studio.scenery, at=settings.at)
    search = _affordable(settings.evolution, view)
    window = view.window
    pictures = low_pictures(
        window.height,
        window.width,
        studio.palette,
        most=search.most_numbers,
        falloff=search.falloff,
    )
    evolved = evolve(
        lambda some: view.responses(studio.pixels.inputs(some)),
        [wanted.channel for wanted in dreamt],
        pictures,
        search,
        seeds=[
            _seed(studio, Filter(site.name, 0), "first look"),
            *(_seed(studio, wanted, "climb") for wanted in dreamt),
        ],
        n_dreams=settings.diverse,
    )
    developed = pictures.developed(evolved.waves.reshape(-1, *pictures.shape))
    return _Made(pictures=developed, window=window, way="passes", passes=evolved.passes)


def _by_gradients(studio: Studio, site: Site, dreamt: Sequence[Filter]) -> _Made:
    """Dreams by gradients of the framework's model, which sees whole images."""
    settings, source = studio.settings, studio.gradients
    assert source is not None
    view = open_view(studio.opened, site, studio.scenery, at=settings.at)
    window, ascent = view.window, settings.ascent
    pictures = low_pictures(
        window.height,
        window.width,
        studio.palette,
        most=ascent.most_numbers,
        falloff=ascent.falloff,
    )
    origins = [source.layers.origin(wanted) for wanted in dreamt]
    missing = [f for f, origin in zip(dreamt, origins, strict=True) if origin is None]
    if missing:
        raise AdapterError(
            f"{source.name}: no layer is known that is filter {missing[0].id}; leave --source out"
        )
    layer = source.layers.layer_at(site.name)

    def respond(some: Floats, channels: NDArray[np.intp]) -> tuple[Floats, Floats]:
        images = _placed(studio, window, some).astype(np.float32)
        responses, slopes = source.model.excitations(images, layer, channels, at=settings.at)
        return responses, studio.pixels.slopes(window.of(slopes, studio.pixels.axes))

    own = np.array([wanted.channel for wanted in dreamt])
    _check_same(studio, view, respond, own)
    ascended = ascend(
        respond,
        own.tolist(),
        pictures,
        ascent,
        seeds=[_seed(studio, wanted, "climb") for wanted in dreamt],
        n_dreams=settings.diverse,
    )
    developed = pictures.developed(ascended.waves.reshape(-1, *pictures.shape))
    return _Made(pictures=developed, window=window, way="gradient", passes=ascended.passes)


def _check_same(
    studio: Studio, view: SiteView, respond: RespondWithSlopes, channels: NDArray[np.intp]
) -> None:
    """Refuse a source whose channels respond otherwise than the filters of the ONNX model."""
    inside = view.window.of(studio.scenery.noise, studio.pixels.axes)
    ours = view.responses(inside)
    spread = np.ptp(ours, axis=0) + np.abs(ours).max(axis=0)
    for channel in channels.tolist():
        of_all = np.full(len(inside), channel)
        theirs, _ = respond(studio.pixels.pictures(inside), of_all)
        if np.abs(theirs - ours[:, channel]).max() > _SAME * spread[channel]:
            assert studio.gradients is not None
            raise AdapterError(
                f"{studio.gradients.name} does not compute what the ONNX model does at "
                f"{view.site.name}:{channel}; name the source and the --weights that it was "
                "exported from"
            )


def _affordable(search: Evolution, view: SiteView) -> Evolution:
    """The search; a shorter one where each pass runs on a large image."""
    share = max(_LEAST_SHARE, min(1.0, _LIGHT / (view.crop.height * view.crop.width)))
    return replace(
        search,
        n_first=round(search.n_first * share),
        n_generations=round(search.n_generations * share),
    )


def _placed(studio: Studio, window: Window, pictures: Floats) -> Array:
    """Whole images as the model takes them, with pictures in their window."""
    images = np.repeat(studio.scenery.blank[None], len(pictures), axis=0)
    return placed(studio.pixels.inputs(pictures), window, images, studio.pixels.axes)


def measured(studio: Studio, site: Site, filters: Sequence[Filter], inputs: Array) -> Floats:
    """The responses of filters of a site to images, (n_filters, n_images)."""
    annotations = Annotations(labels=np.zeros(len(inputs), np.int64))
    suite = Suite.whole("dreams", ReadyImages(inputs, inputs.dtype), annotations)
    return judged(studio.opened, [site], filters, suite, at=studio.settings.at)


def judged(
    opened: OpenModel, sites: Sequence[Site], filters: Sequence[Filter], suite: Suite, *, at: str
) -> Floats:
    """The one measure of dreams and real images, (n_filters, n_images).

    The peak over positions where dreams are made for the centre, else the mean over positions.
    """
    tensors = tuple(dict.fromkeys(site.tensor for site in sites))
    cut = opened.variant(cut_at(opened.model, tensors))
    responses = measure_responses(cut, sites, filters, suite)
    return responses.peaks if at == CENTRE else responses.means
