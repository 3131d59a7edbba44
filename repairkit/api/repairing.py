"""Repairs: chosen, made, proven and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypedDict, Unpack

from repairkit.api.frameworks import Source, load_source
from repairkit.api.job_settings import check_keywords, open_job
from repairkit.core.attacked import FreshAttacks
from repairkit.core.errors import RunFolderError
from repairkit.core.filters import Filter
from repairkit.core.framework import FrameworkModel
from repairkit.core.results import Patched, frozen_entry
from repairkit.core.scores import Progress
from repairkit.formats.documents import write_bytes
from repairkit.formats.patch_file import claimed_patch
from repairkit.jobs.output.destination import Companions
from repairkit.jobs.repair import patching
from repairkit.jobs.repair.objective import Target
from repairkit.jobs.repair.patching import PatchSettings
from repairkit.jobs.score.methods import ScoreSettings
from repairkit.jobs.setup.settings import Settings
from repairkit.report.story import verdict

_SAMPLE = "repairkit_samples.digits"
_SAMPLE_FILES = ("model.onnx", "digits.npz", "repairkit.toml")
# Keywords that are not handed on to `PatchSettings` as they are.
_CONVERTED = {"remove", "scores", "targets", "transfers", "trust", "accept_preprocessing"}


class PatchKeywords(TypedDict, total=False):
    """Further arguments of `patch`: what to freeze, and under which conditions.

    Attributes:
        fairness: freeze what harms the worst group (needs `settings.groups`).
        robustness: freeze what serves an adversary; `data` is what `attack` wrote.
        remove: filter ids to freeze whatever they are worth.
        scores: a run folder whose values rank the candidates.
        at_most: filters frozen together at the most; 8 if left out.
        max_drop: overall accuracy that may be lost, in [0, 1]; 0.01 if left out.
        max_group_drop: accuracy that a group may lose, in [0, 1]; 0.05 if left out.
        objective: the metric to improve, in place of `fairness`.
        targets: figures that must be reached, such as "worst_group_accuracy>=0.8".
        choose: `joint`, or `plain` for the lowest-ranked filters, as many as look best.
        beam: sets of each size that the joint search goes on from; 1 if left out.
        level: freeze at `mean`, `zero`, `bias`, or `best` for what the selection images like best.
        baselines: judge simpler cures beside the chosen one (`document["baselines"]`).
        confirm_share: of the selection images, those that confirm and choose nothing; all images do
            both, by cross-fitting, if None.
        promise: the least that must be sure: `objective`, `smooth` or `likelihood`.
        repair: what is changed: `freeze` filters, the class `bias`, the `last-layer`, or the `best`
            of these.
        transfers: what `attack` wrote with other models as sources, to be judged too.
        trust: run code that `repairkit.toml` or the run in `scores` names; what is named in this
            call runs anyway.
        accept_preprocessing: go on where images or classes are hardly as the model expects
            (docs/guide/data.md).
    """

    fairness: bool
    robustness: bool
    remove: Sequence[str]
    scores: str | Path | None
    at_most: int
    max_drop: float
    max_group_drop: float
    objective: str | None
    targets: Sequence[str]
    choose: str
    beam: int
    level: str | None
    baselines: bool
    confirm_share: float | None
    promise: str
    repair: str
    transfers: Sequence[str | Path]
    trust: bool
    accept_preprocessing: bool


def patch(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    score: ScoreSettings | None = None,
    source: FrameworkModel | Source | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **more: Unpack[PatchKeywords],
) -> Patched:
    """Choose filters, freeze them, prove the result and write it, as `repairkit patch` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: the patched model; its patch file and report are written beside it.
        score: how to score where no run is given; in the repair regime (`repair`) if None.
        source: the framework's model that the ONNX file came from, for a fresh white-box attack.
        settings: groups, preprocessing, parts, sites, device, seed; see `score`.
        on_progress: called now and then while scoring.
        more: see `PatchKeywords`.

    Raises:
        TargetNotMetError: freezing nothing is best; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    check_keywords("patch", more, PatchKeywords)
    subject, job = open_job(
        model,
        data,
        settings,
        trust=more.get("trust", False),
        accept_preprocessing=more.get("accept_preprocessing", False),
    )
    choices: dict[str, Any] = {k: v for k, v in more.items() if k not in _CONVERTED}
    scores, transfers = more.get("scores"), more.get("transfers", ())
    plan = PatchSettings(
        remove=tuple(Filter.parse(name) for name in more.get("remove", ())),
        scores=None if scores is None else Path(scores),
        score=score or ScoreSettings("repair"),
        targets=tuple(Target.parse(text) for text in more.get("targets", ())),
        attacks=FreshAttacks(
            load_source(source, subject, trust=job.trust), tuple(map(Path, transfers))
        ),
        **choices,
    )
    return patching.patch(subject, job, plan, out=Path(out), on_progress=on_progress)


def patch_document(patched: Patched) -> dict[str, Any]:
    """All that `repairkit patch --json` prints."""
    places = Companions.of(patched.out)
    return {
        "patched_model": str(patched.out),
        "patch_file": str(patched.patch_file),
        "report": str(patched.report_file),
        "page": str(places.page),
        "model_card": str(places.card),
        "verdict": verdict({**patched.document, "patch": claimed_patch(patched.patch)}),
        "frozen": [frozen_entry(frozen) for frozen in patched.patch.frozen],
        **patched.document,
    }


def copy_sample(folder: str | Path) -> Path:
    """Copy the packaged sample: a model that reads digits, images, and a project file.

    Returns:
        The model.

    Raises:
        RunFolderError: the folder holds other files of these names, or cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder with -o"
        ) from error
    for name in _SAMPLE_FILES:
        content, target = (files(_SAMPLE) / name).read_bytes(), folder / name
        if target.exists() and target.read_bytes() != content:
            raise RunFolderError(
                f"{target}: exists and is not the sample's; choose another folder with -o"
            )
        write_bytes(target, content)
    return folder / _SAMPLE_FILES[0]
