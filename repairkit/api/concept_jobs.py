"""Concepts: which of them the filters of a model detect, and whether valued filters do so more."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from repairkit.api.job_settings import JobKeywords, check_keywords, open_job
from repairkit.data.given import GivenAs
from repairkit.formats.dissection_file import is_dissection
from repairkit.jobs.dissect import dissected, dissecting, valued_concepts
from repairkit.jobs.setup.workbench import Settings
from repairkit.notebook.progress import shown_in_cell


class DissectKeywords(JobKeywords, total=False):
    """Further arguments of `dissect`, beside those of any job (`JobKeywords`).

    Attributes:
        draw_to: also write the drawn concept images to this folder.
        blocks: drawn images of each concept; 24 if left out.
        copies: random copies of each layer at most, which say what is no more than chance; 20.
        level: the expected share of false names among the named filters of a layer; 0.05.
        trust: run code that `repairkit.toml` names.
        accept_preprocessing: continue although images or classes look unlike what the model expects
            (docs/guide/data.md).
        progress: in a notebook, show a bar while the job runs; True if left out.
    """

    draw_to: str | Path | None
    blocks: int
    copies: int
    level: float
    progress: bool
    trust: bool
    accept_preprocessing: bool


@shown_in_cell
def dissect(
    model: str | Path,
    data: GivenAs | None = None,
    *,
    concepts: str | Path | None = None,
    out: str | Path | None = None,
    settings: Settings | None = None,
    **more: Unpack[DissectKeywords],
) -> dissected.Dissected:
    """Tell which concepts the filters of a model detect, as `repairkit dissect` does.

    Args:
        model: an ONNX file.
        data: labelled images, whose classes and columns are concepts, too; see `score`. None is
            needed for concepts with masks.
        concepts: a folder of images with masks (docs/guide/dissection.md); drawn ones if None.
        out: a folder for `dissection.json` and `dissection.csv`; nothing is written if None.
        settings: preprocessing, sites, seed; see `score`.
        more: see `DissectKeywords`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    check_keywords("dissect", more, DissectKeywords)
    draw_to = more.get("draw_to")
    plain = dissecting.DissectSettings()
    plan = dissecting.DissectSettings(
        concepts=None if concepts is None else Path(concepts),
        draw_to=None if draw_to is None else Path(draw_to),
        blocks=more.get("blocks", plain.blocks),
        copies=more.get("copies", plain.copies),
        level=more.get("level", plain.level),
    )
    subject, job = open_job(model, data, settings, more)
    return dissecting.dissect(subject, job, plan, out=None if out is None else Path(out))


def compare_concepts(
    run: str | Path, dissection: str | Path, *, metric: str | None = None, top_k: int = 20
) -> valued_concepts.ValuedConcepts:
    """Do filters of high value carry concepts more often? As `repairkit compare` shows.

    Args:
        run: a run folder.
        dissection: the folder of a dissection of the same model, or its JSON file.
        metric: the metric whose values are compared; the run's first if None.
        top_k: filters at each end of the ranking that are held against others of their layers.

    Raises:
        RepairkitError: one of the two cannot be read, or they are of different models.
    """
    return valued_concepts.compare_concepts(Path(run), Path(dissection), metric=metric, top_k=top_k)


__all__ = ["DissectKeywords", "compare_concepts", "dissect", "is_dissection"]
