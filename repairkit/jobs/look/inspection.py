"""Say what a model holds: inputs, outputs, sites, what is left out, and where its work lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from repairkit.core.errors import RepairkitError
from repairkit.core.filters import Site
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array
from repairkit.data.preprocessing import describe_shape
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.kind import LeftOut, Survey
from repairkit.graph.kinds.sites import survey
from repairkit.graph.mixing import find_mixers, find_random
from repairkit.jobs.look.timing import PassTime, time_passes
from repairkit.jobs.setup.preparing import with_inputs
from repairkit.jobs.setup.subject import USUAL_FIRST, judging_the_model, noise_images
from repairkit.jobs.setup.workbench import Settings, Subject

_RUN_SECONDS = 8.0


@dataclass(frozen=True)
class SiteFacts:
    """A site and its share of the multiplications of all sites; None where it is not known."""

    site: Site
    share: float | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What `repairkit inspect` shows."""

    subject: Subject
    sites: tuple[SiteFacts, ...]
    left_out: tuple[LeftOut, ...]
    batch: str
    outputs: tuple[str, ...]
    note: str
    passes: PassTime

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
                    **({} if layers is None else {"layer": layers.layer_at(s.site.name)}),
                }
                for s in self.sites
            ],
            "left_out": [
                {"layer": x.name, "kind": x.kind, "reason": x.reason} for x in self.left_out
            ],
            "note": self.note,
            "passes": self.passes.to_json(),
        }


@stage("looking for filters")
@judging_the_model
def inspect(subject: Subject, settings: Settings) -> Inspection:
    """List sites and layers left out; a model without sites is no error here.

    Raises:
        SettingsError: unknown `sites_at` or `include`.
    """
    known = survey(
        subject.model, output=settings.output, at=settings.sites_at, include=settings.include
    )
    fed = with_inputs(subject, settings, None)
    shares, note = _shares(fed, known)
    step = fixed_batch(subject.model, subject.input_name)
    return Inspection(
        subject=subject,
        sites=tuple(SiteFacts(s, shares.get(s.name)) for s in known.sites),
        left_out=known.left_out,
        batch="any" if step is None else f"fixed at {step}",
        outputs=GraphIndex(subject.model).outputs,
        note="; ".join(part for part in (note, _company(subject)) if part),
        passes=time_passes(fed, sum(site.n_channels for site in known.sites)),
    )


def _company(subject: Subject) -> str:
    """What the structure tells of images that share a run, and of random answers."""
    random = find_random(subject.model, (subject.output,))
    if random:
        return f"the model answers at random, so that it cannot be scored: {random[0]}"
    step = fixed_batch(subject.model, subject.input_name)
    if step == 1:
        return ""
    mixers = find_mixers(subject.model, subject.input_name, (subject.output,))
    if not mixers:
        return ""
    many = f" and {len(mixers) - 1} more" if len(mixers) > 1 else ""
    how = "image by image" if step is None else f"in batches of {step}, in the order of the data"
    return (
        f"an image's answer depends on those beside it, so that it is run {how}: {mixers[0]}{many}"
    )


@stage("measuring shares of the arithmetic")
def _shares(subject: Subject, surveyed: Survey) -> tuple[dict[str, float], str]:
    """Each site's share of the multiplications, from the shapes that one noise image gives."""
    arithmetic = {site: layer.arithmetic() for site, layer in surveyed.layers.items()}
    counted = {site: known for site, known in arithmetic.items() if known is not None}
    names = [tensor for tensor, _ in counted.values()]
    try:
        runner = subject.opened(seconds=_RUN_SECONDS).tap(names)
        images = noise_images(subject, 1, sides=USUAL_FIRST)
        answers = runner.run(images) if names else {}
    except RepairkitError as error:
        return {}, f"shares of the arithmetic are not known: {error}"
    work = {
        site: float(np.prod(answers[tensor].shape[1:]) * per_output)
        for site, (tensor, per_output) in counted.items()
    }
    total = sum(work.values()) or 1.0
    return {name: amount / total for name, amount in work.items()}, _open_sizes(subject, images)


def _open_sizes(subject: Subject, images: Array) -> str:
    """What was chosen for the sizes that the model leaves open."""
    if None not in subject.spec.shape:
        return ""
    return (
        "the model leaves the size of its images open; shares of the arithmetic are those of "
        f"images of {describe_shape(images.shape[1:])}"
    )
