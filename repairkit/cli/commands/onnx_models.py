"""`repairkit inspect`, `diff`, `instrument`, `attack` and `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli.option_groups import argument, flag, only, option
from repairkit.cli.options import (
    PREPARATION,
    AnswerOptions,
    JobOptions,
    SourceOptions,
    one_of,
    read_ends,
    read_fraction,
    read_shape,
)
from repairkit.core.errors import SettingsError

_OF_INSPECT = (
    "model", "label", "group", "classes", "features", "output", "columns", "threshold",
    "outputs_are", "image_input", "inputs", "sites_at", "include", "seed", *PREPARATION,
)  # fmt: skip
_OF_DIFF = (
    "data", "group", "classes", "features", "image_input", "inputs", "output", "columns",
    "threshold", "outputs_are", "batch", *PREPARATION,
)  # fmt: skip
_OF_INSTRUMENT = (
    "model", "data", "label", "features", "image_input", "inputs", "output", "sites", "sites_at",
    "include", "absent", "seed", "calibration", *PREPARATION,
)  # fmt: skip
_OF_ATTACK = (
    "model", "trust", "data", "label", "group", "classes", "output", "image_input", "inputs",
    "columns", "threshold", "outputs_are", "batch", "device", "seed", "calibration", "selection",
    "test", "accept_preprocessing", *PREPARATION,
)  # fmt: skip
_DIFFERS = 3
_PATCH, _OF_ANSWERS = ".json", {"model", "as_json", "quiet", "debug"}


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """Two models, the patch that may lie between them, and what to show."""

    a: Path = argument("The one model.", "A", default=...)
    b: Path = argument("The other model.", "B", default=...)
    patch: Path | None = option(
        "Say whether the difference is exactly this patch file; the one beside the patched model "
        "if left out."
    )
    html: Path | None = option("Also write one self-contained page.")
    details: bool = flag("Show every row.")
    exit_code: bool = flag("Exit with 3 if anything differs.")


def diff_command(
    comparing: DiffOptions,
    job: Annotated[JobOptions, only(*_OF_DIFF)],
    answer: AnswerOptions,
) -> None:
    """Show what differs between two models: nodes, tensors, frozen filters, answers."""
    from repairkit.api import job_settings, models
    from repairkit.cli import diff_tables, printing

    _, settings = job_settings.find_job(comparing.a, job.words())
    made = models.diff(
        comparing.a,
        comparing.b,
        patch_file=comparing.patch,
        html=comparing.html,
        settings=settings,
    )

    def tell() -> None:
        diff_tables.print_diff(made.document, details=comparing.details)
        if made.page is not None:
            printing.say(f"page  {made.page}")

    answer.give(made.to_json, tell)
    if comparing.exit_code and made.differs:
        raise typer.Exit(_DIFFERS)


@dataclass(frozen=True, kw_only=True)
class SuspectOptions:
    """What to look for."""

    suspect: bool = flag("Also rank filters by how much their weights look like a backdoor's.")


def inspect_command(
    context: typer.Context,
    job: Annotated[
        JobOptions,
        only(
            *_OF_INSPECT,
            data="Also try the usual preprocessings on these labelled images.",
            metric="mean_absolute_error for a regressor.",
        ),
    ],
    looking: SuspectOptions,
    answer: AnswerOptions,
) -> None:
    """List a model's inputs, outputs and filters; or what a patch means for compiled models."""
    from repairkit.api import job_settings, models
    from repairkit.cli.diff_tables import print_patch_inspected
    from repairkit.cli.result_tables import print_inspected

    if job.model is not None and job.model.suffix.lower() == _PATCH:
        _refuse_options(context, job.model)
        facts = models.inspect_patch(job.model).to_json()
        answer.give(lambda: facts, lambda: print_patch_inspected(facts))
        return
    model, settings = job_settings.find_job(job.model, job.words())
    inspected = models.inspect(model, job.data.data, suspect=looking.suspect, settings=settings)

    def tell() -> None:
        print_inspected(
            inspected.to_json(),
            has_layers=inspected.model.subject.layer_map is not None,
            further_inputs=inspected.further_inputs(),
            look=inspected.look_in_words(),
            seconds_of_all=inspected.seconds_of_all(),
        )

    answer.give(inspected.to_json, tell)


def _refuse_options(context: typer.Context, patch: Path) -> None:
    """Refuse options about a model and its images, which say nothing about a patch file."""
    for name in context.params.keys() - _OF_ANSWERS:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise SettingsError(f"{patch}: is a patch file, and {option} is about models; leave it")


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
    from repairkit.api import job_settings, models
    from repairkit.cli.result_tables import print_instrumented

    model, settings = job_settings.find_job(job.model, job.words())
    out = place.out or Path(f"{model.stem}.instrumented.onnx")
    instrumented = models.instrument(model, settings=settings, out=out)
    answer.give(instrumented.to_json, lambda: print_instrumented(instrumented.masks, out))


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """Method, strength, and where to write the images."""

    out: Path | None = option("The images, .npz; MODEL.attacked.npz.", "-o", "--out")
    method: str | None = option(
        "pgd (needs --source) or square (needs only the ONNX file).",
        autocompletion=one_of("pgd", "square"),
    )
    epsilon: str = option("Largest change of a pixel, of a range of 0 to 1.", default="16/255")
    steps: int = option("Number of gradient steps (pgd).", default=30, min=1)
    step_size: str = option("Change of a pixel in one step (pgd).", default="0.8/255")
    random_start: bool = flag(
        "Start at a random point near the image (pgd).",
        "--random-start/--no-random-start",
        default=True,
    )
    queries: int = option("Most queries for one image (square).", default=1000, min=1)
    pixel_range: str | None = option(
        "Pixel range in the model's input, LOW,HIGH, if it is not known.", "--range"
    )
    images: int | None = option("Images of each part to attack; all.", min=1)

    def chosen(self, *, by_gradients: bool) -> tuple[str, dict[str, float]]:
        """The method and its settings; the default takes gradients where a source gives them.

        Raises:
            SettingsError: there is no such method, or a text is not a number.
        """
        method = self.method or ("pgd" if by_gradients else "square")
        settings = {"epsilon": read_fraction("--epsilon", self.epsilon)}
        if method == "pgd":
            settings["step_size"] = read_fraction("--step-size", self.step_size)
            return method, settings | {"n_steps": self.steps, "random_start": self.random_start}
        if method == "square":
            return method, settings | {"n_queries": self.queries}
        raise SettingsError(f"there is no attack {method!r}; choose pgd or square")


def attack_command(
    job: Annotated[JobOptions, only(*_OF_ATTACK)],
    attack: AttackOptions,
    source: SourceOptions,
    answer: AnswerOptions,
) -> None:
    """Make images that fool a model: change each a little, towards a random class."""
    from repairkit.api import job_settings, models
    from repairkit.cli.result_tables import print_attacked

    name, choices = attack.chosen(by_gradients=source.source is not None)
    method, pixel_range = models.METHODS[name](**choices), read_ends(attack.pixel_range)
    model, settings = job_settings.find_job(job.model, job.words())
    attacked = models.attack(
        model,
        settings=settings,
        method=method,
        pixel_range=pixel_range,
        at_most=attack.images,
        out=attack.out or Path(f"{model.stem}.attacked.npz"),
        source=source.named(),
    )
    answer.give(
        lambda: {"out": str(attacked.out), **attacked.document}, lambda: print_attacked(attacked)
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """A framework's model, how to load it, and where to write the result."""

    source: str = argument(
        "module:factory, a .pt2 program or TorchScript of PyTorch; a saved Keras model.",
        "SOURCE",
        default=...,
    )
    out: Path | None = option("Result; SOURCE.onnx.", "-o", "--out")
    framework: str | None = option("pytorch, keras or another adapter's name.")
    weights: Path | None = option("State dict for a factory (safetensors or torch.save).")
    input_shape: str | None = option("Shape of one image as the model takes it, such as 3,224,224.")
    opset: int | None = option("Opset of the ONNX file.", min=7)
    one_by_one: bool = option("Prove every filter alone, also in a large model; may take hours.")


def export_command(
    exporting: ExportOptions,
    job: Annotated[JobOptions, only("trust", "data", "label", "features", "output", *PREPARATION)],
    answer: AnswerOptions,
) -> None:
    """Write a PyTorch or Keras model as ONNX, with a proven map of its layers."""
    from repairkit.api import job_settings, models
    from repairkit.cli.result_tables import print_exported

    out = exporting.out or Path(f"{_stem(exporting.source)}.onnx")
    exported = models.export(
        exporting.source,
        out=out,
        settings=job_settings.find_settings(out, job.words()),
        framework=exporting.framework,
        weights=exporting.weights,
        input_shape=read_shape(exporting.input_shape),
        trust=job.trust,
        opset=exporting.opset,
        one_by_one=exporting.one_by_one,
    )
    answer.give(exported.to_json, lambda: print_exported(exported))


def _stem(source: str) -> str:
    path, colon, name = source.rpartition(":")
    return name.rpartition(".")[2] if colon and path else Path(source).stem
