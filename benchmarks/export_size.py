"""How long `repairkit export` takes for large models, by stage, and for a small one by both ways.

SqueezeNet 1.0 has torchvision's architecture and initial weights, Inception-v3 that of Keras. The
bars: proof and mapping of SqueezeNet in under 3 minutes and of Inception-v3 in under 10, on two
cores. Seconds are of the wall and of all processors; on a busy machine only the latter compare.

    python benchmarks/export_size.py
    python benchmarks/export_size.py squeezenet1.0-64 small
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.networks import Branches, build
from repairkit.core.framework import FrameworkModel
from repairkit.core.process.stages import listening
from repairkit.core.results import Exported
from repairkit.jobs.export import group_proof
from repairkit.jobs.export.exporting import export
from repairkit.jobs.setup.workbench import Settings
from repairkit_adapters import keras_models, pytorch

PREPARING = ("exporting", "opening the model", "comparing outputs")


def squeezenet10() -> nn.Module:
    """SqueezeNet 1.0: 2,976 filters in 25 convolutions, and one that makes the output."""

    def fire(n_in: int, squeeze: int, expand: int) -> nn.Module:
        ways = (
            nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU()),
        )
        return nn.Sequential(nn.Conv2d(n_in, squeeze, 1), nn.ReLU(), Branches(*ways))

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 96, 7, 2), nn.ReLU(), pool(), fire(96, 16, 64), fire(128, 16, 64),
        fire(128, 32, 128), pool(), fire(256, 32, 128), fire(256, 48, 192), fire(384, 48, 192),
        fire(384, 64, 256), pool(), fire(512, 64, 256), nn.Dropout(), nn.Conv2d(512, 1000, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(network[-4].weight, 0.0, 0.01)
    return network.eval()


def small() -> nn.Module:
    """64 filters in three convolutions."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 16), (16, 24), (24, 24)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
    return network.eval()


def keras_inception(side: int) -> FrameworkModel:
    """Keras's own Inception-v3, with its initial weights."""
    import keras

    keras.utils.set_random_seed(0)
    network = keras.applications.InceptionV3(weights=None, input_shape=(side, side, 3))
    return keras_models.wrap(network)


MODELS: dict[str, tuple[Callable[[], FrameworkModel], int]] = {
    "squeezenet1.0-64": (lambda: pytorch.wrap(squeezenet10(), (3, 64, 64)), 180),
    "squeezenet1.0-224": (lambda: pytorch.wrap(squeezenet10(), (3, 224, 224)), 180),
    "inception_v3-299": (lambda: pytorch.wrap(build("inception_v3"), (3, 299, 299)), 600),
    "keras-inception_v3-75": (lambda: keras_inception(75), 600),
    "keras-inception_v3-299": (lambda: keras_inception(299), 600),
}
"""What loads a model, and the bar of its proof and mapping in seconds."""


@dataclass
class Timings:
    """A listener that adds up the seconds of outermost stages, of the wall and of processors."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    first_told: float | None = None
    _open: list[tuple[str, float, float]] = field(default_factory=list)

    def begin(self, name: str, total: int | None, unit: str) -> None:
        del total, unit
        self._open.append((name, time.perf_counter(), time.process_time()))

    def advance(self, done: int) -> None:
        name, began, _ = self._open[-1]
        if name == "mapping" and done and self.first_told is None:
            self.first_told = time.perf_counter() - began

    def end(self) -> None:
        name, wall, processors = self._open.pop()
        if not self._open:
            spent = self.seconds.setdefault(name, [0.0, 0.0])
            spent[0] += time.perf_counter() - wall
            spent[1] += time.process_time() - processors


def measured(model: FrameworkModel, out: Path, *, one_by_one: bool) -> tuple[Exported, Timings]:
    """Export a model on noise, and time its stages."""
    timings = Timings()
    began, processors = time.perf_counter(), time.process_time()
    with listening(timings):
        done = export(model, out, settings=Settings(), one_by_one=one_by_one)
    spent = [time.perf_counter() - began, time.process_time() - processors]
    for each in list(timings.seconds.values()):
        spent = [spent[0] - each[0], spent[1] - each[1]]
    timings.seconds["between stages"] = spent
    return done, timings


def describe(name: str, done: Exported, timings: Timings, bar: int | None) -> None:
    """Print the seconds of each stage, what was proven, and the bar."""
    print(f"\n{name}: {done.n_proven} of {done.n_filters} filters proven, ", end="")
    print(f"{done.layers.n_one_by_one} of them one by one")
    if done.layers.groups is not None:
        groups = done.layers.groups
        print(
            f"  {groups.n_groups} groups; {groups.n_seen} of {groups.n_swaps} swaps seen: "
            f"at least {groups.share_seen:.1%} with 95% confidence"
        )
    for stage, (wall, processors) in timings.seconds.items():
        print(f"  {stage:<28}{wall:9.1f} s {processors:9.1f} s of processors")
    wall, processors = (
        sum(each[i] for stage, each in timings.seconds.items() if stage not in PREPARING)
        for i in range(2)
    )
    verdict = ""
    if bar is not None:
        # A process that waits for others takes no seconds of processors meanwhile.
        busy = "kept by the seconds of processors; the machine was busy"
        verdict = "kept" if wall < bar else busy if processors < bar else "NOT kept"
        verdict = f"; bar {bar} s: {verdict}"
    print(f"  {'proof and mapping':<28}{wall:9.1f} s {processors:9.1f} s of processors{verdict}")
    if timings.first_told is not None:
        print(f"  first filters told after {timings.first_told:.1f} s of mapping")


def compare_ways(out: Path) -> None:
    """Both ways on one small model, side by side."""
    model = pytorch.wrap(small(), (3, 32, 32))
    done, timings = measured(model, out, one_by_one=True)
    describe("small, one by one", done, timings, None)
    before = group_proof.MOST_WORK
    group_proof.MOST_WORK = 0.0
    try:
        in_groups, faster = measured(model, out, one_by_one=False)
    finally:
        group_proof.MOST_WORK = before
    describe("small, in groups", in_groups, faster, None)
    same = [m.unproven for m in done.layers.layers] == [m.unproven for m in in_groups.layers.layers]
    passes = {
        "one by one": done.n_filters,
        "in groups": in_groups.layers.n_one_by_one
        + (in_groups.layers.groups.n_groups if in_groups.layers.groups else 0),
    }
    print(f"\nframework's passes: {passes}; the same filters proven: {same}")


def main() -> None:
    """Measure the named models, or all."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*MODELS, "small"])
    parser.add_argument("--one-by-one", action="store_true", help="the old way")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        for name in asked.names:
            if name == "small":
                compare_ways(out)
                continue
            load, bar = MODELS[name]
            done, timings = measured(load(), out, one_by_one=asked.one_by_one)
            describe(name, done, timings, bar)


if __name__ == "__main__":
    main()
