"""`dissect`: which concepts the filters of a model detect."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from repairkit.cli.option_groups import only, option
from repairkit.cli.options import PREPARATION, AnswerOptions, JobOptions

_OF_DISSECT = (
    "model", "trust", "data", "label", "group", "classes", "seed", "calibration", "selection",
    "test", "image_input", "inputs", "output", "columns", "threshold", "outputs_are", "sites",
    "sites_at", "include", "device", "accept_preprocessing", *PREPARATION,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ConceptOptions:
    """Concept images, what counts as chance, and where the result goes."""

    title: ClassVar = "Concepts"
    concepts: Path | None = option(
        "Folder of images with masks; drawn colours, orientations, frequencies, textures and "
        "shapes if left out."
    )
    draw_to: Path | None = option("Also write the drawn concept images to this folder.")
    blocks: int = option("Drawn images of each concept.", default=24, min=4)
    copies: int = option(
        "Random copies of each layer at most, which show what is chance.", default=20, min=1
    )
    level: float = option(
        "Expected share of false names among the named filters of a layer.",
        default=0.05,
        min=0.001,
        max=0.5,
    )
    out: Path | None = option("Folder for the result; MODEL.dissection.", "-o", "--out")


def dissect_command(
    job: Annotated[JobOptions, only(*_OF_DISSECT)], choice: ConceptOptions, answer: AnswerOptions
) -> None:
    """Tell which concepts the filters of a model detect: colours, textures, classes and more."""
    from repairkit.api import concept_jobs, job_settings
    from repairkit.cli import concept_tables, printing

    model, settings = job_settings.find_job(job.model, job.words())
    dissected = concept_jobs.dissect(
        model,
        settings=settings,
        concepts=choice.concepts,
        draw_to=choice.draw_to,
        blocks=choice.blocks,
        copies=choice.copies,
        level=choice.level,
        out=choice.out or Path(f"{model.stem}.dissection"),
    )

    def tell() -> None:
        concept_tables.print_dissected(dissected.document)
        printing.say(f"written to {dissected.folder}")

    answer.give(dissected.to_json, tell)
