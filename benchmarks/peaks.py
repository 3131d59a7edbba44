"""Most memory that a way to evaluate coalitions takes, in a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from rounds import random_rows, star_rows, walk_rows
from ways import Subject, Ways

from repairkit.engine.evaluator import keep_all
from repairkit.engine.ort import quarter_of_free_memory

TIGHT_BYTES = 16 * 2**20
_ROWS = 40


@dataclass(frozen=True)
class Peak:
    """Most memory that a process took, and what its caches were allowed to; both in MiB."""

    mib: float
    budget_mib: float


def measure_peak(way: str, subject: Subject) -> Peak:
    """Of `plain` passes, of the `engine`, or of the engine with `tight` caches."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        onnx.save(subject.model, model)
        shape = [str(n) for n in subject.images.shape]
        command = [sys.executable, __file__, way, str(model), *shape]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return Peak(*(float(word) for word in told.split()))


def main(way: str, path: str, *shape: str) -> None:
    """Take the way, and tell what the system counted."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal([int(n) for n in shape], np.float32)
    ways, budget = Ways(Subject(path, onnx.load(path), images)), 0
    if way == "plain":
        for _ in range(3):
            ways.plain(2)()
    else:
        budget = TIGHT_BYTES if way == "tight" else quarter_of_free_memory()
        engine, n_images, n_players = ways.engine(2, budget), len(images), len(ways.roster)
        for rows in (walk_rows(rng, _ROWS, n_players), star_rows(rng, _ROWS, n_players)):
            engine.answer(rows, np.tile(np.arange(n_images), (_ROWS, 1)), keep_all)
        many = random_rows(rng, n_images, n_players)
        engine.answer(many, np.arange(n_images)[:, None], keep_all)
    # Not getrusage: what it tells is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(float(status.split("VmHWM:")[1].split()[0]) / 1024, budget / 2**20)


if __name__ == "__main__":
    main(*sys.argv[1:])
