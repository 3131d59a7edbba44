"""Does a command end when its time limit says?

    python benchmarks/time_limits.py MODEL_OR_FOLDER... [--seconds 30,120] [--images 200]
        [--methods auto,leave-one-out] [--patch] [--json FILE]

For every model and limit T a command is started with data that is made up: noise, labelled by what
the model itself says most, so that something can be lost. It must end within T + 10 % + 15 s, with
a ranking (exit 0), with "no repair" (exit 4, of `patch`), or with one line that names the least
limit (exit 1). Wall time is the command's own, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_SLACK_SHARE, _SLACK_SECONDS = 0.1, 15.0
_FREE = 64
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One command: what it was asked, when and how it ended."""

    model: str
    command: str
    limit: float
    seconds: float
    exit_code: int
    kept: bool
    told: str


def make_data(model: Path, place: Path, n_images: int) -> str:
    """Write noise with labels for a model; why it cannot be had, else empty."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone: warnings would stand between the rows
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    kind = _TYPES.get(image.type)
    if kind is None or len(image.shape) != 4:
        return f"takes {image.type} {image.shape}, which is no image"
    shape = [n if isinstance(n, int) and n > 0 else _FREE for n in image.shape[1:]]
    rng = np.random.default_rng(0)
    x: Any = rng.random((n_images, *shape), np.float32)
    if np.issubdtype(kind, np.integer):
        x = x * 255 - (128 if kind == np.int8 else 0)
    else:
        # Images of another brightness each, so that a model says more than one thing.
        x = x * rng.random((n_images, 1, 1, 1), np.float32)
    x = x.astype(kind)
    answers = [session.run(None, {image.name: x[i : i + 1]})[0] for i in range(n_images)]
    width = int(np.prod(answers[0].shape[1:]))
    labels = np.array([int(np.argmax(answer.ravel())) for answer in answers]) % max(width, 2)
    np.savez(place, x=x, y=labels)
    return ""


def run(command: Sequence[str], limit: float, work: Path) -> tuple[float, int, str]:
    """Seconds, exit code and last line of a command; it is killed at three times its limit."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, timeout=3 * limit + 120, check=False
        )
        code, errors = done.returncode, done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        code, errors = -1, ["killed"]
    return time.monotonic() - began, code, errors[-1] if errors else ""


def measure(model: Path, limits: Sequence[float], asked: argparse.Namespace) -> Iterator[Line]:
    """Every command and limit on one model."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = work / "data.npz"
        why = make_data(model, data, asked.images)
        if why:
            yield Line(model.name, "-", 0.0, 0.0, 0, kept=True, told=f"left out: {why}")
            return
        start = [sys.executable, "-c", "from repairkit.cli import main; main()"]
        for limit in limits:
            common = [str(model), "--data", str(data), "--time-limit", f"{limit:g}"]
            common.append("--accept-preprocessing")  # the images are noise
            commands = {
                f"score {method}": [
                    "score",
                    *common,
                    "--method",
                    method,
                    "-o",
                    f"{method}-{limit:g}",
                ]
                for method in asked.methods.split(",")
            }
            if asked.patch:
                commands["patch"] = ["patch", *common, "--objective", "accuracy", "-o", "out.onnx"]
            for name, words in commands.items():
                seconds, code, told = run([*start, *words], limit, work)
                in_time = seconds <= limit * (1 + _SLACK_SHARE) + _SLACK_SECONDS
                fine = code in (0, 1, 4)
                yield Line(model.name, name, limit, seconds, code, in_time and fine, told)


def models(paths: Sequence[Path]) -> list[Path]:
    """The models that were named, and those in the folders that were."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    return [path.resolve() for path in found]


def main() -> int:
    """Run, print, and write the rows; 1 where a limit was not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("paths", type=Path, nargs="+", metavar="MODEL_OR_FOLDER")
    parser.add_argument("--seconds", default="30,120", help="limits, with commas between")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--methods", default="auto", help="methods, with commas between")
    parser.add_argument("--patch", action="store_true", help="run patch too")
    parser.add_argument("--json", type=Path, help="write the rows here")
    asked = parser.parse_args()
    limits = [float(text) for text in asked.seconds.split(",")]
    lines: list[Line] = []
    print(f"{os.cpu_count()} cores")
    print(f"{'model':32s}{'command':22s}{'limit':>7s}{'seconds':>9s}  exit  kept  last line")
    for model in models(asked.paths):
        for line in measure(model, limits, asked):
            kept = "yes" if line.kept else "NO"
            print(
                f"{line.model[:31]:32s}{line.command:22s}{line.limit:7g}{line.seconds:9.1f}  "
                f"{line.exit_code:4d}  {kept:4s}  {line.told[:100]}",
                flush=True,
            )
            lines.append(line)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    return 0 if all(line.kept for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
