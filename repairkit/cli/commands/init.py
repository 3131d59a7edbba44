"""`repairkit init`: look at a model and its data, ask what they do not tell, write the project."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repairkit.cli.option_groups import argument, flag, only, option
from repairkit.cli.options import PREPARATION, AnswerOptions, JobOptions, split_names
from repairkit.core.process.text import counted, printable

if TYPE_CHECKING:
    from repairkit.api.projects import Proposal

_OF_INIT = (
    "data", "label", "metric", "group", "classes", "features", "image_input", "inputs", "output",
    "columns", "threshold", "outputs_are", "seed", *PREPARATION,
)  # fmt: skip
_NONE = "none"
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """The model, and where its project file goes."""

    model: Path = argument("The ONNX file.", "MODEL", default=...)
    out: Path = option("Folder for repairkit.toml.", "-o", "--out", default=Path())
    yes: bool = flag("Ask nothing; take what the look at model and data proposes.", "-y", "--yes")
    force: bool = flag("Replace a repairkit.toml that is there.")


def init_command(
    choice: InitOptions, job: Annotated[JobOptions, only(*_OF_INIT)], answer: AnswerOptions
) -> None:
    """Look at a model and its data, and write a repairkit.toml that the other commands read."""
    from repairkit.api import projects
    from repairkit.cli import printing

    proposal = projects.propose(choice.model, job.words(), out=choice.out, force=choice.force)
    groups = classes = None
    if _may_ask(choice, answer):
        _tell(proposal)
        groups, classes = _asked_groups(job, proposal), _asked_classes(job, proposal)
    begun = projects.write(
        proposal, out=choice.out, force=choice.force, groups=groups, class_names=classes
    )

    def tell() -> None:
        if not _may_ask(choice, answer):
            _tell(proposal)
        printing.say(f"written to {begun.project_file}")
        if proposal.doubt:
            printing.say("correct the file first; this shows how the usual preprocessings do:")
        for word, command in zip(("next:", "then:"), begun.next_commands, strict=False):
            printing.say(f"{word} {command}")

    answer.give(begun.to_json, tell)


def _may_ask(choice: InitOptions, answer: AnswerOptions) -> bool:
    """Whether somebody sits at a terminal and wants to be asked."""
    at_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    return at_terminal and not (choice.yes or answer.as_json or answer.quiet)


def _tell(proposal: "Proposal") -> None:
    from repairkit.cli import printing

    for sentence in proposal.sentences:
        printing.say(sentence)
    if proposal.doubt:
        printing.say(f"note: the preprocessing is doubtful: {proposal.doubt}")


def _asked_groups(job: JobOptions, proposal: "Proposal") -> tuple[str, ...] | None:
    """The columns that define groups; None where they were given, or there is nothing to ask."""
    if job.data.group is not None or not proposal.group_columns:
        return None
    for column in proposal.group_columns:
        values = [f"{value} {n:,}" for value, n in column.values[:_SHOWN]]
        more = ", ..." if column.n_values > len(values) else ""
        text = f"  {column.name}: {counted(column.n_values, 'value')} ({', '.join(values)}{more})"
        typer.echo(printable(text), err=True)
    known = [column.name for column in proposal.group_columns]
    default = ",".join(proposal.settings.groups) or _NONE
    while True:
        text = typer.prompt("Columns that define groups (or none)", default=default, err=True)
        names = () if text == _NONE else split_names(text) or ()
        unknown = [name for name in names if name not in known]
        if not unknown:
            return names
        typer.echo(
            printable(f"there is no column {unknown[0]!r}; choose {', '.join(known)}"), err=True
        )


def _asked_classes(job: JobOptions, proposal: "Proposal") -> tuple[str, ...] | None:
    """The class names in the order of the outputs; None where they were given or are not known."""
    names = proposal.settings.class_names
    if job.data.classes is not None or not names:
        return None
    while True:
        text = typer.prompt(
            "Class names in the order of the outputs", default=",".join(names), err=True
        )
        given = names if text == ",".join(names) else split_names(text) or ()
        if sorted(given) == sorted(names):
            return given
        typer.echo(f"name the same {len(names)} classes, in another order", err=True)
