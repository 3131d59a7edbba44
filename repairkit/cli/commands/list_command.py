"""`repairkit list`: metrics, methods, the columns of data, the sites of a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from repairkit.cli.option_groups import argument, only
from repairkit.cli.options import AnswerOptions, JobOptions, one_of

if TYPE_CHECKING:
    from repairkit.api.listings import Listing

_WHAT = ("metrics", "methods", "columns", "sites")
_TITLES = {
    "metrics": ("Metrics", ("metric", "meaning", "better", "unit", "needs")),
    "methods": ("Methods of score", ("method", "estimates", "cost")),
    "columns": ("Columns of the data", ("column", "kind", "values", "commonest", "read as")),
    "sites": ("Sites of the model", ("site", "kind", "filters", "layer")),
}


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """What to list."""

    what: str = argument(
        f"{', '.join(_WHAT[:-1])} (with --data) or {_WHAT[-1]} (with MODEL).",
        "WHAT",
        default=...,
        autocompletion=one_of(*_WHAT),
    )


def list_command(
    choice: ListOptions,
    job: Annotated[
        JobOptions,
        only(
            "label", "output", "sites_at", "include",
            model="The ONNX file whose sites are listed; that of repairkit.toml if left out.",
            data="The data whose columns are listed; those of repairkit.toml if left out.",
        ),
    ],
    answer: AnswerOptions,
) -> None:  # fmt: skip
    """List the metrics, the methods, the columns of data, or the sites of a model."""
    from repairkit.api import job_settings, listings
    from repairkit.cli import printing

    model, settings = job.model, None
    if choice.what == "sites":
        model, settings = job_settings.find_job(job.model, job.words())
    elif choice.what == "columns":
        settings = job_settings.find_settings(model or Path("repairkit.toml"), job.words())
    listed = listings.listing(choice.what, model, job.data.data, settings=settings)
    title, columns = _TITLES[listed.what]
    answer.give(listed.to_json, lambda: printing.table(title, columns, list(_rows(listed))))


def _rows(listed: "Listing") -> Iterator[list[str]]:
    for entry in listed.to_json()[listed.what]:
        row = dict(entry)
        if listed.what == "columns":
            values = [f"{value or '(none)'} {n:,}" for value, n in row.pop("values").items()]
            more = ", ..." if row["n_values"] > len(values) else ""
            row = {**row, "values": ", ".join(values) + more}
            yield [row["name"], row["kind"], f"{row['n_values']:,}", row["values"], row["use"]]
        else:
            yield [f"{value:,}" if isinstance(value, int) else value for value in row.values()]
