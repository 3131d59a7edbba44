"""`monitor`: do promises hold on later images?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from repairkit.cli.option_groups import argument, flag, only, option
from repairkit.cli.options import PREPARATION, AnswerOptions, JobOptions
from repairkit.core.errors import SettingsError, TargetNotMetError

_OF_MONITOR = (
    "data", "label", "group", "classes", "features", "image_input", "inputs", "output", "columns",
    "threshold", "outputs_are", "device", "batch", *PREPARATION,
)  # fmt: skip
_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 24


@dataclass(frozen=True, kw_only=True)
class WatchedOptions:
    """The model, what it promised, and where the images so far are kept."""

    model: Path = argument("The repaired model.", "PATCHED", default=...)
    state: Path | None = option("The images so far, JSON; PATCHED.monitor.json.")
    promise: Path | None = option("The patch file; the one beside PATCHED if left out.")
    floor: list[str] | None = option(
        "A floor in place of the promise, such as accuracy=0.9; may repeat.",
        metavar="FIGURE=NUMBER",
    )
    original: Path | None = option("The model before, to watch what the repair gains, too.")
    confidence: float = option("With which an alarm is true, over all looks.", default=0.95)
    in_order: bool = flag("The images come in the order of time.")


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Figures for others."""

    title: ClassVar = "Figures for other programs"
    prometheus_file: Path | None = option(
        "Write figures for Prometheus's textfile collector.", "--prometheus-file", "--prometheus"
    )


def monitor_command(
    watched: WatchedOptions,
    job: Annotated[JobOptions, only(*_OF_MONITOR, data="The images that came later, with labels.")],
    figures: FigureOptions,
    answer: AnswerOptions,
) -> None:
    """Watch on later images whether a promise still holds; exit 4 where it surely does not."""
    from repairkit.api import job_settings, watching

    if job.data.data is None:
        raise SettingsError(
            "no images were given; name those that came later with --data: the data of "
            "repairkit.toml made the promise, and cannot test it"
        )
    _, settings = job_settings.find_job(watched.model, job.words())
    seen = watching.monitor(
        watched.model,
        job.data.data,
        settings=settings,
        state=watched.state,
        promise=watched.promise,
        floors=watched.floor or (),
        original=watched.original,
        confidence=watched.confidence,
        in_order=watched.in_order,
        prometheus_file=figures.prometheus_file,
    )

    def tell() -> None:
        from repairkit.cli import printing
        from repairkit.core import metric
        from repairkit.core.process.text import counted

        known = f", {seen.n_seen:,} of them seen before" if seen.n_seen else ""
        looks = counted(len(seen.document["looks"]), "look")
        printing.say(
            f"{counted(seen.n_new + seen.n_seen, 'image')} read{known}; {seen.n_images:,} counted "
            f"in {looks}"
        )
        rows = []
        for each in seen.standings:
            gain, unit = each.watched.is_gain, metric.SHARE
            floor = (unit.change if gain else unit.figure)(each.watched.floor)
            told = printing.change if gain else printing.figure
            so_far = told(unit, each.figure) if each.n_images else metric.UNKNOWN
            row = (each.watched.words, f"{each.n_images:,}", floor, so_far)
            rows.append((*row, bars(each.by_look), each.verdict_words))
        columns = ("figure", "images", "floor", "so far, with bounds", "by look", "verdict")
        printing.table("Promises on later images", columns, rows)
        for each in seen.standings:
            if each.alarm is not None:
                printing.say(each.sentence())
        for note in seen.notes:
            printing.say(f"note: {note}")
        printing.say(seen.sentence())
        printing.say(f"state  {seen.state}")

    answer.give(seen.to_json, tell)
    if seen.verdict == "fails":
        raise typer.Exit(TargetNotMetError.exit_code)


def bars(values: Sequence[float]) -> str:
    """The last looks as bars between the lowest and the highest; a blank where there is none."""
    last = list(values)[-_SHOWN:]
    known = [value for value in last if not math.isnan(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    steps = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if math.isnan(v) else _BARS[round((v - low) * steps)] for v in last)
