"""What every function takes, as what a workflow takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repairkit.data import find_project
from repairkit.jobs.setup.settings import Settings, settle
from repairkit.jobs.setup.subject import Subject, read_subject


def open_job(
    model: str | Path,
    data: str | Path | None,
    settings: Settings | None,
    *,
    trust: bool = False,
    accept_preprocessing: bool = False,
) -> tuple[Subject, Settings]:
    """The model, and what is settled about it by arguments and by `repairkit.toml`.

    Args:
        model: an ONNX file.
        data: in place of the settings'.
        settings: in place of `repairkit.toml`.
        trust: run code that `repairkit.toml` names.
        accept_preprocessing: go on where images or classes are hardly as the model expects.
    """
    path = Path(model)
    job = settle({}, find_project(path, Path.cwd())) if settings is None else settings
    if data is not None:
        job = replace(job, data=Path(data))
    if trust:
        job = replace(job, trust=True)
    if accept_preprocessing:
        job = replace(job, accept_preprocessing=True)
    subject = read_subject(
        path,
        output=job.output,
        layout=job.preprocessing.layout,
        image_input=job.image_input,
    )
    return subject, job
