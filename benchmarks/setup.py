"""CPU seconds and sessions before the first round, on Inception-v3's 17,216 filters.

Every stage of a scoring is timed by the names that the jobs themselves tell. Weights and images are
noise from a seed. Needs PyTorch, to write the model.

    python benchmarks/setup.py [--side 299] [--images 48] [--model FILE.onnx --data FILE.npz]
    python benchmarks/setup.py --remove   # what `patch --remove` of one filter opens
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from repairkit.core.filters import Filter
from repairkit.core.process.stages import listening
from repairkit.jobs.repair.patching import patch
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scoring import score
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings

_WHOLE = 0.6  # of the model's bytes: a session of so much holds the whole model


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    times = os.times()
    return times.user + times.system


@dataclass
class Spent:
    """What a stage cost, without the stages inside it."""

    seconds: float = 0.0
    sessions: int = 0
    whole: int = 0
    runs: int = 0


class FirstRoundError(Exception):
    """The set-up is over."""


@dataclass
class Meter:
    """A listener that books CPU seconds, sessions and runs on the innermost stage."""

    model_bytes: int
    stop_at: str
    stages: dict[str, Spent] = field(default_factory=dict)
    open: list[str] = field(default_factory=lambda: ["outside of stages"])
    last: float = field(default_factory=cpu_seconds)

    @property
    def spent(self) -> Spent:
        return self.stages.setdefault(self.open[-1], Spent())

    def book(self) -> None:
        now = cpu_seconds()
        self.spent.seconds += now - self.last
        self.last = now

    def begin(self, name: str, total: int | None, unit: str) -> None:  # noqa: ARG002 (a Listener)
        self.book()
        if name == self.stop_at:
            raise FirstRoundError
        self.open.append(name)

    def advance(self, done: int) -> None:
        """Counts are of no interest here."""

    def end(self) -> None:
        self.book()
        self.open.pop()


@contextmanager
def counted(meter: Meter) -> Iterator[None]:
    """Book every session that is opened, and every run."""
    plain = onnxruntime.InferenceSession

    class Counted(plain):  # type: ignore[misc,valid-type]
        """A session that is counted."""

        def __init__(self, model: Any, *rest: Any, **named: Any) -> None:
            super().__init__(model, *rest, **named)
            size = len(model) if isinstance(model, bytes) else Path(model).stat().st_size
            meter.spent.sessions += 1
            meter.spent.whole += size > _WHOLE * meter.model_bytes

        def run(self, *rest: Any, **named: Any) -> Any:
            meter.spent.runs += 1
            return super().run(*rest, **named)

        def run_with_iobinding(self, *rest: Any, **named: Any) -> Any:
            meter.spent.runs += 1
            return super().run_with_iobinding(*rest, **named)

    onnxruntime.InferenceSession = Counted
    try:
        yield
    finally:
        onnxruntime.InferenceSession = plain


def make(folder: Path, side: int, n_images: int) -> tuple[Path, Path]:
    """Inception-v3 with weights of noise, and images for it."""
    from networks import build, to_onnx  # PyTorch, where no model was given

    model, data = folder / "inception_v3.onnx", folder / "images.npz"
    onnx.save(to_onnx(build("inception_v3"), side), model)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n_images, 3, side, side)).astype(np.float32)
    np.savez(data, x=images, y=rng.integers(0, 1000, n_images))
    return model, data


def measure(model: Path, data: Path, *, remove: bool, folder: Path) -> Meter:
    """Run the job up to its first round, or to its end where it has none."""
    meter = Meter(model.stat().st_size, "scoring")
    settings = Settings(data=data, accept_preprocessing=True)
    with listening(meter), counted(meter):
        try:
            subject = read_subject(model)
            if remove:
                index = onnx.load(model, load_external_data=False).graph
                first = next(node.name for node in index.node if node.op_type == "Conv")
                how = PatchSettings(remove=(Filter(first, 1),))
                patch(subject, settings, how, out=folder / "patched.onnx")
            else:
                score(subject, settings, ScoreSettings())
        except FirstRoundError:
            pass
        meter.book()
    return meter


def main() -> None:
    """Print a table of stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=299)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--remove", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="repairkit-setup-") as name:
        folder = Path(name)
        model, data = given.model, given.data
        if model is None or data is None:
            model, data = make(folder, given.side, given.images)
        meter = measure(model, data, remove=given.remove, folder=folder)
    sys.stdout.write(f"{'CPU s':>7} {'sessions':>9} {'whole':>6} {'runs':>6}  stage\n")
    rows = [*meter.stages.items(), ("all", _sum(list(meter.stages.values())))]
    for stage_name, spent in rows:
        sys.stdout.write(
            f"{spent.seconds:7.1f} {spent.sessions:9} {spent.whole:6} {spent.runs:6}"
            f"  {stage_name}\n"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"peak memory {peak:.0f} MiB\n")


def _sum(parts: list[Spent]) -> Spent:
    return Spent(
        sum(p.seconds for p in parts),
        sum(p.sessions for p in parts),
        sum(p.whole for p in parts),
        sum(p.runs for p in parts),
    )


if __name__ == "__main__":
    main()
