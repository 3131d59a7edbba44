"""Inspect models, add mask inputs to them, compare runs and write their pages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repairkit.api.job_settings import open_job
from repairkit.core.results import Agreement
from repairkit.data.preprocessing import describe_shape
from repairkit.graph.coalitions.masking import mask_name
from repairkit.jobs.look import inspection, reporting
from repairkit.jobs.look.inspection import PASSES_PER_FILTER, Inspection, write_instrumented
from repairkit.jobs.look.reporting import Reported
from repairkit.jobs.runs import comparing
from repairkit.jobs.setup.first_look import ErrorLook, FirstLook, first_look_lines
from repairkit.jobs.setup.unjudged import look_thoroughly
from repairkit.jobs.setup.workbench import Settings


@dataclass(frozen=True)
class Inspected:
    """A model, and how usual preprocessings do on images.

    `look` is None without images; a text says why the preprocessings were not tried.
    """

    model: Inspection
    look: FirstLook | ErrorLook | str | None

    def to_json(self) -> dict[str, object]:
        document = self.model.to_json()
        if self.look is None:
            return document
        if isinstance(self.look, str):
            return {**document, "first_look": None, "first_look_note": self.look}
        return {**document, "first_look": self.look.to_json()}

    def look_in_words(self) -> Iterator[str]:
        """Lines about the first look, without the table of attempts."""
        if isinstance(self.look, str):
            yield f"preprocessings were not tried: {self.look}"
        elif self.look is not None:
            yield from first_look_lines(self.look.to_json())

    def further_inputs(self) -> list[str]:
        """Descriptions of the inputs beside the images."""
        return [
            f"{other.name}: {describe_shape(other.shape)} {other.dtype.name}"
            f"{', a row per image' if other.per_image else ''}"
            for other in self.model.subject.further
        ]

    def seconds_of_all(self) -> list[tuple[int, float]]:
        """Seconds for all filters, by the number of passes per filter."""
        passes = self.model.passes
        return [(n, passes.seconds_of(n) or 0.0) for n in PASSES_PER_FILTER]


def inspect(
    model: str | Path, data: str | Path | None = None, *, settings: Settings | None = None
) -> Inspected:
    """List inputs, outputs, sites and filters, as `repairkit inspect` does.

    Args:
        model: an ONNX file.
        data: labelled images to try the usual preprocessings on; not tried if None.
        settings: preprocessing, sites, inputs and outputs; see `score`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    subject, job = open_job(model, data, settings)
    inspected = inspection.inspect(subject, job)
    return Inspected(inspected, None if data is None else look_thoroughly(subject, job))


@dataclass(frozen=True)
class Instrumented:
    """A model with mask inputs: its file, and the number of filters of each mask."""

    out: Path
    masks: dict[str, int]

    def to_json(self) -> dict[str, object]:
        masks = [{"input": name, "filters": n} for name, n in self.masks.items()]
        return {"instrumented_model": str(self.out), "masks": masks}


def instrument(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    settings: Settings | None = None,
) -> Instrumented:
    """Write a model with a run-time mask input per site, as `repairkit instrument` does.

    Args:
        model: an ONNX file.
        data: images for the means of absent filters; see `score`.
        out: the file for the model with masks.
        settings: preprocessing, sites, level of absent filters; see `score`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    subject, job = open_job(model, data, settings)
    sites = write_instrumented(subject, job, Path(out))
    return Instrumented(Path(out), {mask_name(site): site.n_channels for site in sites})


def compare(
    runs: Sequence[str | Path], *, metric: str | None = None, top_k: int = 20
) -> tuple[Agreement, ...]:
    """How far runs of one model agree, as `repairkit compare` shows.

    Args:
        runs: two or more.
        metric: the metric to compare; each run's first if None.
        top_k: filters at each end of the rankings to compare.

    Raises:
        RepairkitError: a run cannot be read, or the runs share no filters.
    """
    return comparing.compare([Path(run) for run in runs], metric=metric, top_k=top_k)


def report(
    run: str | Path,
    *,
    out: str | Path | None = None,
    model: str | Path | None = None,
    data: str | Path | None = None,
    means: str | Path | None = None,
    pictures: bool = True,
    trust: bool = False,
) -> Reported:
    """Write the page of a run folder, and its numbers as JSON; see `jobs.look.reporting`.

    Raises:
        RepairkitError: the run is not finished, or the model or data are not those of the run.
    """
    places = {"out": out, "model": model, "data": data, "means": means}
    given = {name: Path(place) for name, place in places.items() if place is not None}
    return reporting.report_run(Path(run), pictures=pictures, trust=trust, **given)
