"""`repairkit inspect`, `repairkit instrument`, `repairkit compare` and `repairkit report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from repairkit.cli.option_groups import argument, flag, only, option
from repairkit.cli.options import PREPARATION, AnswerOptions, JobOptions
from repairkit.core.process.trust import TRUST_HELP

_OF_INSPECT = (
    "model", "group", "classes", "features", "output", "columns", "threshold", "outputs_are",
    "image_input", "inputs", "sites_at", "include", "seed", *PREPARATION,
)  # fmt: skip
_OF_INSTRUMENT = (
    "model", "data", "features", "image_input", "inputs", "output", "sites", "sites_at", "include",
    "absent", "seed", "calibration", *PREPARATION,
)  # fmt: skip


def inspect_command(
    job: Annotated[
        JobOptions,
        only(
            *_OF_INSPECT,
            data="Also try the usual preprocessings on these labelled images.",
            metric="mean_absolute_error for a regressor.",
        ),
    ],
    answer: AnswerOptions,
) -> None:
    """List inputs, outputs, sites and filters, and which layers are left out and why."""
    from repairkit.api import inspecting, job_settings
    from repairkit.cli.result_tables import print_inspected

    model, settings = job_settings.find_job(job.model, job.words())
    inspected = inspecting.inspect(model, job.data.data, settings=settings)

    def tell() -> None:
        print_inspected(
            inspected.to_json(),
            has_layers=inspected.model.subject.layer_map is not None,
            further_inputs=inspected.further_inputs(),
            look=inspected.look_in_words(),
            seconds_of_all=inspected.seconds_of_all(),
        )

    answer.give(inspected.to_json, tell)


@dataclass(frozen=True, kw_only=True)
class InstrumentOptions:
    """Where to write the model with masks."""

    out: Path | None = option("Result; MODEL.instrumented.onnx.", "-o", "--out")


def instrument_command(
    job: Annotated[JobOptions, only(*_OF_INSTRUMENT)],
    place: InstrumentOptions,
    answer: AnswerOptions,
) -> None:
    """Write the model with a run-time mask input per site."""
    from repairkit.api import inspecting, job_settings
    from repairkit.cli.result_tables import print_instrumented

    model, settings = job_settings.find_job(job.model, job.words())
    out = place.out or Path(f"{model.stem}.instrumented.onnx")
    instrumented = inspecting.instrument(model, settings=settings, out=out)
    answer.give(instrumented.to_json, lambda: print_instrumented(instrumented.masks, out))


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Runs, and what to compare."""

    runs: list[Path] = argument("Run folders of one model; two or more.", "RUN...", default=...)
    metric: str | None = option("The metric to compare; each run's first if left out.")
    top_k: int = option("Filters at each end of the rankings to compare.", default=20, min=1)


def compare_command(comparing: CompareOptions, answer: AnswerOptions) -> None:
    """Show how far runs agree: rank correlation, R2 and overlap of the top filters."""
    from repairkit.api import inspecting
    from repairkit.cli.result_tables import print_agreements

    pairs = inspecting.compare(comparing.runs, metric=comparing.metric, top_k=comparing.top_k)
    answer.give(
        lambda: {"comparisons": [pair.to_json() for pair in pairs]},
        lambda: print_agreements(pairs, len(comparing.runs)),
    )


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """A run, and where to write its page."""

    run: Path = argument("A run folder that score wrote.", "RUN", default=...)
    out: Path | None = option("The page; report.html in the run folder.", "-o", "--out")
    model: Path | None = option("The model, if it was moved.")
    data: Path | None = option("The data, if they were moved.")
    means: Path | None = option("The common means, if they were moved.")
    pictures: bool = flag(
        "Read model and data for pictures: images, layers, removal.",
        "--pictures/--no-pictures",
        default=True,
    )
    trust: bool = flag(TRUST_HELP)


def report_command(reporting: ReportOptions, answer: AnswerOptions) -> None:
    """Write one self-contained HTML page about a run, and its numbers as JSON."""
    from repairkit.api import inspecting
    from repairkit.cli import printing

    reported = inspecting.report(
        reporting.run,
        out=reporting.out,
        model=reporting.model,
        data=reporting.data,
        means=reporting.means,
        pictures=reporting.pictures,
        trust=reporting.trust,
    )

    def tell() -> None:
        printing.say(f"page     {reported.page}")
        printing.say(f"numbers  {reported.report_file}")

    answer.give(lambda: reported.document, tell)
