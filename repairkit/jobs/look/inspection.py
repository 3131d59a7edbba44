"""Look at a model: its input and outputs, its sites, the time of a pass; or instrument it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repairkit.core import errors, filters, suite
from repairkit.core.process.stages import stage
from repairkit.data import preprocessing
from repairkit.engine.runner import Runner
from repairkit.graph import baking, mixing, new_weights, protos
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.kinds.kind import LeftOut, Survey
from repairkit.graph.kinds.sites import bias_levels, instrument, select_sites, survey, zero_levels
from repairkit.graph.stored.model_files import write_model
from repairkit.jobs.look import patch_facts
from repairkit.jobs.output.destination import INSTRUMENTED, check_model_place, is_instrumented
from repairkit.jobs.setup import first_look, preparing, unjudged, workbench
from repairkit.jobs.setup.subject import USUAL_FIRST, judging_the_model, noise_images

_RUN_SECONDS = 8.0
PASSES_PER_FILTER = (10, 150, 500)
MEASURING_SECONDS = 2.0
_BATCH = 8
_QUICK_SECONDS = 0.1  # of an image, up to which several share a run
_RUNS = 5


@dataclass(frozen=True)
class SiteFacts:
    """A site and its share of the multiplications of all sites; None where it is not known."""

    site: filters.Site
    share: float | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What `repairkit inspect` shows.

    `needs` says of sites why freezing their filters needs more than new weights of a compiled
    model, and `inside` which patches the model says to hold.
    """

    subject: workbench.Subject
    sites: tuple[SiteFacts, ...]
    left_out: tuple[LeftOut, ...]
    batch: str
    outputs: tuple[str, ...]
    note: str
    passes: PassTime
    needs: Mapping[str, new_weights.Need]
    inside: patch_facts.PatchesInside

    def to_json(self) -> dict[str, Any]:
        spec, layers = self.subject.spec, self.subject.layer_map
        return {
            "model": {"path": str(self.subject.file.path), "digest": self.subject.file.digest},
            "opset": {o.domain or "ai.onnx": o.version for o in self.subject.model.opset_import},
            "input": {
                "name": self.subject.input_name,
                "shape": list(spec.shape),
                "layout": spec.layout,
                "dtype": spec.dtype.name,
                "batch": self.batch,
            },
            "further_inputs": [
                {
                    "name": i.name,
                    "shape": list(i.shape),
                    "dtype": i.dtype.name,
                    "per_image": i.per_image,
                }
                for i in self.subject.further
            ],
            "outputs": list(self.outputs),
            "judged_output": self.subject.output,
            "n_sites": len(self.sites),
            "n_filters": sum(s.site.n_channels for s in self.sites),
            "sites": [
                {
                    "site": s.site.name,
                    "kind": s.site.kind,
                    "filters": s.site.n_channels,
                    "tensor": s.site.tensor,
                    "share": s.share,
                    "needs": asdict(self.needs[s.site.name]) if s.site.name in self.needs else None,
                    **({} if layers is None else {"layer": layers.layer_at(s.site.name)}),
                }
                for s in self.sites
            ],
            "left_out": [
                {"layer": x.name, "kind": x.kind, "reason": x.reason} for x in self.left_out
            ],
            "note": self.note,
            "passes": self.passes.to_json(),
            **self.inside.to_json(self.subject.file.digest),
        }


@stage("looking for filters")
@judging_the_model
def inspect(subject: workbench.Subject, settings: workbench.Settings) -> Inspection:
    """List sites and layers left out; a model without sites is no error here.

    Raises:
        SettingsError: unknown `sites_at` or `include`.
    """
    known = survey(
        subject.model, output=settings.output, at=settings.sites_at, include=settings.include
    )
    fed = preparing.with_inputs(subject, settings, None)
    shares, note = _shares(fed, known)
    step = fixed_batch(subject.model, subject.input_name)
    inside = patch_facts.patches_inside(subject.file)
    return Inspection(
        subject=subject,
        sites=tuple(SiteFacts(s, shares.get(s.name)) for s in known.sites),
        left_out=known.left_out,
        batch="any" if step is None else f"fixed at {step}",
        outputs=protos.GraphIndex(subject.model).outputs,
        note="; ".join(part for part in (note, _company(subject), inside.note) if part),
        passes=time_passes(fed, sum(site.n_channels for site in known.sites)),
        needs=new_weights.needs_of_sites(known),
        inside=inside,
    )


def _company(subject: workbench.Subject) -> str:
    """A note if images that share a run affect one another, or if answers are random."""
    random = mixing.find_random(subject.model, (subject.output,))
    if random:
        return f"the model answers at random, so that it cannot be scored: {random[0]}"
    step = fixed_batch(subject.model, subject.input_name)
    if step == 1:
        return ""
    mixers = mixing.find_mixers(subject.model, subject.input_name, (subject.output,))
    if not mixers:
        return ""
    many = f" and {len(mixers) - 1} more" if len(mixers) > 1 else ""
    batches = (
        "image by image" if step is None else f"in batches of {step}, in the order of the data"
    )
    return (
        f"an image's answer depends on those beside it, so that it is run {batches}: "
        f"{mixers[0]}{many}"
    )


@stage("measuring shares of the arithmetic")
def _shares(subject: workbench.Subject, surveyed: Survey) -> tuple[dict[str, float], str]:
    """Each site's share of the multiplications, from the shapes that one noise image gives."""
    arithmetic = {site: layer.arithmetic() for site, layer in surveyed.layers.items()}
    counted = {site: known for site, known in arithmetic.items() if known is not None}
    names = [tensor for tensor, _ in counted.values()]
    try:
        runner = subject.opened(seconds=_RUN_SECONDS).tap(names)
        images = noise_images(subject, 1, sides=USUAL_FIRST)
        answers = runner.run(images) if names else {}
    except errors.RepairkitError as error:
        return {}, f"shares of the arithmetic are not known: {error}"
    work = {
        site: float(np.prod(answers[tensor].shape[1:]) * per_output)
        for site, (tensor, per_output) in counted.items()
    }
    total = sum(work.values()) or 1.0
    return {name: amount / total for name, amount in work.items()}, _open_sizes(subject, images)


def _open_sizes(subject: workbench.Subject, images: suite.Array) -> str:
    """A note on the sizes that were chosen where the model leaves them open."""
    if None not in subject.spec.shape:
        return ""
    return (
        "the model leaves the size of its images open; shares of the arithmetic are those of "
        f"images of {preprocessing.describe_shape(images.shape[1:])}"
    )


@dataclass(frozen=True)
class PassTime:
    """One image through the model as it is, on one core.

    Attributes:
        seconds: of an image; None if the model could not be run.
        batch: the images of one run.
        shape: of an image.
        n_filters: of the model.
        reason: why there are no seconds.
    """

    seconds: float | None
    batch: int
    shape: tuple[int, ...]
    n_filters: int
    reason: str = ""

    def seconds_of(self, passes_per_filter: int) -> float | None:
        """The seconds that so many passes for each filter take; None if not known."""
        return None if self.seconds is None else passes_per_filter * self.n_filters * self.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "cores": 1,
            "batch": self.batch,
            "image": list(self.shape),
            "per_filter": {str(n): self.seconds_of(n) for n in PASSES_PER_FILTER},
            "note": self.reason,
        }


@stage("timing a pass")
def time_passes(subject: workbench.Subject, n_filters: int) -> PassTime:
    """Run the model on noise for up to about two seconds, or once if one run takes longer.

    Seconds are those that a core computes, so that they hold on a busy machine too; of a few runs
    the shortest counts. Where the model leaves sizes open, an image has the usual ones.

    Args:
        subject: the model.
        n_filters: of all its sites.
    """
    step = fixed_batch(subject.model, subject.input_name)
    batch, shape = step or 1, tuple(size or 0 for size in subject.spec.shape)
    try:
        images = noise_images(subject, 1, sides=USUAL_FIRST)
        images, shape = np.repeat(images, batch, axis=0), images.shape[1:]
        runner = subject.opened(seconds=_RUN_SECONDS).runner(outputs=(subject.output,))
        end = time.monotonic() + MEASURING_SECONDS
        each = _fastest(runner, images, end)
        alone = step is not None or mixing.find_mixers(
            subject.model, subject.input_name, (subject.output,)
        )
        if not alone and each < _QUICK_SECONDS:
            many = np.repeat(images, _BATCH, axis=0)
            try:
                each = _fastest(runner.sharing(step=None), many, end) / _BATCH
                batch = _BATCH
            except errors.RepairkitError:  # a batch that is fixed within the graph
                batch = 1
    except errors.RepairkitError as error:
        return PassTime(None, batch, shape, n_filters, f"a pass cannot be timed: {error}")
    return PassTime(each / (step or 1), batch, shape, n_filters)


def _fastest(runner: Runner, images: suite.Array, end: float) -> float:
    """Seconds of the fastest of a few runs; the first warms up, and counts only if it is alone."""
    seconds: list[float] = []
    for _ in range(_RUNS + 1):
        started, busy = time.monotonic(), time.thread_time()
        runner.run(images)
        lasted = time.monotonic() - started
        seconds.append(time.thread_time() - busy or lasted)  # some systems count in coarse ticks
        if started + 2 * lasted > end:
            break
    return min(seconds[1:] or seconds)


def look_at_data(
    subject: workbench.Subject, settings: workbench.Settings
) -> tuple[first_look.FirstLook | first_look.ErrorLook | str, Mapping[str, Any] | str | None]:
    """All usual preprocessings and class orders beside one another, or why there is no such look.

    With the slices of errors of `--group auto`, or why there are none; None where not asked for.

    Raises:
        DataError: the data cannot be read.
    """
    found: Mapping[str, Any] | str | None = None
    try:
        bench = unjudged.bench_with_look(subject, settings)
    except errors.TargetNotMetError as error:
        found = str(error)
        bench = unjudged.bench_with_look(subject, replace(settings, groups=()))
    if isinstance(bench, str):
        return bench, found
    found = found or bench.slices
    if bench.look is None:
        return bench.unjudged or "the model is judged by no metric that is built in", found
    assert isinstance(bench.look, first_look.FirstLook | first_look.ErrorLook)
    return bench.look, found


@stage("instrumenting")
@judging_the_model
def write_instrumented(
    subject: workbench.Subject, settings: workbench.Settings, out: Path
) -> tuple[filters.Site, ...]:
    """Write the instrumented model; means are measured unless filters are absent otherwise.

    Returns:
        The sites that got a mask input.

    Raises:
        SettingsError: means are wanted and there is no data.
        RepairkitError: anything else that the user can mend.
    """
    check_model_place(out, subject.file.path, settings.data_file)
    surveyed = survey(
        subject.model, output=settings.output, at=settings.sites_at, include=settings.include
    )
    sites = select_sites(surveyed, settings.sites)
    if settings.absent == "mean":
        bench = unjudged.prepare_unjudged(subject, settings, sites=[site.name for site in sites])
        levels = bench.working.levels
    else:
        wanted = zero_levels(sites) if settings.absent == "zero" else bias_levels(surveyed, sites)
        levels = baking.representable(surveyed, wanted)
    result = instrument(subject.model, sites, levels)
    if not is_instrumented(result):
        result.metadata_props.add(key=INSTRUMENTED, value=subject.file.digest)
    write_model(result, out)
    return sites
