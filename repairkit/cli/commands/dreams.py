"""`repairkit dream`: images made to excite filters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from repairkit.cli import options
from repairkit.cli.option_groups import argument, only, option
from repairkit.cli.options import PREPARATION, AnswerOptions, JobOptions, SourceOptions

_OF_DREAM = (
    "trust", "data", "label", "output", "image_input", "inputs", "sites_at", "include",
    "device", "workers", "seed", "calibration", "selection", "test", *PREPARATION,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DreamOptions:
    """What to dream, how, and where pictures go."""

    dreaming_model: Path = argument("The ONNX file.", "MODEL", default=...)
    filters: list[str] = argument(
        "Filters to excite, as SITE:CHANNEL or LAYER:CHANNEL.", "FILTER...", default=...
    )
    out: Path | None = option("Folder for the pictures; MODEL.dreams.", "-o", "--out")
    at: str = option(
        "Excite the centre of the filter's map, or the mean over it (channel).",
        default="centre",
        autocompletion=options.one_of("centre", "channel"),
    )
    diverse: int = option(
        "Dreams of each filter, each unlike the ones before it.", default=1, min=1, max=16
    )
    pixel_range: str | None = option(
        "Pixel range in the model's input, LOW,HIGH, if it is not known.", "--range"
    )


def dream_command(
    wish: DreamOptions,
    job: Annotated[
        JobOptions, only(*_OF_DREAM, data="Real images to compare with; labels are not needed.")
    ],
    source: SourceOptions,
    answer: AnswerOptions,
) -> None:
    """Make images that excite filters, and say how far they exceed real images."""
    from repairkit.api import job_settings, models
    from repairkit.cli.dream_tables import print_dreams

    model, settings = job_settings.find_job(wish.dreaming_model, job.words())
    dreamt = models.dream(
        model,
        wish.filters,
        settings=settings,
        out=wish.out or Path(f"{model.stem}.dreams"),
        source=source.named(),
        at=wish.at,
        diverse=wish.diverse,
        pixel_range=options.read_ends(wish.pixel_range),
    )
    answer.give(dreamt.to_json, lambda: print_dreams(dreamt.to_json()))
