"""Dream filters: make an image that excites each of them, and judge it beside real images.

Dreams and real images are judged by one function. A control tells what the dream of a random other
filter of the site does to the filter: a dream that shows something of its own excites it more.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from repairkit.core import errors
from repairkit.core.filters import Filter, Site
from repairkit.core.process.stages import stage
from repairkit.engine.evaluator import default_workers
from repairkit.jobs.dream.dream import Dream, DreamSettings, RealResponses
from repairkit.jobs.dream.studio import dream_site, judged, open_studio
from repairkit.jobs.setup.workbench import Bench

_MOST_IMAGES = 1000


def dream_filters(
    bench: Bench, filters: Sequence[Filter], settings: DreamSettings
) -> tuple[Dream, ...]:
    """Dreams in the order of the filters; those of one filter stand together.

    Several sites are dreamt at once, on as many threads as the bench has workers, with the same
    result. Real images are at most a thousand of the selection part.

    Args:
        bench: the model, with or without images.
        filters: at least one, none of them a tree; one that is named twice counts once.
        settings: how to dream.

    Raises:
        SettingsError: there is no such filter, or it is none that an image excites.
        ModelError: ONNX Runtime fails on the model.
    """
    wanted = tuple(dict.fromkeys(filters))
    _check(bench, wanted)
    studio = open_studio(bench, settings)
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


def _check(bench: Bench, filters: Sequence[Filter]) -> None:
    if not filters:
        raise errors.SettingsError(
            "no filter was named; name one or several, such as conv1:7 (`repairkit inspect MODEL` "
            "lists the sites)"
        )
    sites = {site.name: site for site in bench.roster.sites}
    for wanted in filters:
        bench.roster.column(wanted)
        if not sites[wanted.site].in_tensor:
            raise errors.SettingsError(
                f"{wanted.id} is a tree, and trees have no dreams; name channels of a network that "
                "takes images"
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
