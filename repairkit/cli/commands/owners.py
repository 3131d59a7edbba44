"""`repairkit means` and `repairkit merge`: data of several owners."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from repairkit import api
from repairkit.cli.options.answer import Answer
from repairkit.cli.options.groups import argument, only, option
from repairkit.cli.options.job import PREPARATION, Job, settle_job
from repairkit.core.errors import SettingsError

if TYPE_CHECKING:
    from repairkit.api import By

_OF_JOB = (
    "model", "data", "features", "image_input", "inputs", "output", "sites", "sites_at", "include",
    "device", *PREPARATION,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Means:
    """Whose means, and where they go."""

    out: Path | None = option("File; MODEL.means.json.", "-o", "--out")
    merge: list[Path] | None = option("Add up this file of means; repeat for each owner.")


@dataclass(frozen=True, kw_only=True)
class Merging:
    """Runs, their weights, and where the result goes."""

    runs: list[Path] = argument("Run folders of the same model.", "RUN...", default=...)
    out: Path = option("Run folder of the result.", "-o", "--out", default=...)
    by: str = option("Weight runs by images, or by whole groups.", default="images")
    weights: str | None = option("One number per run, comma-separated.")


def means_command(job: Annotated[Job, only(*_OF_JOB)], choice: Means, answer: Answer) -> None:
    """Compute what absent filters are to yield, over all images; or add up several owners' sums."""
    from repairkit.cli.shown.results import print_means

    if choice.merge:
        if choice.out is None and job.model is None and job.data.data is None:
            raise SettingsError("--merge needs a file to write; name it with -o")
        place = choice.out or Path()
        means = api.means(job.model, job.data.data, merge=choice.merge, out=place)
    else:
        model, settings = settle_job(job)
        place = choice.out or model.with_suffix(".means.json")
        means = api.means(model, settings=settings, out=place)
    answer.give(
        lambda: {k: v for k, v in means.to_json().items() if k != "sites"},
        lambda: print_means(means, place),
    )


def merge_command(merging: Merging, answer: Answer) -> None:
    """Add up values over data that could not leave its owners; needs run folders alone."""
    from repairkit.cli.shown.results import print_merged

    weights = _numbers(merging.weights)
    merged = api.merge(merging.runs, out=merging.out, by=cast("By", merging.by), weights=weights)
    answer.give(merged.to_json, lambda: print_merged(merged, merging.out))


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"--weights {text!r} are no numbers; give one per run, separated by commas"
        ) from None
