"""Run every command once, in the environment of the Python that runs this; needs nothing else.

    PYTHON tests/lowest/smoke.py

The demo is run first, and the other commands on its model and data. A command without a line here
is an error, so that a new command is not forgotten.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "cmaes", "jinja2", "markupsafe", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime",
    "openvino", "pillow", "prometheus-client", "protobuf", "pyarrow", "rich",
    "safetensors", "torch", "typer",
)  # fmt: skip
MODEL, DATA = "demo/model.onnx", "demo/digits.npz"
PATCHED, PATCH = "demo/model.patched.onnx", "demo/model.patched.patch.json"
QUICK = ["--data", DATA, "--metric", "accuracy", "--method"]

# The demo comes first: the others use what it writes.
COMMANDS: dict[str, list[list[str]]] = {
    "demo": [["-o", "demo"]],
    "init": [[MODEL, "--data", DATA, "--yes", "-o", "begun"]],
    "list": [["metrics"], ["methods"], ["columns", "--data", DATA], ["sites", MODEL]],
    "inspect": [[MODEL], [PATCH]],
    "diff": [[MODEL, PATCHED, "--data", DATA, "--html", "diff.html"]],
    "score": [
        [MODEL, *QUICK, "leave-one-out", "-o", "one", "--prometheus-file", "figures.prom"],
        [MODEL, *QUICK, "permutation", "--max-evaluations", "1500", "-o", "two"],
        [MODEL, *QUICK, "auto", "--max-evaluations", "1500", "-o", "three"],
        ["manifest/model.onnx", "--data", "manifest/rows.parquet", "--metric", "accuracy",
         "--method", "random", "--accept-preprocessing", "-o", "four"],
        [MODEL, *QUICK, "regression", "--max-evaluations", "3000", "--keep-rows", "-o", "five"],
    ],
    "ask": [["five", "--metric", "loss", "--where", "polarity == 'dark-on-light'"]],
    "curve": [["one", "two", "-o", "curves.csv"]],
    "dissect": [[MODEL, "--data", DATA, "--blocks", "4", "--copies", "2", "-o", "concepts"]],
    "compare": [["one", "two"], ["one", "concepts"]],
    "report": [["one"]],
    "atlas": [["five", "--filters", "6"]],
    "means": [[MODEL, "--data", DATA, "-o", "means.json"]],
    "merge": [["half-a", "half-b", "-o", "merged"]],
    "patch": [[MODEL, "--data", DATA, "--scores", "one", "--level", "mean", "-o", "own.onnx"]],
    "verify": [
        [MODEL, PATCHED, "--data", DATA],
        [MODEL, PATCHED, "--patch", PATCH, "--quantised", PATCHED, "--runtime", "openvino"],
    ],
    "overlay": [[MODEL, PATCH, "-o", "fix.safetensors"]],
    "monitor": [
        [PATCHED, "--data", "a.npz", "--original", MODEL, "--prometheus-file", "watch.prom"],
        [PATCHED, "--data", "b.npz", "--original", MODEL],
    ],
    "apply": [[MODEL, PATCH, "--data", DATA, "-o", "applied.onnx"]],
    "revert": [[PATCHED, PATCH, "-o", "reverted.onnx"]],
    "instrument": [[MODEL, "--data", DATA, "-o", "masked.onnx"]],
    "attack": [[MODEL, "--data", DATA, "--method", "square", "--queries", "20", "--images", "4",
                "--range", "0,1", "-o", "attacked.npz"]],
    "dream": [[MODEL, "conv1:2", "--data", DATA, "-o", "dreams"]],
    "export": [["network:make", "--input-shape", "1,8,8", "-o", "exported.onnx"]],
}  # fmt: skip
# Commands that may find nothing to do for the sample, and say so.
MAY_MISS_THE_TARGET = {"patch"}
NETWORK = """
import torch
def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    )
"""


def run(folder: Path, command: str, arguments: list[str]) -> tuple[int, str, str]:
    """One command with `--json`: exit code, standard output and standard error."""
    code = "from repairkit.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, command, *arguments, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def check(folder: Path, command: str, arguments: list[str]) -> str:
    """Run a command; why it fell short, or nothing."""
    code, out, err = run(folder, command, arguments)
    try:
        document = json.loads(out)
    except ValueError:
        return f"exit {code}, and no document ({out[-300:]!r}, {err[-300:]!r})"
    if command == "export" and importlib.util.find_spec("torch") is None:
        refused = code == 1 and "pip install" in document.get("error", "")
        return "" if refused else f"exit {code} without PyTorch: {err[-300:]}"
    expected = {0, 4} if command in MAY_MISS_THE_TARGET else {0}
    return "" if code in expected else f"exit {code}: {err[-300:]}"


def prepare(folder: Path) -> None:
    """What the sample lacks: a folder, a manifest in Parquet, owners' runs, a module."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    (folder / "begun").mkdir()
    (folder / "network.py").write_text(NETWORK, encoding="utf-8")
    with np.load(folder / DATA) as data:
        arrays = {name: data[name] for name in data.files}
    place = folder / "manifest"
    place.mkdir()
    (place / "model.onnx").write_bytes((folder / MODEL).read_bytes())
    rng = np.random.default_rng(0)
    names = []
    for number in range(40):
        names.append(f"{number}.png")
        pixels = rng.integers(0, 256, arrays["x"].shape[-2:], np.uint8)
        Image.fromarray(pixels).save(place / names[-1])
    table = pyarrow.table({"path": names, "label": [int(label) for label in arrays["y"][:40]]})
    pyarrow.parquet.write_table(table, place / "rows.parquet")
    for part, name in enumerate(("a.npz", "b.npz")):
        halves = {key: array[part::2] for key, array in arrays.items()}
        np.savez(folder / name, **halves)
    means = ["means", MODEL, "--data", DATA, "-o", "common.json"]
    for words in (
        means,
        *(
            ["score", MODEL, "--data", f"{name}.npz", "--metric", "accuracy", "--method",
             "leave-one-out", "--means", "common.json", "-o", f"owner-{name}", "--share",
             f"half-{name}"]
            for name in ("a", "b")
        ),
    ):  # fmt: skip
        code, _, err = run(folder, words[0], words[1:])
        assert code == 0, err


def versions() -> str:
    """What is installed, in a line."""
    found = [f"Python {sys.version.split()[0]}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def main() -> int:
    """Exit code 1 where any command fell short."""
    import typer

    from repairkit.cli import app

    print(versions(), flush=True)  # noqa: T201
    known = set(typer.main.get_command(app).commands)
    n_failed = 0
    if known != set(COMMANDS):
        print(f"not tried, or gone: {', '.join(sorted(known ^ set(COMMANDS)))}")  # noqa: T201
        n_failed += 1
    with tempfile.TemporaryDirectory(prefix="repairkit-smoke-") as name:
        folder = Path(name)
        for command, calls in COMMANDS.items():
            for arguments in calls:
                begun = time.monotonic()
                fault = check(folder, command, arguments)
                n_failed += bool(fault)
                spent = time.monotonic() - begun
                print(f"{command:<11} {spent:5.1f} s  {fault or 'well'}", flush=True)  # noqa: T201
            if command == "demo" and not n_failed:
                prepare(folder)
    n_calls = sum(len(calls) for calls in COMMANDS.values())
    print(f"{n_calls - n_failed} passed, {n_failed} failed")  # noqa: T201
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
