"""Most memory that a way to evaluate coalitions takes, in a process that does nothing else.

    python benchmarks/peaks.py score [OPTION ...]

measures the whole command `repairkit score` with default options, which may be followed by others:
a SqueezeNet 1.0 with random weights and 500 images of 227 x 227 of noise. Told are the most memory
of all its processes together, and its time. An earlier state of repairkit is measured by the same
script with PYTHONPATH on its folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
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


_SIDE, _IMAGES, _CLASSES = 227, 500, 10
_PAUSE_SECONDS = 0.05


def measure_score(*options: str) -> None:
    """Run `repairkit score` on a SqueezeNet 1.0; print its peak memory and its time."""
    from networks import squeezenet1_0, to_onnx, with_weights

    with tempfile.TemporaryDirectory() as folder:
        model, data = Path(folder) / "model.onnx", Path(folder) / "images.npz"
        onnx.save(to_onnx(with_weights(squeezenet1_0), _SIDE), model)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (_IMAGES, _SIDE, _SIDE, 3), np.uint8)
        np.savez(data, x=pixels, y=rng.integers(0, _CLASSES, _IMAGES))
        command = [sys.executable, "-m", "repairkit", "score", str(model), "--data", str(data)]
        command += ["--accept-preprocessing", "--quiet", "-o", str(Path(folder) / "run"), *options]
        began, peak = time.monotonic(), 0
        running = subprocess.Popen(command)
        while running.poll() is None:
            peak = max(peak, resident_bytes(running.pid))
            time.sleep(_PAUSE_SECONDS)
        seconds = time.monotonic() - began
        user = os.times().children_user
    print(f"peak {peak / 2**20:.0f} MiB, {seconds:.0f} s, of processors {user:.0f} s")


def resident_bytes(root: int) -> int:
    """Of a process and all its descendants; of those that are gone, nothing."""
    children: dict[int, list[int]] = defaultdict(list)
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = (place / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        children[int(status.rpartition(")")[2].split()[1])].append(int(place.name))
    todo, total = [root], 0
    while todo:
        process = todo.pop()
        todo += children[process]
        try:
            pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            continue
        total += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return total


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
    if sys.argv[1:2] == ["score"]:
        measure_score(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
