"""Do two checkouts of repairkit give the same results, bit for bit?

Ten jobs run in each, as commands, in a folder of their own with the packaged sample. Files that
come out are compared byte by byte; of JSON documents and pages what tells of the moment (times,
versions, places) is left out first.

    python benchmarks/same_results.py OLD [NEW] [--jobs NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
MODEL, DATA = "model.onnx", "digits.npz"
_QUICK = ["--seed", "3", "--workers", "2", "--quiet"]
_SCORE = ["score", MODEL, *_QUICK, "--max-evaluations", "3000", "-o", "run"]
JOBS: dict[str, list[list[str]]] = {
    "score": [_SCORE],
    "tmab": [[*_SCORE, "--method", "tmab"]],
    "permutation": [[*_SCORE, "--method", "permutation"]],
    "leave-one-out": [[*_SCORE, "--method", "leave-one-out"]],
    "compare": [_SCORE, [*_SCORE[:-1], "other", "--seed", "4"], ["compare", "run", "other"]],
    "patch": [["patch", MODEL, *_QUICK, "--fairness", "-o", "repaired.onnx"]],
    "last layer": [
        ["patch", MODEL, *_QUICK, "--fairness", "--repair", "last-layer", "-o", "repaired.onnx"]
    ],
    "remove": [
        ["patch", MODEL, "--remove", "conv2:0,conv2:3", "--quiet", "-o", "repaired.onnx"],
        ["verify", MODEL, "repaired.onnx"],
        ["revert", "repaired.onnx", "-o", "reverted.onnx"],
    ],
    "instrument": [["instrument", MODEL, "-o", "instrumented.onnx", "--quiet"]],
    "owners": [
        ["means", MODEL, "-o", "means.json", "--quiet"],
        [*_SCORE, "--means", "means.json"],
    ],
}
_MOMENT = re.compile(
    r"seconds|time|date|version|memory|created|started|finished|per_second|process|round|seal"
)
"""Keys of what tells of the moment; a seal is over the whole file, times included."""

_COMMAND = "from repairkit.cli import main; main()"


def run_job(checkout: Path, commands: list[list[str]], folder: Path) -> dict[str, str]:
    """What a job printed and wrote, by name; what tells of the moment is left out."""
    for name in (MODEL, DATA, "repairkit.toml"):
        shutil.copy(HERE / "samples" / "digits" / name, folder / name)
    given = {path.name for path in folder.iterdir()}
    environment = dict(os.environ, PYTHONPATH=f"{checkout}:{checkout / 'adapters'}")
    results: dict[str, str] = {}
    for number, command in enumerate(commands):
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        results[f"exit code {number}"] = (
            f"{done.returncode} {done.stderr if done.returncode else ''}"
        )
        results[f"output {number}"] = _without_moment(done.stdout)
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in given and path.name != "checkpoint":
            results[name] = _content(path)
    return results


def _content(path: Path) -> str:
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True)
    data = path.read_bytes()
    try:
        return _without_moment(data.decode("utf-8"))
    except UnicodeDecodeError:
        return data.hex()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if not _MOMENT.search(key)}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def _without_moment(text: str) -> str:
    lines = [line for line in text.splitlines() if not re.search(r"\d+(\.\d+)? s\b|/s\b", line)]
    return "\n".join(lines)


def compare(old: Path, new: Path, name: str) -> list[str]:
    """What differs between the two checkouts in a job, a line each."""
    results = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "job"  # of one name for both: it stands in what they write
        for checkout in (old, new):
            folder.mkdir()
            results.append(run_job(checkout, JOBS[name], folder))
            shutil.rmtree(folder)
    before, after = results
    differences = [f"{key}: only in one" for key in sorted(set(before) ^ set(after))]
    for key in sorted(set(before) & set(after)):
        if before[key] != after[key]:
            at = next(
                (
                    i
                    for i, (a, b) in enumerate(zip(before[key], after[key], strict=False))
                    if a != b
                ),
                min(len(before[key]), len(after[key])),
            )
            around = slice(max(0, at - 60), at + 60)
            differences.append(f"{key}: {before[key][around]!r} became {after[key][around]!r}")
    failed = [f"{k}: {v}" for k, v in after.items() if k.startswith("exit") and v[0] != "0"]
    return differences + failed


def main() -> None:
    """Compare job by job; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description="Do two checkouts give the same results?")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=HERE)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    options = parser.parse_args()
    differ = False
    for name in options.jobs:
        differences = compare(options.old.resolve(), options.new.resolve(), name)
        differ |= bool(differences)
        print(f"{name}: {'same' if not differences else 'DIFFERS'}", flush=True)
        for line in differences:
            print(f"    {line}")
    sys.exit(int(differ))


if __name__ == "__main__":
    main()
