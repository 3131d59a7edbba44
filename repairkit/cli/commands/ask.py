"""`ask`: values by another metric, or on other images, from the rows that a run kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from repairkit.cli.option_groups import argument, flag, option
from repairkit.cli.options import AnswerOptions, offer_metrics, split_names
from repairkit.core.errors import SettingsError
from repairkit.core.process.trust import TRUST_HELP


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """The run, the metrics, and where the answer goes."""

    run: Path = argument("Run folder of score --keep-rows.", "RUN", default=...)
    metric: list[str] | None = option(
        "Metric that values filters; may repeat, the first one ranks. That of the run.",
        autocompletion=offer_metrics,
    )
    group: str | None = option("Columns that define groups, comma-separated. Those of the run.")
    out: Path | None = option("Run folder for the answer.", "-o", "--out")
    exclude_top_of: str | None = option(
        "Leave the top filters by this metric of the same rows out of the ranking.",
        metavar="METRIC",
    )
    exclude_share: float | None = option("Share of the filters that counts as top; 0.2.")
    trust: bool = flag(TRUST_HELP)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Which images the question is about."""

    title: ClassVar = "Images"
    where: str | None = option(
        "Only images for which this holds, such as \"group == 'a' and age >= 30\"."
    )
    of_class: str | None = option("Only images of this class, by name or number.", "--class")
    images: str | None = option(
        "Only these images, counted from 0 in the order of the data: 3,17,40-60, or a file.",
        metavar="FILE|NUMBERS",
    )


def ask_command(question: QuestionOptions, images: ImageOptions, answer: AnswerOptions) -> None:
    """Value the filters by another metric or on other images, from the rows that a run kept."""
    from repairkit.api import estimating
    from repairkit.cli import printing, result_tables

    share = question.exclude_share
    if share is not None and question.exclude_top_of is None:
        raise SettingsError("--exclude-share needs a metric; name it with --exclude-top-of METRIC")
    asked = estimating.ask(
        question.run,
        metric=question.metric,
        groups=split_names(question.group) or (),
        where=images.where or "",
        class_name=images.of_class,
        images=images.images,
        exclude_top_of=question.exclude_top_of,
        exclude_share=0.2 if share is None else share,
        out=question.out,
        trust=question.trust,
    )

    def tell() -> None:
        result_tables.print_scored(
            asked.table(),
            asked.scores,
            asked.document,
            {},
            ids=[each.id for each in asked.filters],
            excluded=asked.excluded,
        )
        if asked.folder is not None:
            printing.say(f"written to {asked.folder}")

    answer.give(asked.to_json, tell)
