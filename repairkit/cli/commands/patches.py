"""`repairkit patch` and its demonstration `demo`; `verify`, `apply` and `revert` for patches."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from repairkit.cli import options, stage_display
from repairkit.cli.option_groups import argument, flag, only, option, without
from repairkit.cli.options import PREPARATION, AnswerOptions, JobOptions, SearchOptions
from repairkit.core.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class BackdoorOptions:
    """By what a backdoor is known."""

    title: ClassVar = "Backdoor"
    backdoor: bool = flag("Freeze what a backdoor lives on; a trigger not told is reversed.")
    triggered: str | None = option("The column that marks images with the trigger.")
    trigger: Path | None = option("An image file of the trigger, put on clean images.")
    mask: Path | None = option("White where the trigger lies; its transparency if left out.")
    target_class: str | None = option("The class that the trigger gives; told if left out.")


@dataclass(frozen=True, kw_only=True)
class WishOptions:
    """What to repair, and where to write the result."""

    fairness: bool = flag("Freeze what harms the worst group.")
    robustness: bool = flag("Freeze what helps an adversary; --data is what attack wrote.")
    fix: str | None = option(
        "Images that the model gets wrong: a column, COLUMN=VALUE, or a list (.csv).",
        metavar="COLUMN",
    )
    forget: str | None = option("A class that is to be recognised no longer.", metavar="CLASS")
    scores: Path | None = option("A run folder whose values rank candidates.")
    remove: str | None = option("Freeze exactly these filters: ID,ID,...")
    remove_top: int | None = option(
        "Freeze so many filters of highest value of the run that --scores names.", min=1
    )
    out: Path | None = option("The patched model; MODEL.patched.onnx.", "-o", "--out")
    details: bool = flag("Also print groups by each single column, their rates, and classes.")
    known: BackdoorOptions


@dataclass(frozen=True, kw_only=True)
class ConditionOptions:
    """What a repair must reach, and what it may cost."""

    title: ClassVar = "Goal and limits"
    objective: str | None = option("The metric to improve.", autocompletion=options.offer_metrics)
    target: list[str] | None = option(
        "A figure that the repair must reach (or <=); may repeat.", metavar="METRIC>=NUMBER"
    )
    mend: float = option(
        "Share of the wrong images of --fix that must be mended.", default=0.6, min=0.0, max=1.0
    )
    at_most: int | None = option("Largest number of frozen filters; 8, or 24 to forget.", min=1)
    max_drop: float | None = option(
        "Accuracy that may be lost, overall or elsewhere; 0.01, --fix 0.005, --backdoor 0.05.",
        min=0.0,
        max=1.0,
    )
    max_group_drop: float = option(
        "Accuracy that any group may lose.", default=0.05, min=0.0, max=1.0
    )
    promise: str = option(
        "Weakest promise to accept: objective, smooth or likelihood.",
        default="likelihood",
        autocompletion=options.one_of("objective", "smooth", "likelihood"),
    )


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
    """How filters are chosen, and how the model is changed."""

    title: ClassVar = "Choice"
    choose: str = option(
        "joint, or plain: as many of the lowest-ranked as look best.",
        default="joint",
        autocompletion=options.one_of("joint", "plain"),
    )
    beam: int = option("Beam width: sets of each size kept for the next step.", default=1, min=1)
    level: str | None = option(
        "Freeze at mean, zero, bias, or best on selection images.",
        autocompletion=options.one_of("mean", "zero", "bias", "best"),
    )
    repair: str | None = option(
        "freeze (filters), bias, last-layer, or best; if not given, best with --backdoor and "
        "--forget, else freeze.",
        autocompletion=options.one_of("freeze", "bias", "last-layer", "best"),
    )
    confirm_share: float | None = option(
        "Share of the selection images used only to confirm; else all choose and confirm."
    )
    refit_safe: bool = flag("Change only what a compiled model can take as new weights.")
    baselines: bool = flag("Also judge simpler repairs.")
    transfer: list[Path] | None = option(
        "Also judge the attack of another model (.npz); may repeat."
    )


@dataclass(frozen=True, kw_only=True)
class ValueOptions:
    """How filters are scored where no run is given."""

    title: ClassVar = "Search"
    method: str = option(
        options.METHOD_HELP, default="repair", autocompletion=options.offer_methods
    )
    search: Annotated[SearchOptions, without("side", "setting")]


def patch_command(
    context: typer.Context,
    job: Annotated[JobOptions, without("means")],
    wish: WishOptions,
    conditions: ConditionOptions,
    choice: ChoiceOptions,
    values: ValueOptions,
    source: options.SourceOptions,
    answer: AnswerOptions,
) -> None:
    """Choose filters, freeze them, prove the result and write the patched model."""
    from repairkit.api import job_settings, repairing
    from repairkit.cli.repair_story import print_patched

    model, settings = job_settings.find_job(job.model, job.words())
    limits, choices, search = asdict(conditions), asdict(choice), values.search
    done = repairing.patch(
        model,
        settings=settings,
        out=wish.out or Path(f"{model.stem}.patched.onnx"),
        score=repairing.score_settings(
            values.method,
            search.of_method(),
            max_evaluations=search.max_evaluations,
            time_limit=search.time_limit,
            began=options.began(context),
        ),
        source=source.named(),
        on_progress=stage_display.scoring_progress,
        fairness=wish.fairness,
        robustness=wish.robustness,
        fix=wish.fix,
        forget=wish.forget,
        remove=options.split_names(wish.remove) or (),
        remove_top=wish.remove_top,
        scores=wish.scores,
        targets=limits.pop("target") or (),
        transfers=choices.pop("transfer") or (),
        **asdict(wish.known),
        **limits,
        **choices,
    )
    document = repairing.patch_document(done)
    answer.give(lambda: document, lambda: print_patched(done, document, details=wish.details))


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Where the demonstration writes its files."""

    out: Path = option(
        "Folder for the sample and the patched model.",
        "-o",
        "--out",
        default=Path("repairkit-demo"),
    )


def demo_command(place: DemoOptions, answer: AnswerOptions) -> None:
    """Repair the packaged sample: a model that reads dark digits on a light background badly."""
    from repairkit.api import job_settings, proving, repairing
    from repairkit.cli import printing, repair_story

    model = repairing.copy_sample(place.out)
    settings = job_settings.find_settings(model)
    if not (answer.as_json or answer.quiet):
        printing.say(
            f"A network that reads digits, and images in two groups, copied to {place.out}."
        )
        printing.say(
            "repairkit patch --fairness --level best: score filters, freeze what harms, prove."
        )
    done = repairing.patch(
        model,
        settings=settings,
        fairness=True,
        level="best",
        out=place.out / "model.patched.onnx",
        on_progress=stage_display.scoring_progress,
    )
    # On noise: real images were used while the result was still in memory.
    verified = proving.verify(
        model, done.out, patch_file=done.patch_file, settings=replace(settings, data=None)
    )
    document = repairing.patch_document(done)

    def tell() -> None:
        repair_story.print_patched(done, document)
        repair_story.print_demo_end(document, model=model)

    answer.give(lambda: {**document, "verified_from_disk": verified.to_json()}, tell)


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Two models, and the patch that changed one into the other."""

    original: Path = argument("The model before.", "ORIGINAL", default=...)
    patched: Path = argument("The model after.", "PATCHED", default=...)
    patch: Path | None = option("The patch file; if left out, what PATCHED says or shows.")
    noise: bool = flag("Compare outputs on noise alone, whatever images repairkit.toml names.")


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """A model, a patch made for it, and where to write the result."""

    model: Path = argument("The model that the patch was made for.", "MODEL", default=...)
    patch: Path = argument("The patch file (*.patch.json).", "PATCH", default=...)
    out: Path | None = option("The patched model; MODEL.patched.onnx.", "-o", "--out")


@dataclass(frozen=True, kw_only=True)
class OverlayOptions:
    """A model, a patch made for it, and where to write the overlay."""

    model: Path = argument("The model that the patch was made for.", "MODEL", default=...)
    patch: Path = argument("The patch file (*.patch.json).", "PATCH", default=...)
    out: Path | None = option("The overlay; MODEL.overlay.safetensors.", "-o", "--out")


@dataclass(frozen=True, kw_only=True)
class RevertOptions:
    """A patched model, the patch to undo, and where to write the result."""

    model: Path = argument("The patched model.", "MODEL", default=...)
    patch: Path | None = argument(
        "The patch file to undo; the one beside MODEL if left out.", "[PATCH]"
    )
    out: Path | None = option("The model before; MODEL.reverted.onnx.", "-o", "--out")


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """In which other runtimes the patched model is checked."""

    title: ClassVar = "Other runtimes"
    runtime: list[str] | None = option(
        "Check in this runtime too; may repeat: openvino, onnxruntime-node, onnxruntime-web, "
        "tensorrt or coreml.",
        metavar="NAME",
        autocompletion=options.one_of(
            "openvino", "onnxruntime-node", "onnxruntime-web", "tensorrt", "coreml"
        ),
    )
    node_modules: Path | None = option(
        "Folder where npm installed the JavaScript packages; else the working folder."
    )
    tolerance: float | None = option(
        "How far outputs may differ there, relative to the largest number."
    )


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """A quantised copy of the patched model that is judged."""

    title: ClassVar = "Quantised copy"
    quantised: Path | None = option(
        "A quantised copy of PATCHED that is to keep the freeze and, with --data, the gain."
    )
    quantised_original: Path | None = option("A quantised copy of ORIGINAL, to compare with.")
    metric: str | None = option(
        "Metric of the gain; that of --patch if left out.", autocompletion=options.offer_metrics
    )


def verify_command(
    pair: PairOptions,
    elsewhere: RuntimeOptions,
    copies: CopyOptions,
    job: Annotated[
        JobOptions,
        only(
            "data",
            "label",
            "features",
            "group",
            "classes",
            "calibration",
            "selection",
            "test",
            "seed",
            "accept_preprocessing",
            "image_input",
            "inputs",
            "trust",
            *PREPARATION,
        ),
    ],
    answer: AnswerOptions,
) -> None:
    """Prove that PATCHED is ORIGINAL with exactly the claimed changes."""
    from repairkit.api import job_settings, proving
    from repairkit.cli import diff_tables, repair_story

    _, settings = job_settings.find_job(pair.original, job.words())
    if pair.noise and job.data.data is not None:
        raise SettingsError("--noise takes no images and --data names some; give one of the two")
    verified = proving.verify(
        pair.original,
        pair.patched,
        patch_file=pair.patch,
        settings=settings,
        noise=pair.noise,
        runtime=elsewhere.runtime or (),
        node_modules=elsewhere.node_modules,
        tolerance=elsewhere.tolerance,
        quantised=copies.quantised,
        quantised_original=copies.quantised_original,
        metric=copies.metric,
    )

    def tell() -> None:
        repair_story.print_verified(verified, original=pair.original, patched=pair.patched)
        diff_tables.print_checks(verified)

    answer.give(verified.to_json, tell)


def apply_command(
    files: ApplyOptions,
    job: Annotated[
        JobOptions, only("data", "label", "features", "image_input", "inputs", *PREPARATION)
    ],
    answer: AnswerOptions,
) -> None:
    """Apply a patch file to the exact model it was made for, and prove the result."""
    from repairkit.api import job_settings, repairing
    from repairkit.cli.repair_story import print_applied

    _, settings = job_settings.find_job(files.model, job.words())
    out = files.out or Path(f"{files.model.stem}.patched.onnx")
    applied = repairing.apply(files.model, files.patch, out=out, settings=settings)
    answer.give(applied.to_json, lambda: print_applied(applied))


def overlay_command(
    files: OverlayOptions,
    job: Annotated[
        JobOptions, only("data", "label", "features", "image_input", "inputs", *PREPARATION)
    ],
    answer: AnswerOptions,
) -> None:
    """Write only the tensors that a patch changes, for runtimes that replace them at start."""
    from repairkit.api import job_settings, repairing
    from repairkit.cli.repair_story import print_overlaid

    _, settings = job_settings.find_job(files.model, job.words())
    out = files.out or Path(f"{files.model.stem}.overlay.safetensors")
    made = repairing.overlay(files.model, files.patch, out=out, settings=settings)
    answer.give(made.to_json, lambda: print_overlaid(made.to_json(), made.verified))


def revert_command(files: RevertOptions, answer: AnswerOptions) -> None:
    """Undo a patch: restore the original model byte for byte."""
    from repairkit.api import repairing
    from repairkit.cli.repair_story import print_reverted

    out = files.out or Path(f"{files.model.stem}.reverted.onnx")
    reverted = repairing.revert(files.model, files.patch, out=out)
    answer.give(reverted.to_json, lambda: print_reverted(reverted))
