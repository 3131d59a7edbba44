"""Repairs for noise, blur, contrast, brightness and JPEG of a network that others trained.

ResNet-8 of MLPerf Tiny (`$REPAIRKIT_ZOO`, or ../shared/zoo) and 10,000 CIFAR-10 test images
that are JPEG copies. For each draw, some images with their spoiled copies are the selection part,
and fresh ones, with copies as well, judge: the corruption that is worst before, and all others.
Freezing, class biases and a refitted last layer are chosen for the worst corruption.

    python benchmarks/corruptions.py [--draws 3] [--images 300] [--fresh 1000] [--repairs NAME ...]
                                     [--table] [--real]

Rows lie in `.cache/corruptions`: what is there is not made anew. `--table` prints what is there.
`--real` compares the JPEG copies of the first 100 test images with the images that no JPEG touched,
and with generated copies of these.
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

sys.path.insert(0, str(Path(__file__).parent.parent))

import repairkit as kit
from benchmarks.real_repairs import DATA, NAME, ZOO
from repairkit.core.errors import TargetNotMetError
from repairkit.data.sources.corruptions import Corruption
from repairkit.metrics.evaluation import wilson

ROWS = Path(__file__).parent / ".cache" / "corruptions"
MODEL = ZOO / "models" / f"{NAME}.onnx"
LOSSLESS = "cifar10_eran100_lossless"
REPAIRS = ("freeze", "bias", "last-layer")


def measure(draw: int, repair: str, n_images: int, n_fresh: int) -> dict[str, Any]:
    """One row: a repair of the worst of the common corruptions, judged by fresh images."""
    with np.load(ZOO / "data" / f"{DATA}.npz") as stored:
        x, y = stored["x"], stored["y"].astype(np.int64)
    rows = np.random.default_rng([draw, 23]).permutation(len(y))[: n_images + n_fresh]
    split = np.repeat(["selection", "test"], [n_images, n_fresh])
    row: dict[str, Any] = {"draw": draw, "repair": repair, "n_images": n_images, "n_fresh": n_fresh}
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "images.npz"
        np.savez(data, x=x[rows], y=y[rows], split=split)
        try:
            done = kit.patch(
                MODEL, data, out=Path(place) / "repaired.onnx", fairness=True, repair=repair,
                groups="corruption", corruptions="common", seed=draw,
            )  # fmt: skip
        except TargetNotMetError as error:
            return {**row, "declined": str(error)[:400]}
    (column,) = done.document["fairness"]["columns"]
    return {
        **row,
        "worst": done.change["worst_group_accuracy"].to_json(),
        "worst_before": done.before.metrics["worst_group_accuracy"].to_json(),
        "worst_after": done.after.metrics["worst_group_accuracy"].to_json(),
        "accuracy": done.change["accuracy"].to_json(),
        "groups": {
            group["name"]: {key: group[key] for key in ("before", "after", "difference")}
            for group in column["groups"]
        },
        "n_frozen": len(done.patch),
    }


def in_points(figure: dict[str, float]) -> str:
    """A change in points, with its interval."""
    ends = f"{100 * figure['ci_low']:+.1f} to {100 * figure['ci_high']:+.1f}"
    return f"{100 * figure['value']:+.1f} ({ends})"


def print_table(rows: list[dict[str, Any]]) -> None:
    """A row for each repair and draw, then the corruptions one by one."""
    print(
        "| repair | draw | worst before | after | change | all images |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        if "declined" in row:
            print(f"| {row['repair']} | {row['draw']} | declined | | | |")
            continue
        before, after = (100 * row[f"worst_{when}"]["value"] for when in ("before", "after"))
        changes = f"{in_points(row['worst'])} | {in_points(row['accuracy'])}"
        print(f"| {row['repair']} | {row['draw']} | {before:.1f} % | {after:.1f} % | {changes} |")
    known = [row for row in rows if "groups" in row]
    names = list(known[0]["groups"]) if known else []
    for repair in dict.fromkeys(row["repair"] for row in known):
        print(f"\n{repair}, by corruption: before, and change of each draw")
        for name in names:
            of_group = [row["groups"][name] for row in known if row["repair"] == repair]
            before = ", ".join(f"{100 * one['before']['value']:.1f}" for one in of_group)
            print(f"  {name}: {before}; {', '.join(in_points(o['difference']) for o in of_group)}")


def compare_with_real() -> None:
    """Accuracy on images that no JPEG touched, on their real copies, and on generated ones."""
    with np.load(ZOO / "data" / f"{LOSSLESS}.npz") as stored:
        clean, labels = stored["x"], stored["y"].astype(np.int64)
    with np.load(ZOO / "data" / f"{DATA}.npz") as stored:
        every = stored["x"]
    flat = every.reshape(len(every), -1).astype(np.float32)
    twins = [int(((flat - image.ravel()) ** 2).sum(axis=1).argmin()) for image in clean]
    real = every[twins]
    away = np.abs(real.astype(float) - clean).mean()
    print(f"nearest copies: mean difference {away:.1f} of 255, {len(set(twins))} different")
    shown = {"lossless": clean, "real JPEG copies": real}
    for severity in range(1, 6):
        one = Corruption("jpeg_compression", severity)
        made = [one.spoil(image.astype(np.float32) / 255, k) for k, image in enumerate(clean)]
        shown[f"{one.name}:{severity}"] = np.rint(255 * np.stack(made)).astype(np.uint8)
    session = ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    for name, images in shown.items():
        (scores,) = session.run(None, {session.get_inputs()[0].name: images.astype(np.float32)})
        right = int((scores.argmax(axis=1) == labels).sum())
        low, high = wilson(right, len(labels))
        print(f"  {name}: {right} of {len(labels)} right ({100 * low:.0f} to {100 * high:.0f} %), "
              f"{np.abs(images.astype(float) - clean).mean():.1f} of 255 away")  # fmt: skip


def main() -> None:
    """Measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--fresh", type=int, default=1_000)
    parser.add_argument("--repairs", nargs="+", choices=REPAIRS, default=REPAIRS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--real", action="store_true")
    asked = parser.parse_args()
    if asked.real:
        compare_with_real()
        return
    ROWS.mkdir(parents=True, exist_ok=True)
    rows = []
    for repair in asked.repairs:
        for draw in range(asked.draws):
            path = ROWS / f"{repair}-{draw}-{asked.images}-{asked.fresh}.json"
            if not path.exists() and not asked.table:
                row = measure(draw, repair, asked.images, asked.fresh)
                path.write_text(json.dumps(row), encoding="utf-8")
                print(path.name, flush=True)
            if path.exists():
                rows.append(json.loads(path.read_text(encoding="utf-8")))
    print_table(rows)


if __name__ == "__main__":
    main()
