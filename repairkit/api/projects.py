"""Begin a project: settings from a look at a model and its data, in `repairkit.toml`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from repairkit.api.job_settings import (
    JobKeywords,
    Metrics,
    check_keywords,
    job_settings,
    metric_names,
    open_job,
    plain_settings,
)
from repairkit.jobs.look import starting
from repairkit.jobs.setup.workbench import Settings

Proposal = starting.Proposal


@dataclass(frozen=True)
class Begun:
    """A project that was begun: its file, and what was proposed for it."""

    project_file: Path
    proposal: Proposal

    @property
    def next_commands(self) -> tuple[str, ...]:
        """The commands that come next, to be run in the working folder; the first one works."""
        return self.proposal.next_commands(self.project_file.parent)

    def to_json(self) -> dict[str, Any]:
        return {
            "project_file": str(self.project_file),
            **self.proposal.to_json(),
            "next": list(self.next_commands),
        }


def propose(
    model: str | Path, given: Mapping[str, object] | Settings, *, out: str | Path, force: bool
) -> Proposal:
    """The settings that `init` would write; see there. No `repairkit.toml` is read.

    Args:
        model: an ONNX file.
        given: settings, or values by their names as `find_settings` takes them.
        out: the folder for `repairkit.toml`.
        force: whether a file that is there may be replaced.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    starting.project_file(Path(out), force=force)
    settings = given if isinstance(given, Settings) else plain_settings(given)
    subject, job = open_job(model, None, settings)
    return starting.propose(subject, job)


def write(
    proposal: Proposal,
    *,
    out: str | Path,
    force: bool,
    groups: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Begun:
    """Write a proposal's `repairkit.toml`, with other groups or class names where they are given.

    Raises:
        RepairkitError: it exists already, cannot be written, or a name makes no sense.
    """
    settings = proposal.settings
    if groups is not None:
        settings = replace(settings, groups=tuple(groups))
    if class_names is not None:
        settings = replace(settings, class_names=tuple(class_names))
    proposal = replace(proposal, settings=settings)
    return Begun(starting.write_project(proposal, Path(out), force=force), proposal)


def init(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path = ".",
    metric: Metrics | None = None,
    settings: Settings | None = None,
    force: bool = False,
    **words: Unpack[JobKeywords],
) -> Begun:
    """Begin a project, as `repairkit init --yes` does: look at both and write `repairkit.toml`.

    Args:
        model: an ONNX file.
        data: labelled images or a table; those of the settings if None.
        out: the folder for `repairkit.toml`.
        metric: one or several, by name; those of the settings if None.
        settings: what is known already: groups, classes, preprocessing and more.
        force: replace a `repairkit.toml` that is there.
        words: see `JobKeywords`.

    Raises:
        RunFolderError: there is one already.
        RepairkitError: anything else that the user can correct.
    """
    check_keywords("init", words, JobKeywords)
    place = None if data is None else Path(data)
    known = job_settings(Path(model), place, settings or Settings(), words)
    if metric is not None:
        known = replace(known, metrics=metric_names(metric))
    return write(propose(model, known, out=out, force=force), out=out, force=force)
