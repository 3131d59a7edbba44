"""Which models in the wild can be inspected, scored, patched and verified, and if not, why not?

    python benchmarks/compatibility.py [--only NAME ...] [--rows FOLDER] [-o docs/compatibility.md]

`--rows` keeps what was found of each model in a folder, and takes what is there as found.

Every model goes through the commands as a user would give them, in a process of its own with a time
limit; the patched model is then judged by other means: `onnx.checker` with `full_check`, ONNX
Runtime at every optimisation level, equal inputs, outputs, metadata and names, and the patch undone
to the byte.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto
from wild import (
    METRICS,
    RANDOM,
    USER_METRICS,
    Wild,
    collect,
    image_input,
    opset_of,
    ready,
    write_data,
)

from repairkit.cli import run
from repairkit.formats.patch_file import read_patch_file
from repairkit.graph.baking import revert
from repairkit.graph.metadata import read_claims, write_claims

DOCUMENT = Path(__file__).parents[1] / "docs" / "compatibility.md"
_TIMEOUT_SECONDS = 900
_MOST_FILTERS = 128
_LARGE = 1500  # filters, beyond which only the last sites are scored
_COLUMNS = (
    "model",
    "from",
    "opset",
    "input",
    "batch",
    "sites",
    "filters",
    "left out",
    "engine",
    "score",
    "patch",
    "verify",
    "judged by other means",
)


def main() -> None:
    """Try the models and print the table, or write it into the documentation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names of models")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help="keep rows here, and do not make them again")
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    models = collect()
    if arguments.one:
        wild = next(w for w in models if w.name == arguments.one)
        json.dump(examine(wild), sys.stdout)
        return
    chosen = [w for w in models if not arguments.only or w.name in arguments.only]
    rows = []
    for wild in chosen:
        started = time.monotonic()
        rows.append(kept_or_made(wild, arguments.rows))
        sys.stderr.write(f"{wild.name}: {time.monotonic() - started:.0f} s\n")
    text = document(rows, [w.name for w in models if w not in chosen])
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    broken = [row["model"] for row in rows if row["broken"]]
    if broken:
        sys.exit(f"broken: {', '.join(broken)}")


def kept_or_made(wild: Wild, folder: Path | None) -> dict[str, Any]:
    """A row that is in the folder, or a fresh one that is put there."""
    if folder is None:
        return in_its_own_process(wild)
    path = folder / f"{wild.name}.json"
    if not path.is_file():
        row = in_its_own_process(wild)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row), encoding="utf-8")
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def in_its_own_process(wild: Wild) -> dict[str, Any]:
    """What `examine` finds; a crash or a hang becomes a row that says so."""
    command = [sys.executable, __file__, "--one", wild.name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return _blank(wild) | {"score": f"over {_TIMEOUT_SECONDS} s", "broken": True}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return _blank(wild) | {"score": f"crash ({done.returncode}): {last}", "broken": True}
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def _blank(wild: Wild) -> dict[str, Any]:
    blank: dict[str, Any] = dict.fromkeys(_COLUMNS, "")
    return blank | {
        "model": wild.name,
        "from": wild.family,
        "why": [],
        "notes": [],
        "broken": False,
    }


def examine(wild: Wild) -> dict[str, Any]:
    """One model through all commands; a row of the table."""
    row = _blank(wild)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        sys.path.insert(0, name)
        folder = Path(name)
        (folder / "wild_metrics.py").write_text(METRICS, encoding="utf-8")
        path = ready(wild, folder)
        model = onnx.load(path)
        row["opset"] = ", ".join(opset_of(model))
        found = _inspect(path, row)
        if not found or not found["sites"]:
            return row
        large = found["n_filters"] > _LARGE or wild.family == RANDOM
        data = folder / "data.npz"
        row["data"] = write_data(
            wild, data, model, 2 if wild.family == RANDOM else 8 if large else 40
        )
        options = ["--data", str(data), "--calibration", "all", "--selection", "all"]
        options += ["--test", "all", "--workers", "1", "--device", "cpu"]
        if wild.name in USER_METRICS:
            options += ["--metric", f"wild_metrics:{USER_METRICS[wild.name]}"]
        _score(path, options, _few(found["sites"]) if large else [], row)
        _patch(path, options, found, row, model)
    return row


def _inspect(path: Path, row: dict[str, Any]) -> dict[str, Any] | None:
    code, out, error = _call(["inspect", str(path), "--json"])
    if code:
        row["sites"], row["broken"] = error, code not in (1, 2)
        return None
    found: dict[str, Any] = json.loads(out)
    shape = "x".join("?" if s is None else str(s) for s in found["input"]["shape"])
    row["input"] = f"{shape} {found['input']['layout']} {found['input']['dtype']}"
    row["batch"] = found["input"]["batch"]
    row["sites"], row["filters"] = found["n_sites"], found["n_filters"]
    row["left out"] = len(found["left_out"])
    reasons = sorted({(x["kind"], x["reason"]) for x in found["left_out"]})
    row["why"] = [f"{kind}: {reason}" for kind, reason in reasons]
    if not found["sites"]:
        row["score"] = row["patch"] = row["verify"] = "nothing to freeze"
    return found


def _score(
    path: Path, options: Sequence[str], sites: Sequence[dict[str, Any]], row: dict[str, Any]
) -> None:
    patterns = [f"--sites={s['site']}" for s in sites]
    started = time.monotonic()
    code, out, error = _call(
        [
            "score",
            str(path),
            *options,
            *patterns,
            "--method",
            "leave-one-out",
            "--accept-preprocessing",  # the images are noise
            "-o",
            "run",
            "--json",
        ]
    )
    if code:
        row["score"], row["broken"] = error, code != 1
        return
    document = json.loads(out)
    row["engine"], row["batch"] = document["engine"], document["batching"]
    seconds = time.monotonic() - started
    row["score"] = f"{document['n_filters']} filters in {seconds:.0f} s"
    row["notes"] += document["notes"]


def _few(sites: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The last sites, as many as hold few filters together; one at the least."""
    first = len(sites) - 1
    while first and sum(s["filters"] for s in sites[first - 1 :]) <= _MOST_FILTERS:
        first -= 1
    return sites[first:]


def _patch(
    path: Path,
    options: Sequence[str],
    found: dict[str, Any],
    row: dict[str, Any],
    model: ModelProto,
) -> None:
    sites = found["sites"]
    picks = {(s["site"], s["filters"] // 2) for s in (sites[0], sites[len(sites) // 2], sites[-1])}
    chosen = ",".join(f"{site}:{channel}" for site, channel in sorted(picks))
    code, out, error = _call(
        ["patch", str(path), *options, "--remove", chosen, "-o", "patched.onnx", "--json"]
    )
    if code:
        row["patch"], row["broken"] = error, code not in (1, 3)
        return
    document = json.loads(out)
    proof = document["verification"]
    row["patch"] = f"{len(picks)} frozen"
    row["notes"] += document["notes"]
    code, out, error = _call(
        [
            "verify",
            str(path),
            "patched.onnx",
            "--patch",
            document["patch_file"],
            *options[:2],
            "--json",
        ]
    )
    row["verify"] = error
    row["broken"] |= code != 0
    if not code:
        proof = json.loads(out)
        row["verify"] = (
            f"{'bit for bit' if proof['exact_without_optimisation'] else 'within a quantum'}, "
            f"{proof['relative_difference_with_optimisation']:.0e} optimised"
        )
    fault = _fault(model, Path("patched.onnx"), Path(document["patch_file"]))
    row["judged by other means"] = fault or "holds"
    row["broken"] |= bool(fault)


def _call(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and the last line of standard error of a command."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = run(arguments)
    lines = error.getvalue().strip().splitlines()
    return code, out.getvalue(), lines[-1] if lines else ""


def _fault(model: ModelProto, path: Path, patch_file: Path) -> str:
    """What is wrong with a patched model, empty if nothing."""
    patched = onnx.load(path)
    try:
        onnx.checker.check_model(patched, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        if _checks(model):
            return f"onnx.checker: {str(error).splitlines()[0]}"
    if list(model.graph.output) != list(patched.graph.output):
        return "outputs differ"
    stored = {t.name for t in patched.graph.initializer}
    if [i for i in model.graph.input if i.name not in stored] != [
        i for i in patched.graph.input if i.name not in stored
    ]:
        return "inputs differ"
    for field in ("opset_import", "producer_name", "ir_version", "doc_string", "domain"):
        if getattr(model, field) != getattr(patched, field):
            return f"{field} differs"
    kept = {(p.key, p.value) for p in patched.metadata_props}
    if not {(p.key, p.value) for p in model.metadata_props} <= kept:
        return "metadata was lost"
    if [(n.name, n.op_type, list(n.output)) for n in model.graph.node] != [
        (n.name, n.op_type, list(n.output)) for n in patched.graph.node
    ]:
        return "names differ"
    undone = revert(patched, read_patch_file(patch_file).edits)
    write_claims(undone, read_claims(patched)[:-1])
    if undone.SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True):
        return "undoing the patch does not give the original's bytes"
    return _levels_fault(patched)


def _checks(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _levels_fault(patched: ModelProto) -> str:
    name, shape, dtype = image_input(patched)
    value = next(i for i in patched.graph.input if i.name == name)
    batch = value.type.tensor_type.shape.dim[0].dim_value or 1
    for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, f"ORT_{level}"
        )
        session = onnxruntime.InferenceSession(
            patched.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, {name: np.ones((batch, *shape), dtype)})
    return ""


def document(rows: Sequence[dict[str, Any]], not_tried: Sequence[str]) -> str:
    """The page: the table, and why layers were left out."""
    done = sum(row["judged by other means"] == "holds" for row in rows)
    lines = [
        "# Compatibility",
        "",
        "Written by `make compatibility`; not to be edited by hand. "
        f"{len(rows)} models, of which {done} were scored, patched and verified.",
        *(["", f"Not tried in this run: {', '.join(not_tried)}."] if not_tried else []),
        "",
        "Every model goes through `inspect`, `score` (leave-one-out; of models with more than "
        f"{_LARGE} filters the last sites alone), `patch --remove` (a filter early, in the middle "
        "and late) and `verify`. *Verify* says how the patched model's outputs compare to those of "
        "the masked original: with graph optimisation off, and the largest relative difference "
        "with it on. *Judged by other means*: `onnx.checker` with `full_check` (where the original "
        "passes it), ONNX Runtime at every optimisation level, same inputs, outputs, metadata and "
        "names, and the patch undone to the byte.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
    ]
    lines += [
        "| " + " | ".join(str(row[column]).replace("|", "\\|") for column in _COLUMNS) + " |"
        for row in rows
    ]
    lines += ["", "## What was left out, and notes", ""]
    for row in rows:
        told = [*row["why"], *dict.fromkeys(row["notes"])]
        if told:
            lines.append(f"- **{row['model']}**: {'; '.join(told)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
