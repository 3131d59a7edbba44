"""Add up values of several owners of data, from run folders alone (additivity).

V over all images is the mean of V over each owner's, weighted by how many images each metric
counts. Shapley values and semivalues are linear in V, so that v = sum_i w_i v_i, exactly. Errors of
different owners are independent: s^2 = sum_i w_i^2 s_i^2, and the same holds for the two arms of
normal intervals. Arms of intervals that hold by an inequality (Bernstein) add up as they are,
v +- sum_i w_i r_i, and their error probabilities with them (union bound).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import RunFolderError, SettingsError
from repairkit.core.filters import Filter
from repairkit.core.scores import Scores
from repairkit.engine.ort import versions
from repairkit.estimators.questions import Side, contested, settle_top_k
from repairkit.formats import run_file
from repairkit.formats.documents import finite_rows, outputs, to_json
from repairkit.formats.effects import Affects, key_of
from repairkit.formats.run_file import ScoreRow, scores_csv, scores_table
from repairkit.jobs.runs import claiming, run_document
from repairkit.notebook.values import ValueTable

By = Literal["images", "groups"]
Floats = NDArray[np.float64]
# The settings that must be the same: all but those of the data and of the search.
_COMMON = (Affects.FILTERS, Affects.FIGURE, Affects.ROSTER, Affects.ROUNDING)
# Samples of one and the same number, however they are drawn.
_SHAPLEY = {"exact", "permutation", "marginals", "tmab"}
FEWEST = 10
HOLDS = (
    "digests of model, data and means; settings; how many images and groups there are; V(all) and "
    "V(none); a value with its interval for every filter. No image, no name of one, no place of a "
    "file, and no figure of fewer than 10 images."
)
_SETTINGS = frozenset(run_file.RunSettings.__annotations__)


@dataclass(frozen=True, repr=False)
class Merged(ValueTable):
    """Values over the images of all owners, and what `run.json` says of them."""

    filters: tuple[Filter, ...]
    scores: Scores
    document: run_file.RunDocument

    def table(self) -> list[dict[str, Any]]:
        return scores_table(self.scores, self.filters)

    def to_json(self) -> dict[str, Any]:
        return {**self.document, "scores": finite_rows(self.table())}


def merge(
    paths: Sequence[Path],
    *,
    out: Path | None = None,
    by: By = "images",
    weights: Sequence[float] | None = None,
) -> Merged:
    """Values of the same model and metrics over all owners' images together.

    Args:
        paths: run folders, shared or not, or merged ones.
        out: a run folder for the result; nothing is written if None.
        by: how owners are weighted: by `images` that a metric counts, or by the `groups` that each
            owner holds whole, for metrics that are means over groups.
        weights: in place of those, one per run, positive; they are brought to a sum of one.

    Raises:
        SettingsError: the runs do not add up: another model, metric, method, absent level, or the
            same data; or no weight is known for a metric.
        RunFolderError: a folder cannot be read, is unfinished, or `out` holds something else.
    """
    if by not in get_args(By):
        raise SettingsError(f"runs are weighted by {' or '.join(get_args(By))}, not by {by!r}")
    runs = [read_owned(path) for path in paths]
    _check_alike(runs)
    shares = {name: _shares(runs, name, by, weights) for name in runs[0].metrics}
    ids = tuple(sorted(runs[0].rows))
    filters = tuple(Filter.parse(name) for name in ids)
    scores = _add(runs, ids, shares)
    document = _describe(runs, scores, shares, by if weights is None else "given weights")
    if out is not None:
        _check_place(out, runs)
        with claiming.locked(out), outputs(out) as drafts:
            drafts.write(out / "scores.csv", scores_csv(scores, filters).encode())
            drafts.write(out / "run.json", to_json(document).encode())
    return Merged(filters, scores, document)


def _check_alike(runs: Sequence[OwnedRun]) -> None:
    if len(runs) < 2:
        raise SettingsError("one run is nothing to merge; name two or more run folders")
    first = runs[0]
    for other in runs[1:]:
        fault = _difference(first, other)
        if fault:
            raise SettingsError(f"{other.path} and {first.path} do not add up: {fault}")
    seen: dict[str, OwnedRun] = {}
    for run in runs:
        for digest in run.data:
            if digest in seen:
                raise SettingsError(
                    f"{run.path} and {seen[digest].path} are about the same data (digest "
                    f"{digest[:12]}), which would count twice; name each owner once"
                )
            seen[digest] = run


def _difference(first: OwnedRun, other: OwnedRun) -> str:
    """Why values of two runs do not add up; empty where they do."""
    one, two = first.document, other.document
    if one["model"]["digest"] != two["model"]["digest"]:
        return "they are of different models; score one and the same file"
    if first.metrics != other.metrics:
        return f"their metrics are {', '.join(first.metrics)} and {', '.join(other.metrics)}"
    for setting in run_document.differing(
        run_document.settings_in(one), run_document.settings_in(two), *_COMMON, without=("means",)
    ):
        return f"they were scored with different {setting.name.replace('_', ' ')}"
    if one["settings"]["absent"] == "mean" and None in (one.get("means"), two.get("means")):
        return (
            "an absent filter yields each owner's own mean; compute common means with `repairkit "
            "means` and score with --means"
        )
    if one.get("means") != two.get("means"):
        return "absent filters yield different means; score with one and the same --means"
    if _kind(one) != _kind(two):
        return (
            f"their values are of different kinds ({one['settings']['method']} and "
            f"{two['settings']['method']}); use one --method with the same settings"
        )
    if first.rows.keys() != other.rows.keys():
        return "they score different filters"
    return ""


def _kind(document: run_file.RunDocument) -> str:
    """Which number the values of a run are estimates of."""
    settings = document["settings"]
    method, options = settings["method"], dict(settings["estimator"])
    if method == "random":
        raise SettingsError("random scores are about no data and cannot be merged")
    if method in _SHAPLEY and options.get("truncate_at") is None:
        return "Shapley"
    for name in ("top_k", "side", "epsilon", "delta", "round_rows", "batch_size"):
        options.pop(name, None)
    return json.dumps([method, options], sort_keys=True)


def _shares(runs: Sequence[OwnedRun], metric: str, by: By, given: Sequence[float] | None) -> Floats:
    """What share of V each run has, (n_runs,)."""
    if given is not None:
        if len(given) != len(runs) or not all(np.isfinite(w) and w > 0 for w in given):
            raise SettingsError(
                f"{len(given)} weights were given for {len(runs)} runs; give each run one, greater "
                "than zero"
            )
        counts = [float(weight) for weight in given]
    elif by == "groups":
        counts = _group_counts(runs)
    else:
        counts = [_count(run, metric) for run in runs]
    total = sum(counts)
    return np.array(counts) / total


def _count(run: OwnedRun, metric: str) -> float:
    count = run.document["counts"]["metrics"].get(metric)
    if count is None:
        raise SettingsError(
            f"{metric} is no mean in which every image counts the same, so that images do not "
            "weight it; score accuracy or 'group_accuracy:*' instead, use --by groups where every "
            "owner holds whole groups, or give --weights"
        )
    return float(count)


def _group_counts(runs: Sequence[OwnedRun]) -> list[float]:
    names = [list(run.document["counts"]["groups"]) for run in runs]
    for run, groups in zip(runs, names, strict=True):
        if not groups:
            raise SettingsError(f"{run.path}: was scored without groups; use --by images")
    everyone = [name for groups in names for name in groups]
    twice = sorted({name for name in everyone if everyone.count(name) > 1})
    if twice:
        raise SettingsError(
            f"group {twice[0]!r} has images in several runs, so that a mean over groups is no sum "
            "over owners; score 'group_accuracy:*' and merge that by images"
        )
    return [float(len(groups)) for groups in names]


def _add(runs: Sequence[OwnedRun], ids: tuple[str, ...], shares: Mapping[str, Floats]) -> Scores:
    steering, *others = runs[0].metrics

    def columns(name: str) -> Floats:
        return np.stack([run.column(name, ids) for run in runs])

    share = shares[steering][:, None]
    owned = columns("value")
    value = (share * owned).sum(axis=0)
    error = np.sqrt(((share * columns("std_error")) ** 2).sum(axis=0))
    arms = (share * (owned - columns("ci_low")), share * (columns("ci_high") - owned))
    confidences = [float(run.document["confidence"]) for run in runs]
    kinds = sorted({str(run.document["interval"]) for run in runs})
    if all("ormal" in kind or "Student" in kind or "exact" in kind for kind in kinds):
        low, high = (np.sqrt((arm**2).sum(axis=0)) for arm in arms)
        confidence, rule = min(confidences), "root of the sum of squared arms"
    else:
        low, high = (arm.sum(axis=0) for arm in arms)
        confidence, rule = max(1 - sum(1 - c for c in confidences), 0.0), "sum of arms, union bound"
    values = np.stack(
        [value, *((shares[m][:, None] * columns(f"value:{m}")).sum(axis=0) for m in others)],
        axis=1,
    )

    def alone(first: Floats, rest: float) -> Floats:
        return np.stack([first, *(np.full(len(ids), rest) for _ in others)], axis=1)

    ends = value - low, value + high
    joint = _joint(value, low, high, kinds, confidence)
    estimator = runs[0].document["settings"]["estimator"]
    side: Side = estimator.get("side") or "both"
    top_k = settle_top_k(estimator.get("top_k"), len(ids))
    floor, ceiling = ends if joint is None else (joint[:, 0], joint[:, 1])
    still_open = contested(floor, ceiling, value, top_k=top_k, side=side, epsilon=0.0)
    if all(kind.startswith("exact") for kind in kinds):
        still_open[:] = False  # exact values of all owners' images are exact values of these
    return Scores(
        metrics=tuple(runs[0].metrics),
        values=values,
        std_errors=alone(error, np.inf),
        ci_low=alone(ends[0], -np.inf),
        ci_high=alone(ends[1], np.inf),
        samples=columns("samples").sum(axis=0).astype(np.int64),
        decided=~still_open,
        confidence=confidence,
        interval=f"merged, {rule}, of: {'; '.join(kinds)}",
        efficient=all(run.document["adds_up"] for run in runs),
        joint=joint,
        errors_over="images" if all(run.over_images for run in runs) else "rows",
    )


def _joint(
    value: Floats, low: Floats, high: Floats, kinds: Sequence[str], confidence: float
) -> Floats | None:
    """Bounds for all filters together, (n_filters, 2); None where the owners' are for each alone.

    Args:
        value: of the filters, (n_filters,).
        low: how far the merged interval reaches down.
        high: how far it reaches up.
        kinds: of the owners' intervals, in words.
        confidence: of the merged interval.
    """
    wider = 1.0
    if any(kind.endswith("for each") for kind in kinds):
        return None
    if any("normal" in kind or "Student" in kind for kind in kinds):
        normal, error = NormalDist(), 1 - confidence
        wider = normal.inv_cdf(1 - error / 2 / len(value)) / normal.inv_cdf(1 - error / 2)
    return np.stack([value - wider * low, value + wider * high], axis=1)


def _check_place(out: Path, runs: Sequence[OwnedRun]) -> None:
    """The result may replace an earlier merge and nothing else."""
    if any(out.exists() and out.samefile(run.path) for run in runs):
        raise RunFolderError(f"{out}: is one of the runs; choose another place with -o")
    folder = run_file.RunFolder(out)
    if not out.exists() or folder.is_free():
        return
    if not folder.run_file.is_file() or "merged" not in folder.read():
        raise RunFolderError(f"{out}: exists and is no merged run; choose another place with -o")


def _describe(
    runs: Sequence[OwnedRun], scores: Scores, shares: Mapping[str, Floats], weighting: str
) -> run_file.RunDocument:
    """What `run.json` says of values that were added up with these shares, (n_runs,) by metric."""
    documents = [run.document for run in runs]
    of_parts = [document["parts"] for document in documents]
    digests = sorted(digest for run in runs for digest in run.data)
    shared: list[run_file.OwnersShare] = [
        {
            "data": list(run.data),
            "images": document["parts"]["selection"],
            "weights": {name: float(share[i]) for name, share in shares.items()},
        }
        for i, (run, document) in enumerate(zip(runs, documents, strict=True))
    ]
    first = documents[0]
    known = run_document.known_facts(scores, first["settings"]["seed"])
    document = {
        "schema": first["schema"],
        "kind": first["kind"],
        "versions": versions(),
        "key": key_of({"merged": shared, "of": sorted(d["key"] for d in documents)}),
        "model": {"path": first["model"]["path"], "digest": first["model"]["digest"]},
        "data": {
            "path": "",
            "digest": hashlib.sha256(" ".join(digests).encode()).hexdigest(),
            "n_images": sum(d["data"]["n_images"] for d in documents),
        },
        "settings": first["settings"],
        **({"means": first["means"]} if "means" in first else {}),
        "counts": _counts_of_all(documents),
        "merged": shared,
        "parts": {
            "how": f"{len(runs)} runs, weighted by {weighting}",
            "overlaps": [],
            "calibration": sum(parts["calibration"] for parts in of_parts),
            "selection": sum(parts["selection"] for parts in of_parts),
            "test": sum(parts["test"] for parts in of_parts),
        },
        "batching": first["batching"],
        "engine": first["engine"],
        "n_filters": len(scores.values),
        "n_sites": first["n_sites"],
        "notes": [],
        "measures": run_document.measures_in(first),
        "metrics": {
            name: {
                "all": _total(share, [d["metrics"][name]["all"] for d in documents]),
                "none": _total(share, [d["metrics"][name]["none"] for d in documents]),
            }
            for name, share in shares.items()
        },
        "finished": True,
        "decided": bool(scores.decided.all()),
        "n_undecided": int((~scores.decided).sum()),
        **({} if known is None else {"known": known}),
        "reason": f"merged from {len(runs)} runs",
        "confidence": scores.confidence,
        "interval": scores.interval,
        "adds_up": scores.efficient,
        "sum_of_values": float(scores.values[:, 0].sum()),
        "evaluations": sum(d["evaluations"] for d in documents),
        "image_passes": sum(d["image_passes"] for d in documents),
        "seconds": sum(d["seconds"] for d in documents),
    }
    return cast(run_file.RunDocument, document)


def _counts_of_all(documents: Sequence[run_file.RunDocument]) -> run_file.RunCounts:
    """Those of all owners together; None where a metric is no mean over images."""
    metrics: dict[str, int | None] = {}
    for name in documents[0]["metrics"]:
        counts = [d["counts"]["metrics"].get(name) for d in documents]
        known = [count for count in counts if count is not None]
        metrics[name] = sum(known) if len(known) == len(counts) else None
    groups: dict[str, int] = {}
    for document in documents:
        for name, count in document["counts"]["groups"].items():
            groups[name] = groups.get(name, 0) + count
    return {"metrics": metrics, "groups": groups}


def _total(share: Floats, values: list[float]) -> float:
    return float((share * np.array(values)).sum())


@dataclass(frozen=True)
class OwnedRun:
    """A finished run: `run.json`, and the rows of `scores.csv` by filter id."""

    path: Path
    document: run_file.RunDocument
    rows: Mapping[str, ScoreRow]

    @property
    def data(self) -> tuple[str, ...]:
        """The digests of all images that the values are about."""
        merged = self.document.get("merged")
        if merged:
            return tuple(digest for part in merged for digest in part["data"])
        return (self.document["data"]["digest"],)

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.document["metrics"])

    @property
    def over_images(self) -> bool:
        """Whether its errors hold for other images like these."""
        known = self.document.get("known")
        return known is not None and known.get("errors_over") == "images"

    def column(self, name: str, filters: tuple[str, ...]) -> Floats:
        """A column of `scores.csv`, (n_filters,).

        Raises:
            RunFolderError: it is missing or holds something else than numbers.
        """
        try:
            return np.array([self.rows[f].number(name) for f in filters])
        except KeyError as error:
            raise RunFolderError(
                f"{self.path / 'scores.csv'}: has no numbers in the column {name!r}; score anew"
            ) from error


def read_owned(path: Path) -> OwnedRun:
    """Read a run folder, shared or not.

    Raises:
        RunFolderError: it is unfinished, broken, of two image sizes, or of a version that recorded
            too little.
    """
    folder = run_file.RunFolder(path)
    document = folder.read()
    if not document["finished"]:
        raise RunFolderError(f"{path}: holds an unfinished run; go on with it first (--resume)")
    if "counts" not in document or not document["metrics"]:
        raise RunFolderError(
            f"{path}: does not say how many images its values are about; score the model again "
            "with this version"
        )
    if "score_size" in document:
        raise RunFolderError(
            f"{path}: holds values of two image sizes, which cannot be added up; score without "
            "--score-size"
        )
    return OwnedRun(path, document, {row.filter: row for row in folder.read_rows()})


def share(run: Path, out: Path) -> None:
    """Write a run folder that may leave its owner; see `HOLDS`.

    Raises:
        SettingsError: a metric counts so few images that its value would tell of single ones.
        RunFolderError: the run is unfinished, or `out` cannot be written.
    """
    owned = read_owned(run)
    check_shareable(owned.document)
    # What the record does not declare may tell more than `HOLDS` does.
    settings = {n: v for n, v in owned.document["settings"].items() if n in _SETTINGS}
    document = {
        **owned.document,
        "model": {**owned.document["model"], "path": ""},
        "data": {**owned.document["data"], "path": ""},
        "settings": settings,
        "parts": {**owned.document["parts"], "how": ""},
        "notes": [],
        "shared": HOLDS,
    }
    for name in ("statistics", "again", "curve", "rewards_collapse", "rows", "asked"):
        document.pop(name, None)
    check_share_place(out)
    with claiming.locked(out), outputs(out) as drafts:
        drafts.write(out / "scores.csv", run_file.RunFolder(run).scores_file.read_bytes())
        drafts.write(out / "run.json", to_json(document).encode())


def check_share_place(out: Path) -> None:
    """Check before any work: a shared folder may only replace an earlier shared folder.

    Raises:
        RunFolderError: something else is there.
    """
    if out.exists() and not (out.is_dir() and _is_ours(out)):
        raise RunFolderError(f"{out}: exists and was not written by --share; choose another place")


def check_shareable(document: run_file.RunDocument) -> None:
    """Refuse values that would reveal single images.

    Raises:
        SettingsError: a metric counts fewer than `FEWEST`.
    """
    counts = {**document["counts"]["groups"], **document["counts"]["metrics"]}
    counts["selection"] = document["parts"]["selection"]
    for name, count in counts.items():
        if count is not None and count < FEWEST:
            raise SettingsError(
                f"{name} counts {count} images, and values of fewer than {FEWEST} would tell of "
                "single ones; give more images, or leave out --share"
            )


def _is_ours(out: Path) -> bool:
    folder = run_file.RunFolder(out)
    if folder.is_free():
        return True
    return folder.run_file.is_file() and "shared" in folder.read()
