"""Choose filters, bake them, prove the result and write it with its patch file and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.errors import RunFolderError, SettingsError
from repairkit.core.filters import Filter
from repairkit.core.patch import Evaluation, Figure, Patch
from repairkit.engine.runner import Runner
from repairkit.graph.bake import bake
from repairkit.graph.files import digest_of, write_model
from repairkit.graph.rebatch import fixed_batch
from repairkit.graph.revert import read_claims, write_claims
from repairkit.metrics import difference, evaluate
from repairkit.repairs import Trial, make_patch
from repairkit.workflows.bench import Bench, prepare, run_suite
from repairkit.workflows.choosing import choose_patch, try_patches
from repairkit.workflows.destination import check_place, companions
from repairkit.workflows.faults import judging_the_model
from repairkit.workflows.layout import layout_of
from repairkit.workflows.methods import ScoreSettings
from repairkit.workflows.patch_file import PatchFile, write_patch_file
from repairkit.workflows.patch_story import patch_story
from repairkit.workflows.progress import Progress
from repairkit.workflows.reporting import write_repair_report
from repairkit.workflows.run_document import plain
from repairkit.workflows.run_folder import RunFolder
from repairkit.workflows.scoring import score_bench
from repairkit.workflows.settings import Settings
from repairkit.workflows.subject import Subject
from repairkit.workflows.verifying import Verified, prove_patch, sign_claim

_PROOF_IMAGES = 64
FAIRNESS_VALUE = "group_accuracy"
FAIRNESS_OBJECTIVE = "worst_group_accuracy"
_MUST_AGREE = (
    "groups",
    "preprocessing",
    "parts",
    "seed",
    "output",
    "columns",
    "threshold",
    "sites_at",
    "include",
    "absent",
)


@dataclass(frozen=True)
class PatchSettings:
    """What to freeze, and under which conditions.

    Attributes:
        remove: filters to freeze whatever they are worth; nothing is chosen.
        scores: a run folder whose values rank the candidates.
        fairness: rank by `group_accuracy`, choose by `worst_group_accuracy`.
        at_most: filters frozen together at the most.
        max_drop: overall accuracy that may be lost on the selection images, a share of them.
        score: how to score where no run is given.
    """

    remove: tuple[Filter, ...] = ()
    scores: Path | None = None
    fairness: bool = False
    at_most: int = 16
    max_drop: float = 0.01
    score: ScoreSettings = field(default_factory=lambda: ScoreSettings("repair"))

    def __post_init__(self) -> None:
        if not (self.remove or self.scores or self.fairness):
            raise SettingsError(
                "nothing says what to freeze; use --fairness, --scores RUN or --remove ID,..."
            )
        if self.remove and (self.scores or self.fairness):
            raise SettingsError("--remove names the filters itself; leave out the other choice")
        if self.at_most < 1 or not 0 <= self.max_drop <= 1:
            raise SettingsError("--at-most must be 1 or more and --max-drop lie in [0, 1]")


@dataclass(frozen=True)
class Patched:
    """A patch that was made, proven and written."""

    out: Path
    patch_file: Path
    report_file: Path
    patch: Patch
    verified: Verified
    trials: tuple[Trial, ...]
    promise: Figure | None
    objective: str
    before: Evaluation
    after: Evaluation
    change: dict[str, Figure]
    document: dict[str, Any]


@judging_the_model
def patch(
    subject: Subject,
    settings: Settings,
    how: PatchSettings,
    *,
    out: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> Patched:
    """Repair a model, or say why not and write nothing.

    Raises:
        TargetNotMetError: freezing nothing is best on the selection images.
        VerificationError: the result could not be proven; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    check_place(subject, settings, out)
    if how.fairness:
        if not settings.groups:
            raise SettingsError(
                "--fairness needs groups; name the columns with --group, or in repairkit.toml"
            )
        settings = replace(settings, metrics=(FAIRNESS_VALUE,))
    elif how.scores is not None:
        settings = replace(settings, metrics=tuple(RunFolder(how.scores).read_metrics()[:1]))
    bench = prepare(subject, settings)
    objective = FAIRNESS_OBJECTIVE if how.fairness else settings.metrics[0]
    scoring: dict[str, Any] | None = None
    trials: tuple[Trial, ...] = ()
    promise: Figure | None = None
    if how.remove:
        named = dict.fromkeys(how.remove)  # one named twice is frozen once
        players = np.array([bench.roster.column(f) for f in named], np.intp)
        chosen = make_patch(players, bench.roster, bench.means)
    else:
        scoring, values = _values(bench, how, on_progress)
        game = bench.game(bench.parts.selection, bench.metrics((objective,)))
        trials = tuple(try_patches(bench, game, values, objective, how.at_most))
        chosen, promise = choose_patch(bench, game, trials, objective, how.max_drop)
    return _finish(bench, chosen, how, trials, promise, objective, scoring, out)


def _values(
    bench: Bench, how: PatchSettings, on_progress: Callable[[Progress], None] | None
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """`run.json` and the value of every filter, from a run that is there or from a fresh one."""
    if how.scores is None:
        scored = score_bench(bench, how.score, on_progress=on_progress)
        return scored.document, scored.scores.values[:, 0]
    folder = RunFolder(how.scores)
    run = folder.read()
    if run["model"]["digest"] != bench.subject.file.digest:
        raise RunFolderError(
            f"{how.scores}: holds scores of another model ({run['model']['path']})"
        )
    if not run["finished"]:
        raise RunFolderError(f"{how.scores}: is not finished; go on with score --resume")
    _check_run(how.scores, run, bench)
    return run, folder.read_values(bench.roster)


def _check_run(path: Path, run: Mapping[str, Any], bench: Bench) -> None:
    """Scores must be about the images, levels and metric that this job is about.

    Otherwise the test images might have had a say, or another metric's ranking be followed.
    """
    if run["data"]["digest"] != bench.dataset.digest:
        raise RunFolderError(
            f"{path}: was scored on other data ({run['data']['path']}); score on the data that the "
            "patch is to be judged on"
        )
    settings, known = bench.settings, run["settings"]
    ours = {name: plain(getattr(settings, name)) for name in _MUST_AGREE}
    theirs = {name: known.get(name) for name in _MUST_AGREE}
    ours["metric"], theirs["metric"] = settings.metrics[0], known["metrics"][0]
    for name, value in ours.items():
        if theirs[name] != value:
            raise RunFolderError(
                f"{path}: was scored with {name} {theirs[name]!r}, and this job has {value!r}; "
                "give both the same"
            )


def _finish(
    bench: Bench,
    chosen: Patch,
    how: PatchSettings,
    trials: tuple[Trial, ...],
    promise: Figure | None,
    objective: str,
    scoring: dict[str, Any] | None,
    out: Path,
) -> Patched:
    """Bake, prove, judge once on the test part, and write."""
    draft, model = _bake(bench, chosen)
    calibration = bench.parts.calibration
    verified = prove_patch(
        bench.subject,
        bench.original,
        chosen,
        model,
        draft.edits,
        images=calibration.batch(np.arange(min(_PROOF_IMAGES, len(calibration)))),
    )
    evaluations = _judge(bench, model, objective)
    choice = {
        "how": "named" if how.remove else "fairness" if how.fairness else "scores",
        "scores": None if how.scores is None else str(how.scores),
        "at_most": how.at_most,
        "max_drop": how.max_drop,
        "promised_on_selection": None if promise is None else asdict(promise),
    }
    story = patch_story(bench, choice, trials, objective, scoring, evaluations, verified)
    file = replace(draft, result_digest=digest_of(model), story=story)
    patch_path, report_path = _write(bench, file, model, out)
    return Patched(
        out,
        patch_path,
        report_path,
        chosen,
        verified,
        trials,
        promise,
        objective,
        *evaluations,
        story,
    )


def _bake(bench: Bench, chosen: Patch) -> tuple[PatchFile, ModelProto]:
    """The patch file but for its result and story, and the model with its claim in it."""
    subject, settings = bench.subject, bench.settings
    baked = bake(subject.model, chosen, found=bench.original)
    draft = PatchFile(
        chosen,
        baked.edits,
        subject.file.digest,
        "",
        settings.sites_at,
        settings.include,
        subject.output,
        {},
        layout_of(subject.file),
    )
    write_claims(baked.model, [*read_claims(subject.model), sign_claim(draft.claim())])
    return draft, baked.model


def _write(bench: Bench, file: PatchFile, model: ModelProto, out: Path) -> tuple[Path, Path]:
    """The model comes last: where it lies, its patch file and report lie too."""
    subject = bench.subject
    patch_path, report_path = companions(out)
    write_patch_file(patch_path, file)
    report = {
        "schema": 1,
        "kind": "repairkit report",
        **file.story,
        "patch": file.claim(),
        "patch_digest": file.digest,
        "source": {"path": str(subject.file.path), "digest": subject.file.digest},
        "result": {"path": str(out), "digest": file.result_digest},
    }
    write_repair_report(bench, report, file.patch, report_path, out)
    write_model(model, out)
    return patch_path, report_path


def _judge(
    bench: Bench, patched: ModelProto, objective: str
) -> tuple[Evaluation, Evaluation, dict[str, Figure]]:
    """Figures before and after on the test part, and the paired difference."""
    suite, settings = bench.parts.test, bench.settings
    names = ["accuracy"] if bench.n_classes else []
    names += [objective] if objective not in names else []
    if settings.groups and bench.n_classes:
        names += [n for n in (FAIRNESS_OBJECTIVE, FAIRNESS_VALUE) if n not in names]
    metrics = bench.metrics(names)
    step = fixed_batch(bench.subject.model, bench.subject.input_name)
    if bench.batching.model is bench.subject.model:
        step = bench.batching.step
    runner = Runner(
        patched,
        bench.subject.input_name,
        step,
        outputs=(bench.subject.output,),
        device=settings.device,
    )
    outputs = (bench.run_plain(suite), run_suite(runner, suite, settings.batch_size))
    common: dict[str, Any] = {"form": bench.form, "seed": settings.seed}
    before, after = (
        evaluate(o, suite.annotations, metrics, suite=suite.name, **common) for o in outputs
    )
    change = difference(*outputs, suite.annotations, metrics, **common)
    return before, after, change
