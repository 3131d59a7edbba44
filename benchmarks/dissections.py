"""Do filters of high value carry concepts more often than others of their layers?

Scores the accuracy of each network (method `auto`), dissects it on drawn concepts and on its
classes, and compares the two. resnet8 is MLPerf Tiny's ResNet-8 on CIFAR-10, of the zoo
(`$REPAIRKIT_ZOO`, or ../shared/zoo). The others are trained here: fashion and digits are
network-1000 and network-130 of benchmarks/trained.py, squeezenet is the full one of
benchmarks/squeezenets.py. `--random N` measures how often layers of random weights get a name, by
drawn concepts and by CIFAR-10's classes.
`--json FILE` keeps what was found, and `-o PLOT.svg` draws it; `--drawn FILE` draws what an earlier
run kept.

    python benchmarks/dissections.py resnet8 fashion --random 20 --json FILE -o PLOT.svg
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import onnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

import repairkit
from benchmarks import plots, squeezenets, trained
from repairkit.api import ValuedConcepts
from repairkit.cli.concept_tables import print_dissected, print_valued
from repairkit.concepts.generated_set import draw_concepts
from tests import concept_nets

Row = dict[str, Any]
_COLOURS = {"mask": "#3f8fd6", "image": "#d6803f"}
_MEASURES = {"detects": "share that detects", "score": "mean IoU or AUC"}


def resnet8() -> tuple[Path, Any, dict[str, Any]]:
    """The model, its images, and how they are prepared."""
    with np.load(trained.ZOO / "data" / "cifar10_jpeg_test10k.npz") as stored:
        images = stored["x"], stored["y"]
    return trained.ZOO / "models" / "mlperf_resnet8.onnx", images, {}


def fashion() -> tuple[Path, Any, dict[str, Any]]:
    """The model, its images, and how they are prepared."""
    made = trained.make("network-1000")
    return made.model, made.data, {"scale": "1/255"}


def digits() -> tuple[Path, Any, dict[str, Any]]:
    """The model, its images, and how they are prepared."""
    made = trained.make("network-130")
    return made.model, made.data, {"scale": "1/16"}


def squeezenet() -> tuple[Path, Any, dict[str, Any]]:
    """The model, its images, and how they are prepared."""
    made = squeezenets.make("full")
    return made.model, made.data, {"scale": "1/255"}


NETWORKS = {"resnet8": resnet8, "fashion": fashion, "digits": digits, "squeezenet": squeezenet}


def answer(name: str, seconds: float, copies: int, kept: Path | None) -> Row:
    """The answer for one network; its run folder is taken from `kept`, or left there."""
    model, data, words = NETWORKS[name]()
    with tempfile.TemporaryDirectory() as folder:
        run, out = (kept or Path(folder)) / name, Path(folder) / "dissection"
        began = time.process_time()
        if not (run / "scores.csv").exists():
            budget: Any = {"time_limit": seconds, "curve": False, "workers": 1}
            repairkit.score(model, data, out=run, **budget, **words)
        scored = time.process_time()
        done = repairkit.dissect(model, data, out=out, copies=copies, **words)
        dissected = time.process_time()
        found = repairkit.compare_concepts(run, out)
    print(f"\n== {name}: {scored - began:.0f} CPU s to score, {dissected - scored:.0f} to dissect")
    print_dissected(done.document)
    print_valued(found.to_json())
    return {"name": name, **_kept(found), "layers": done.document["layers"]}


def _kept(found: ValuedConcepts) -> Row:
    document = found.to_json()
    return {name: document[name] for name in ("noise", "kinds", "notes")}


def some_classes(seed: int, n: int = 800) -> dict[str, Any]:
    """Images of CIFAR-10 whose classes are a column, for models of three classes."""
    _, (x, y), _ = resnet8()
    picked = np.random.default_rng(seed).choice(len(x), n, replace=False)
    things = np.array([f"class {label}" for label in y[picked]])
    return {"x": x[picked], "y": y[picked] % 3, "thing": things}


def false_names(kind: str, n: int, widths: tuple[int, ...] = (16, 16), side: int = 5) -> Row:
    """How often filters and layers of networks of random weights are named.

    Args:
        kind: `mask`, by drawn concepts; or `image`, by classes.
        n: networks.
        widths: of their layers.
        side: of their kernels.
    """
    named, layers, detect, filters = 0, 0, 0, 0
    more: Any = {"blocks": 8} if kind == "mask" else {"blocks": 4, "accept_preprocessing": True}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(n):
            path = Path(folder) / "model.onnx"
            onnx.save(concept_nets.random_network(seed, widths, side), path)
            data = None if kind == "mask" else some_classes(seed)
            document = repairkit.dissect(path, data, seed=seed, **more).document
            judged: list[Any] = [each[kind] for each in document["filters"]]  # type: ignore[literal-required]
            by_layer = Counter(
                each["site"]
                for each, one in zip(document["filters"], judged, strict=True)
                if one is not None and one["named"]
            )
            named += sum(by_layer.values())
            layers += len(by_layer)
            detect += sum(one is not None and one["detects"] for one in judged)
            filters += len(judged)
    n_layers = n * len(widths)
    print(
        f"\n== {n} networks of random weights, {side} x {side} kernels, by "
        f"{'drawn concepts' if kind == 'mask' else 'classes'}: {layers} of {n_layers} "
        f"layers have a named filter ({layers / n_layers:.1%}, stated 5 %); {named} of {filters} "
        f"filters are named, and {detect} detect ({detect / filters:.1%})"
    )
    return {
        "n_layers": n_layers, "layers": layers, "filters": filters, "named": named,
        "detect": detect, "side": side, "kind": kind,
    }  # fmt: skip


def draw(rows: list[Row]) -> Figure:
    """Differences between filters of extreme value and others, with what chance gives."""
    with mpl.rc_context(plots._SETTINGS):
        figure = Figure(figsize=(7.2, 0.9 + 0.55 * len(rows) * 2))
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (measure, words) in zip(panels, _MEASURES.items(), strict=True):
            _draw_panel(panel, rows, measure)
            panel.set_xlabel(f"{words}, less others")
        panels[0].legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=2, handlelength=1.2)
        figure.tight_layout()
    return figure


def _entries(rows: list[Row]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for row in rows:
        for group in ("highest", "lowest"):
            for kind in row["kinds"]:
                yield (
                    f"{row['name']}: {group} values",
                    kind["kind"],
                    {g["measure"]: g for g in kind["groups"] if g["group"] == group},
                )


def _draw_panel(panel: Axes, rows: list[Row], measure: str) -> None:
    names = list(dict.fromkeys(name for name, _, _ in _entries(rows)))
    seen: set[str] = set()
    for name, kind, groups in _entries(rows):
        each, colour = groups[measure], _COLOURS[kind]
        place = names.index(name) + (-0.15 if kind == "mask" else 0.15)
        if each["difference"] is None:
            continue
        panel.plot(
            [each["chance_low"], each["chance_high"]], [place, place], color=colour, alpha=0.35,
            linewidth=6, solid_capstyle="butt",
        )  # fmt: skip
        label = {"mask": "concepts with masks", "image": "classes"}[kind]
        panel.plot(
            [each["difference"]], [place], "o", color=colour, markersize=4.5,
            label=None if label in seen else label,
        )  # fmt: skip
        seen.add(label)
    panel.axvline(0, color=plots._INK, linewidth=0.8, linestyle=":")
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="x")


def sheet(path: Path, side: int = 48, across: int = 13) -> None:
    """Draw one image of every concept, in the order of the table of concepts."""
    drawn = draw_concepts((side, side), 3, blocks=1, seed=0)
    n = len(drawn.pixels)
    whole = np.full((-(-n // across) * (side + 2), across * (side + 2), 3), 255, np.uint8)
    for number, pixels in enumerate(drawn.pixels):
        row, column = (side + 2) * (number // across), (side + 2) * (number % across)
        whole[row : row + side, column : column + side] = pixels
    Image.fromarray(whole).save(path, optimize=True)


def main() -> None:
    """Read the options, answer, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--runs", type=Path, help="run folders to keep, or to begin from")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--drawn", type=Path)
    parser.add_argument("--sheet", type=Path, help="draw the concepts themselves into a PNG")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    rows = [] if options.drawn is None else json.loads(options.drawn.read_text())["rows"]
    rows += [
        answer(name, options.seconds, options.copies, options.runs) for name in options.networks
    ]
    random = []
    for kind, side in (("mask", 3), ("mask", 5), ("image", 3)) if options.random else ():
        random.append(false_names(kind, options.random, side=side))
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows, "random": random}, indent=1) + "\n")
    if options.sheet is not None:
        sheet(options.sheet)
    if options.out is not None:
        with mpl.rc_context(plots._SETTINGS):
            draw(rows).savefig(options.out, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
