"""Slices of errors that nobody labelled: are they the hidden group, and does their repair reach it?

Networks and images are those of `shortcuts`: the packaged sample, a bright corner, stripes, and a
sound network, where there is no hidden group. For each seed some images are the selection part, and
fresh ones judge. The same repair is made twice: with the true column, and with `--group auto`,
which is not shown the column. Judged are the assignment of fresh images to the worst slice against
the true worst group (area under the ROC curve of the assignment), the accuracy of the true groups
after both repairs, and the accuracy of the slices themselves.

    python benchmarks/hidden_groups.py [--settings NAME ...] [--seeds 3] [--repairs NAME ...]
                                       [--table]

Rows lie in `.cache/hidden_groups`: what is there is not made anew. `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

import repairkit as kit
from benchmarks.shortcuts import CACHE, SETTINGS, Setting, sound
from repairkit.core.errors import TargetNotMetError
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings

ALL = {**SETTINGS, "sound": sound}
ROWS = CACHE / "hidden_groups"
N_SELECTION, MOST_FRESH = {"digits": 600}, 3_000
USUAL_SELECTION = 1_000
BAR_AUC, BAR_POINTS = 0.85, 3.0
N_RESAMPLES = 2_000
Right = NDArray[np.bool_]


def write_data(setting: Setting, seed: int, folder: Path) -> tuple[Path, NDArray[np.intp]]:
    """The selection part and the fresh images as an `.npz`; and which rows are fresh."""
    rng = np.random.default_rng([seed, 19])
    families = rng.permutation(np.unique(setting.family))
    wanted = N_SELECTION.get(setting.name, USUAL_SELECTION) / len(setting.family)
    chosen = np.isin(setting.family, families[: round(wanted * len(families))])
    fresh = np.sort(rng.permutation(np.flatnonzero(~chosen))[:MOST_FRESH])
    rows = np.concatenate([np.flatnonzero(chosen), fresh])
    split = np.where(chosen[rows], "selection", "test")
    path = folder / "images.npz"
    np.savez(path, x=setting.x[rows], y=setting.y[rows], group=setting.group[rows], split=split)
    return path, rows[split == "test"]


def right_answers(model: Path, setting: Setting, rows: NDArray[np.intp]) -> Right:
    """Whether a model is right on each of some images."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = setting.x[rows, None].astype(np.float32) / np.float32(setting.brightest)
    (scores,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(scores.argmax(axis=1) == setting.y[rows])


def by_group(right: Right, group: NDArray[np.str_]) -> dict[str, float]:
    """Accuracy by true group."""
    return {str(name): float(right[group == name].mean()) for name in np.unique(group)}


def interval(changes: NDArray[np.float64], seed: int) -> list[float]:
    """The 95 % percentile interval of a mean of paired differences."""
    rng = np.random.default_rng(seed)
    draws = changes[rng.integers(len(changes), size=(N_RESAMPLES, len(changes)))].mean(axis=1)
    return np.quantile(draws, [0.025, 0.975]).tolist()


def assignment(
    model: Path, data: Path, brightest: int, seed: int
) -> tuple[Any, dict[str, Any]] | str:
    """The slice of each fresh image, and what is told of the slices; or why there are none."""
    settings = Settings(
        data=data, groups=("auto",), seed=seed, preprocessing=Preprocessing(scale=1 / brightest)
    )
    try:
        bench = prepare(read_subject(model), settings)
    except TargetNotMetError as error:
        return str(error)
    assert bench.slices is not None
    return bench.parts.test.annotations.groups, dict(bench.slices)


def measure(name: str, seed: int, repair: str) -> dict[str, Any]:
    """One row: the same repair with the true column and with slices."""
    setting = ALL[name](seed)
    row: dict[str, Any] = {"setting": name, "seed": seed, "repair": repair}
    scale = f"1/{setting.brightest}"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data, fresh = write_data(setting, seed, folder)
        group, before = setting.group[fresh], right_answers(setting.model, setting, fresh)
        row["before"] = by_group(before, group)
        worst = min(row["before"], key=row["before"].__getitem__)
        found = assignment(setting.model, data, setting.brightest, seed)
        if isinstance(found, str):
            row["no_slices"] = found
        else:
            slice_of, row["slices"] = found[0], found[1]["slices"]
            for each in row["slices"]:
                del each["images"]
            inside, truth = slice_of == 0, group == worst
            if not truth.all():
                row["auc"] = float((inside[truth].mean() + (~inside)[~truth].mean()) / 2)
        after = {}
        for column in ("group", "auto"):
            if column == "group" and len(row["before"]) == 1:
                continue  # a sound network has no true column
            out = folder / f"{column}.onnx"
            try:
                done = kit.patch(
                    setting.model, data, out=out, fairness=True, groups=column, repair=repair,
                    scale=scale, seed=seed,
                )  # fmt: skip
            except TargetNotMetError as error:
                row[column] = {"declined": str(error)[:300]}
                after[column] = before
                continue
            after[column] = right_answers(out, setting, fresh)
            row[column] = {
                "after": by_group(after[column], group),
                "own_worst": done.change["worst_group_accuracy"].to_json(),
                "accuracy": done.change["accuracy"].to_json(),
                "n_changed": len(done.patch),
            }
    members = group == worst
    row["worst"] = worst
    if "group" in after:
        changes = after["auto"][members].astype(float) - after["group"][members]
        row["auto_less_labelled"] = [float(changes.mean()), *interval(changes, seed)]
    return row


def points(share: float) -> str:
    """A change in points."""
    return f"{100 * share:+.1f}"


def in_points(figure: list[float]) -> str:
    """A change in points, with its interval."""
    return f"{points(figure[0])} ({points(figure[1])} to {points(figure[2])})"


HEAD = (
    "setting", "seed", "repair", "AUC", "true worst group before", "labelled", "auto",
    "auto less labelled", "worst slice on fresh images",
)  # fmt: skip


def print_table(rows: list[dict[str, Any]]) -> None:
    """A row for each setting, seed and repair."""
    print(f"| {' | '.join(HEAD)} |")
    print("|---" * len(HEAD) + "|")
    for row in rows:
        worst = row["worst"]
        cells = [row["setting"], str(row["seed"]), row["repair"]]
        cells.append(f"{row['auc']:.3f}" if "auc" in row else "-")
        cells.append(f"{worst} {100 * row['before'][worst]:.1f} %")
        for column in ("group", "auto"):
            told = row.get(column)
            known = told is not None and "after" in told
            none = "-" if told is None else "declined"
            cells.append(f"{100 * told['after'][worst]:.1f} %" if known else none)
        less = row.get("auto_less_labelled")
        cells.append("-" if less is None else in_points(less))
        own = row["auto"].get("own_worst")
        ends = None if own is None else [own[key] for key in ("value", "ci_low", "ci_high")]
        cells.append("-" if ends is None else in_points(ends))
        print(f"| {' | '.join(cells)} |")
    sample = [row for row in rows if row["setting"] == "digits"]
    if sample:
        auc = min(row.get("auc", 0.0) for row in sample)
        less = min(row["auto_less_labelled"][0] for row in sample)
        print(f"sample: AUC at least {auc:.3f} (bar {BAR_AUC}), auto less labelled at least "
              f"{points(less)} points (bar -{BAR_POINTS:g})")  # fmt: skip


def main() -> None:
    """Measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--repairs", nargs="+", default=["freeze", "last-layer"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    ROWS.mkdir(parents=True, exist_ok=True)
    rows = []
    for repair in asked.repairs:
        for name in asked.settings:
            for seed in range(asked.seeds):
                path = ROWS / f"{name}-{seed}-{repair}.json"
                if not path.exists() and not asked.table:
                    path.write_text(json.dumps(measure(name, seed, repair)), encoding="utf-8")
                    print(path.name, flush=True)
                if path.exists():
                    rows.append(json.loads(path.read_text(encoding="utf-8")))
    print_table(rows)


if __name__ == "__main__":
    main()
