"""`repairkit patch`, and `repairkit demo`, which shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from repairkit import api
from repairkit.cli.options.answer import Answer
from repairkit.cli.options.groups import flag, option, without
from repairkit.cli.options.job import Job, settle_job, split_names
from repairkit.cli.options.search import METHOD_HELP, Search
from repairkit.cli.options.source import SourceOptions
from repairkit.cli.options.started import began

if TYPE_CHECKING:
    from repairkit.api import ScoreSettings


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be mended, and where the result goes."""

    fairness: bool = flag("Freeze what harms the worst group.")
    robustness: bool = flag("Freeze what serves an adversary; --data of an attack.")
    scores: Path | None = option("A run folder whose values rank candidates.")
    remove: str | None = option("Freeze just these filters: ID,ID,...")
    out: Path | None = option("The patched model; MODEL.patched.onnx.", "-o", "--out")
    details: bool = flag("Also print groups by each column alone, their rates, and classes.")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a repair must reach, and what it may cost."""

    title: ClassVar = "Goal and limits"
    objective: str | None = option("The metric to improve.")
    target: list[str] | None = option(
        "A figure that must be reached, or <=; may repeat.", metavar="METRIC>=NUMBER"
    )
    at_most: int = option("Filters frozen at the most.", default=8, min=1)
    max_drop: float = option("Overall accuracy that may go.", default=0.01, min=0.0, max=1.0)
    max_group_drop: float = option(
        "Accuracy that any group may lose.", default=0.05, min=0.0, max=1.0
    )
    promise: str = option(
        "The least that must be sure: objective, smooth or likelihood.", default="likelihood"
    )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How filters are chosen and what is done to them."""

    title: ClassVar = "Choice"
    choose: str = option("joint, or plain for the lowest-ranked that look best.", default="joint")
    beam: int = option("Sets of each size that the search goes on from.", default=1, min=1)
    level: str | None = option("Freeze at mean, zero, bias, or best on selection images.")
    repair: str = option(
        "freeze filters, bias, last-layer, or best of them; see the guide.", default="freeze"
    )
    confirm_share: float | None = option(
        "Share of the selection images that only confirm; else all choose and confirm."
    )
    baselines: bool = flag("Judge simpler cures beside the chosen one.")
    transfer: list[Path] | None = option("Another model's attack, .npz, to be judged; may repeat.")


@dataclass(frozen=True, kw_only=True)
class Values:
    """How filters are scored where no run is given."""

    title: ClassVar = "Search"
    method: str = option(METHOD_HELP, default="repair")
    search: Annotated[Search, without("side", "setting")]

    def settings(self, started: float) -> ScoreSettings:
        """The settings of the scoring, in a command that started then."""
        budget = api.Budget(self.search.max_evaluations, self.search.time_limit)
        return api.ScoreSettings(
            self.method, options=self.search.of_method(), budget=budget, began=started
        )


def patch_command(
    context: typer.Context,
    job: Annotated[Job, without("means")],
    wish: Wish,
    conditions: Conditions,
    choice: Choice,
    values: Values,
    source: SourceOptions,
    answer: Answer,
) -> None:
    """Choose filters, freeze them, prove the result and write the patched model."""
    from repairkit.cli.shown import show
    from repairkit.cli.shown.repair_story import print_patched

    model, settings = settle_job(job)
    limits, how = asdict(conditions), asdict(choice)
    done = api.patch(
        model,
        settings=settings,
        out=wish.out or Path(f"{model.stem}.patched.onnx"),
        score=values.settings(began(context)),
        source=source.named(),
        on_progress=show.scoring_progress,
        fairness=wish.fairness,
        robustness=wish.robustness,
        remove=split_names(wish.remove) or (),
        scores=wish.scores,
        targets=limits.pop("target") or (),
        transfers=how.pop("transfer") or (),
        **limits,
        **how,
    )
    answer.give(lambda: api.patch_document(done), lambda: print_patched(done, details=wish.details))


@dataclass(frozen=True, kw_only=True)
class DemoPlace:
    """Where the demonstration happens."""

    out: Path = option(
        "Folder for the sample and the patched model.",
        "-o",
        "--out",
        default=Path("repairkit-demo"),
    )


def demo_command(place: DemoPlace, answer: Answer) -> None:
    """Repair the packaged sample: digits that are read worse when dark on light."""
    from repairkit.cli.shown import show
    from repairkit.cli.shown.repair_story import print_patched

    model = api.copy_sample(place.out)
    settings = api.find_settings(model)
    if not (answer.as_json or answer.quiet):
        show.say(f"A network that reads digits, and images in two groups, copied to {place.out}.")
        show.say(
            "repairkit patch --fairness --level best: score filters, freeze what harms, prove."
        )
    done = api.patch(
        model,
        settings=settings,
        fairness=True,
        level="best",
        out=place.out / "model.patched.onnx",
        on_progress=show.scoring_progress,
    )
    # On noise: the images have proven the result while it was in memory.
    verified = api.verify(
        model, done.out, patch_file=done.patch_file, settings=replace(settings, data=None)
    )

    def tell() -> None:
        print_patched(done)
        show.say("verification of the written file passed")

    answer.give(
        lambda: {**api.patch_document(done), "verified_from_disk": verified.to_json()}, tell
    )
