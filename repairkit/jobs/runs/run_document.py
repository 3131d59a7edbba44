"""`run.json`: what a result depends on, and the result; settings and parts compared and restored.

Which settings are recorded follows from what each says that it affects, see `formats.effects`. A
setting that an earlier version did not record had its usual value.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors
from repairkit.core.metric import MeasureFacts, Metric
from repairkit.core.scores import Budget, Scores, Spent
from repairkit.core.suite import Annotations
from repairkit.data.dataset import Dataset
from repairkit.data.given import Data
from repairkit.data.parts import PART_NAMES, PartPlan, Parts
from repairkit.data.preprocessing import Preprocessing
from repairkit.engine import ort, working
from repairkit.estimators.driving.driver import Estimation
from repairkit.estimators.known import expected_overlap, times_the_budget, what_is_known
from repairkit.formats import means_file, run_file
from repairkit.formats.effects import Affects, affecting, key_of, recorded, settings_of
from repairkit.graph.structure import find_rounding
from repairkit.jobs.runs.claiming import check_free
from repairkit.jobs.setup.workbench import Bench, Settings
from repairkit.metrics.catalogue import measure_of

OWN_MEANS = "means of the calibration part"
_SHARE = re.compile(r"[0-9]*\.?[0-9]+")
_DIGITS = 12  # of a digest
_BINS = 20
_LISTED = 10  # filters at the top, of which another seed's are predicted
_MOST_SETTLED = 100
_OVERLAP = 83  # keeps these draws apart from others of the seed
# What runs of earlier versions, which record no digest of their parts, made of open parts.
_EARLIER = {"calibration": 0.2, "selection": 0.4, "test": 0.4}


def plain(value: Any) -> Any:
    """A setting as JSON holds it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def told_settings(settings: Settings) -> dict[str, Any]:
    """The recorded settings of a job, in the order of `RunSettings`."""
    known, wanted = settings_of(Settings), recorded(Settings)
    values = {n: getattr(settings, n) for n in run_file.RunSettings.__annotations__ if n in wanted}
    return {
        name: dict(value) if isinstance(value, Mapping) else plain(value)
        for name, value in values.items()
        if value or not known[name].where_given
    }


@dataclass(frozen=True)
class SettingDifference:
    """A setting that differs between two runs, or between a run and a job, and both values."""

    name: str
    first: Any
    second: Any


def settings_in(run: run_file.RunDocument) -> dict[str, Any]:
    """The settings of a run that can be compared, with those that it did not record."""
    usual = told_settings(Settings())
    known = {name: run["settings"].get(name, usual.get(name)) for name in recorded(Settings)}
    return {**known, "means": _told_means(run["settings"]["absent"], run.get("means"))}


def settings_at(settings: Settings, common: means_file.CommonMeans | None) -> dict[str, Any]:
    """The settings of a job that can be compared, with its common means, if any."""
    known: dict[str, Any] = dict.fromkeys(recorded(Settings))
    means = _told_means(settings.absent, None if common is None else common.digest)
    return {**known, **told_settings(settings), "means": means}


def _told_means(absent: str, digest: str | None) -> str | None:
    if absent != "mean":
        return None
    return OWN_MEANS if digest is None else f"common means {digest[:_DIGITS]}"


def differing(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *affected: Affects,
    without: Collection[str] = (),
) -> list[SettingDifference]:
    """The settings that affect one of these and have different values.

    Args:
        first: from `settings_in` or `settings_at`.
        second: likewise.
        affected: what a setting must affect to be looked at.
        without: settings that the caller compares in another way.
    """
    return [
        SettingDifference(name, first[name], second[name])
        for name in affecting(Settings, *affected)
        if name in first
        and name not in without
        and _comparable(first[name]) != _comparable(second[name])
    ]


def _comparable(value: Any) -> Any:
    """A setting with shares as numbers: options give them as text, a settings file as numbers."""
    if isinstance(value, dict):
        return {name: _comparable(entry) for name, entry in value.items()}
    if isinstance(value, str) and _SHARE.fullmatch(value):
        return float(value)
    return value


def restored(run: run_file.RunDocument, *, data: Data, means: Path | None) -> Settings:
    """The settings that a run was scored with, except the precision of its coalitions.

    Args:
        run: what `run.json` says.
        data: the path of the data, or what lies in memory.
        means: the path of the common means; None if the run had none.
    """
    wanted = set(recorded(Settings)) - set(affecting(Settings, Affects.ROUNDING))
    known: dict[str, Any] = {n: value for n, value in run["settings"].items() if n in wanted}
    known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    known |= {
        "preprocessing": _preprocessing(run["settings"]["preprocessing"]),
        "parts": recorded_plan(run),
    }
    return Settings(**known, data=data, means=means)


def _preprocessing(known: Mapping[str, Any]) -> Preprocessing:
    names = {field.name for field in fields(Preprocessing)}
    values: dict[str, Any] = {name: v for name, v in known.items() if name in names}
    values |= {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
    return Preprocessing(**values)


def opening(
    bench: Bench, method: str, options: Mapping[str, Any], budget: Budget
) -> run_file.RunDocument:
    """`run.json` as it stands before anything is estimated."""
    settings = bench.settings
    values = told_settings(settings)
    asked = {
        "method": method,
        "estimator": dict(options),
        "budget": asdict(budget),
        **values,
    }
    model: run_file.ModelPlace = {
        "path": str(bench.subject.file.path),
        "digest": bench.subject.file.digest,
    }
    data: run_file.DataPlace = {
        "path": str(settings.data),
        "digest": bench.dataset.digest,
        "n_images": len(bench.dataset.annotations),
    }
    means = {} if bench.common is None else {"means": bench.common.digest}
    measures = told_measures(bench, bench.metric_names)
    key = key_of(
        {k: v for k, v in asked.items() if k != "budget"}
        | {"parts": keyed_parts(settings.parts, bench.parts, bench.dataset)}
        | {"model": model["digest"], "data": data["digest"]}
        | means
    )
    return cast(
        run_file.RunDocument,
        {
            "schema": run_file.SCHEMA,
            "kind": run_file.KIND,
            "versions": ort.versions(),
            "key": key,
            "model": model,
            "data": data,
            "settings": asked,
            **means,
            "counts": counts(bench),
            "parts": told_parts(bench.parts),
            "batching": bench.batching.summary,
            "agreement": _agreement(bench),
            "engine": "none",
            "n_filters": len(bench.roster),
            **bench.roster.unit,
            **bench.subject.told_layers,
            "n_sites": len(bench.roster.sites),
            "less_is_better": less_is_better(measures),
            "measures": measures,
            "read": bench.reading,
            **_told_size(bench),
            "notes": list(bench.notes),
            "metrics": {},
            "finished": False,
        },
    )


def _told_size(bench: Bench) -> dict[str, Any]:
    """The entry `score_size`, before anything is measured at full size; empty for one size."""
    if bench.full_size is None:
        return {}
    size, full = bench.image_size, bench.full_size.image_size
    return {"score_size": {"size": list(size or ()), "full": list(full or ()), "filters": []}}


def _agreement(bench: Bench) -> str:
    """How closely answers agree with those of one image at a time; proven before they are used."""
    if ort.choose_device(bench.settings.device) != "cpu" or bench.settings.half:
        return "within the tolerance of the device and the precision"
    return working.stated_agreement(
        find_rounding(bench.working.survey.index, (bench.subject.output,))
    )


def told_measures(bench: Bench, names: Iterable[str]) -> dict[str, MeasureFacts]:
    """How figures of these metrics are to be understood, by name; see `Measure.to_json`."""
    wanted = list(names)
    if not wanted:  # nothing was judged, and there may be no images to fit a metric to
        return {}
    metrics = zip(wanted, bench.metrics(wanted), strict=True)
    return {name: metric.measure.to_json() for name, metric in metrics}


def measures_in(run: run_file.RunDocument) -> dict[str, MeasureFacts]:
    """The measures of a run; if an older version wrote it, they follow from the metrics' names."""
    lessened, known = run.get("less_is_better", []), run.get("measures", {})
    measures = {}
    for name in (*run["settings"]["metrics"], *run["metrics"]):
        measure = measure_of(name)
        more = measure.greater_is_better and name not in lessened
        measures[name] = replace(measure, greater_is_better=more).to_json()
    return measures | known


def less_is_better(measures: Mapping[str, MeasureFacts]) -> list[str]:
    """The metrics of which less is better: a filter with a positive value harms them."""
    return [name for name, measure in measures.items() if not measure["greater_is_better"]]


def counts(bench: Bench) -> run_file.RunCounts:
    """See `counts_of`, of the selection part."""
    return counts_of(bench.metrics(bench.metric_names), bench.parts.selection.annotations)


def counts_of(metrics: Iterable[Metric], annotations: Annotations) -> run_file.RunCounts:
    """How many images the values of each metric are computed on, so that they can be merged.

    None for a metric that is not a mean over these images, each counting the same.
    """
    counted: dict[str, int | None] = {}
    for metric in metrics:
        weights = metric.weights(annotations)
        counting = weights[weights > 0]
        even = (
            metric.per_image
            and len(counting) > 0
            and bool(np.ptp(counting) <= 1e-9 * counting.max())
        )
        counted[metric.name] = len(counting) if even else None
    groups, names = annotations.groups, annotations.group_names
    sizes = [] if groups is None else np.bincount(groups, minlength=len(names)).tolist()
    by_group = {name: n for name, n in zip(names, sizes, strict=False) if n}
    return {"metrics": counted, "groups": by_group}


def claim(folder: run_file.RunFolder, run: run_file.RunDocument, *, resume: bool) -> None:
    """Check that the folder is free for a run, or holds it already.

    Args:
        folder: where the run is to go.
        run: its `run.json` as it stands before anything is estimated.
        resume: whether an unfinished run may be there.

    Raises:
        RunFolderError: it holds another model's run, an unfinished run that was not asked to be
            resumed, something else altogether, or nothing to resume.
    """
    check_free(folder, resume=resume)
    known = read_earlier(folder)
    if known is None:
        return
    if known["model"]["digest"] != run["model"]["digest"]:
        raise errors.RunFolderError(
            f"{folder.path}: holds a run of another model ({known['model']['path']}); choose "
            "another place with -o"
        )
    if known["key"] != run["key"] and are_other_parts(known, run):
        raise errors.RunFolderError(
            f"{folder.path}: holds a run with other parts ({parts_in_words(known)}); repeat them"
            f"{options_in_words(known)}; or choose another place with -o"
        )
    if known["key"] != run["key"]:
        raise errors.RunFolderError(
            f"{folder.path}: holds a run with other settings or data; repeat its settings (see "
            "run.json), or choose another place with -o"
        )
    if not resume and not known["finished"]:
        raise errors.RunFolderError(
            f"{folder.path}: holds an unfinished run; go on with --resume, or choose another "
            "place with -o"
        )


def read_earlier(folder: run_file.RunFolder) -> run_file.RunDocument | None:
    """The run in the folder, finished or not; None if there is none."""
    return folder.read() if folder.run_file.is_file() else None


def check_values(folder: run_file.RunFolder, ends: Mapping[str, Any]) -> None:
    """Check that the run in the folder had the same V(all) and V(none).

    Raises:
        RunFolderError: the metric, the runtime or the device now gives other figures.
    """
    known = read_earlier(folder)
    if known is not None and known["metrics"] != ends:
        raise errors.RunFolderError(
            f"{folder.path}: holds a run in which V(all) and V(none) were {known['metrics']} and "
            f"not {dict(ends)}: the metric, the runtime or the device has changed; choose another "
            "place with -o"
        )


def starts_anew(folder: run_file.RunFolder, run: run_file.RunDocument) -> bool:
    """Whether the run in the folder was finished by another method, or on fewer images.

    This happens if its limits were different. It cannot be continued: its checkpoint is removed.
    """
    known = read_earlier(folder)
    if known is None or not known["finished"] or "taken" not in known:
        return False
    if known["taken"] == run.get("taken") and known.get("scored_on") == run.get("scored_on"):
        return False
    folder.checkpoint.unlink(missing_ok=True)
    return True


def known_facts(scores: Scores, seed: int) -> run_file.KnownFacts | None:
    """What the scores say for all filters together; None where they hold for each alone."""
    known = what_is_known(scores)
    if known is None:
        return None
    top_k = min(_LISTED, len(scores.values))
    rng = np.random.default_rng([seed, _OVERLAP])
    noise = scores.std_errors[:, 0] if scores.noise is None else scores.noise
    return {
        "confidence": scores.confidence,
        "above": known.above,
        "below": known.below,
        "settled_highest": [k for k in known.settled_highest if k <= _MOST_SETTLED],
        "settled_lowest": [k for k in known.settled_lowest if k <= _MOST_SETTLED],
        "top_k": top_k,
        "expected_overlap": round(expected_overlap(scores.values[:, 0], noise, top_k, rng), 2),
        "times_the_budget": times_the_budget(scores, top_k),
        "errors_over": scores.errors_over,
    }


def conclude(document: run_file.RunDocument, estimation: Estimation, scores: Scores) -> None:
    """Add the results of the estimation to the opening."""
    spent = estimation.spent
    known = known_facts(scores, document["settings"]["seed"])
    if known is not None:
        document["known"] = known
    document["finished"] = True
    document["decided"] = bool(scores.decided.all())
    document["n_undecided"] = int((~scores.decided).sum())
    document["reason"] = estimation.reason
    document["confidence"] = scores.confidence
    document["interval"] = scores.interval
    document["adds_up"] = scores.efficient
    document["sum_of_values"] = float(scores.values[:, 0].sum())
    _tell_spent(document, spent)
    document["statistics"] = dict(estimation.statistics)


def tell_unfinished(document: run_file.RunDocument, spent: Spent, why: str) -> None:
    """Record that a run was stopped and saved."""
    document["finished"] = False
    document["reason"] = f"unfinished: {why}; go on with --resume"
    _tell_spent(document, spent)


def _tell_spent(document: run_file.RunDocument, spent: Spent) -> None:
    document["evaluations"] = spent.evaluations
    document["image_passes"] = spent.image_passes
    document["rounds"] = spent.rounds
    document["seconds"] = round(spent.seconds, 3)


def told_on_request(estimation: Estimation, document: run_file.RunDocument) -> dict[str, Any]:
    """Details on request: those of the run, the samples per filter and the bias of truncation."""
    details = {**estimation.details, "samples": sample_histogram(estimation.scores.samples)}
    cuts = details.get("truncation", {})
    if cuts.get("truncated_walks"):
        share = cuts["truncated_walks"] / cuts["walks"]
        # The sum of all values falls short by what is left at the cut.
        cuts["bias"] = {
            name: share * (at_cut - document["metrics"][name]["none"])
            for name, at_cut in cuts["mean_value_at_cut"].items()
            if name in document["metrics"]
        }
    return details


def told_parts(parts: Parts) -> run_file.RunParts:
    """The entry `parts`: one sentence, which parts share images, and how many images each holds."""
    return {
        "how": parts.summary,
        "overlaps": [list(pair) for pair in parts.overlaps],
        "digest": parts.digest,
        "calibration": len(parts.calibration),
        "selection": len(parts.selection),
        "test": len(parts.test),
    }


def keyed_parts(plan: PartPlan, parts: Parts, dataset: Dataset) -> dict[str, str | float | None]:
    """The parts as the key of a run holds them.

    Keys of earlier versions hold None for a part that was left open. So a run of an earlier version
    resumes only if its shares are given explicitly.
    """
    splits = set() if dataset.split is None else set(dataset.split.tolist())
    keyed: dict[str, str | float | None] = {}
    for name, wish in asdict(plan).items():
        if name in parts.left_open:
            keyed[name] = "left open"
        else:
            earlier = name not in splits and str(wish).strip() == str(_EARLIER[name])
            keyed[name] = None if earlier else wish
    return keyed


def recorded_plan(run: run_file.RunDocument) -> PartPlan:
    """The plan that makes the parts of a run again, for a run of any version."""
    known, recorded = run["settings"].get("parts") or {}, run["parts"]
    plan = {name: known.get(name) for name in PART_NAMES}
    if not recorded.get("digest"):
        for name, share in _EARLIER.items():
            if plan[name] is None and f"{name}: a share of {share:g}" in str(recorded.get("how")):
                plan[name] = share
    return PartPlan(**plan)


def same_parts(run: run_file.RunDocument, plan: PartPlan, parts: Parts) -> bool:
    """Whether a run on the same data had the same images in each part as a job of this plan has."""
    theirs, ours = run["parts"], told_parts(parts)
    if theirs.get("digest"):
        return theirs["digest"] == ours["digest"]
    if theirs.get("how"):
        return theirs["how"] == ours["how"]
    counts = [theirs.get(name) for name in PART_NAMES] == [ours.get(name) for name in PART_NAMES]
    return counts and bool(run["settings"].get("parts") == asdict(plan))


def are_other_parts(run: run_file.RunDocument, other: run_file.RunDocument) -> bool:
    """Whether two runs on the same data record that their parts hold different images."""
    same_data = run["data"]["digest"] == other["data"]["digest"]
    same_seed = run["settings"].get("seed") == other["settings"].get("seed")
    one, two = run["parts"].get("how"), other["parts"].get("how")
    return bool(same_data and same_seed and one and two and one != two)


def parts_in_words(run: run_file.RunDocument) -> str:
    """How the parts of a run were made."""
    return str(run["parts"].get("how") or run["settings"].get("parts")).rstrip(".")


def options_in_words(run: run_file.RunDocument) -> str:
    """`: OPTIONS are the run's`, the options that give its parts again."""
    plan = asdict(recorded_plan(run))
    given = " ".join(f"--{name} {wish}" for name, wish in plan.items() if wish is not None)
    return f": {given} are the run's" if given else ": the run was made without options for parts"


def sample_histogram(counts: NDArray[np.int64]) -> dict[str, list[int]]:
    """How many filters were sampled how often; counts are (n_filters,)."""
    edges = np.unique(np.linspace(counts.min(), counts.max() + 1, _BINS + 1).astype(int))
    return {"edges": edges.tolist(), "filters": np.histogram(counts, edges)[0].tolist()}
