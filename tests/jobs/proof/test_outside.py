"""Weights beside the model that are too large for memory: never read as a whole, never lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from repairkit.core.errors import RunFolderError
from repairkit.graph.stored import model_files
from repairkit.graph.stored.model_files import read_model, write_model
from repairkit.graph.stored.tensors import array_of, folder_of
from tests import models
from tests.conftest import Answer
from tests.running import run

ROOT = Path(__file__).parents[3]


def write_apart(folder: Path, *, extra_mb: int = 0) -> Path:
    """A tiny model whose weights all lie in `model.data`, with as much more in a dense layer."""
    model = models.own_bias()
    if extra_mb:
        side = int((extra_mb * 2**20 / 4) ** 0.5)
        sizes = {"wide": (3, side), "square": (side, side), "narrow": (side, 3)}
        tensor = "first"
        model.graph.node[-1].output[0] = tensor
        for name, size in sizes.items():
            weight = np.full(size, 1e-4, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weight, name))
            model.graph.node.append(
                helper.make_node("MatMul", [tensor, name], [f"{name}_out"], f"{name}_layer")
            )
            tensor = f"{name}_out"
        model.graph.node.append(helper.make_node("Add", ["first", tensor], ["logits"], "sum"))
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    x = models.images(12)
    labels = run(onnx.load(path), {"image": x})[0].argmax(1)
    np.savez(folder / "data.npz", x=x, y=labels)
    return path


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(model_files, "KEPT_OUTSIDE_ABOVE", 0)
    return write_apart(tmp_path / "source")


def test_weights_stay_in_their_file_and_are_read_from_it(apart: Path) -> None:
    file = read_model(apart)
    assert folder_of(file.model) == apart.parent.resolve()
    loaded = {t.name: numpy_helper.to_array(t) for t in onnx.load(apart).graph.initializer}
    for tensor in file.model.graph.initializer:
        assert not tensor.raw_data
        np.testing.assert_array_equal(array_of(tensor), loaded[tensor.name])


def test_the_digest_does_not_depend_on_where_the_weights_are_kept(
    apart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = read_model(apart).digest
    monkeypatch.setattr(model_files, "KEPT_OUTSIDE_ABOVE", 1 << 30)
    assert read_model(apart).digest == kept


def test_a_model_is_written_with_its_weights_beside_it(apart: Path, tmp_path: Path) -> None:
    file = read_model(apart)
    out = tmp_path / "elsewhere" / "copy.onnx"
    digest = write_model(file.model, out)
    again = read_model(out)
    assert again.digest == digest
    feeds = {"image": models.images(3)}
    np.testing.assert_array_equal(run(onnx.load(out), feeds)[0], run(onnx.load(apart), feeds)[0])
    (out.parent / "model.data").write_bytes(b"other")
    with pytest.raises(RunFolderError, match="in the way of the model's weights"):
        write_model(file.model, out)


def test_a_model_in_a_file_cannot_say_where_its_weights_are_kept(
    apart: Path, tmp_path: Path
) -> None:
    model = onnx.load(apart, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data.add(key="repairkit.folder", value=str(tmp_path))
        tensor.external_data.add(key="repairkit.sha256", value="0" * 64)
    onnx.save(model, apart)
    (tmp_path / "model.data").write_bytes(b"\x01" * 10_000)
    read = read_model(apart).model
    assert folder_of(read) == apart.parent.resolve()


@pytest.mark.parametrize("same_folder", [True, False])
def test_patch_verify_and_revert_leave_the_weights_where_they_are(
    repairkit: Callable[..., Answer], apart: Path, tmp_path: Path, same_folder: bool
) -> None:
    out = (apart.parent if same_folder else tmp_path / "there") / "out.onnx"
    out.parent.mkdir(exist_ok=True)
    data = ["--data", str(apart.parent / "data.npz"), "--calibration", "all", "--test", "all"]
    data += ["--selection", "all"]
    before = {p.name: p.read_bytes() for p in apart.parent.iterdir()}
    scored = repairkit("score", apart, *data, "--method", "leave-one-out", "-o", tmp_path / "run")
    assert scored.code == 0, scored.err
    made = repairkit("patch", apart, *data, "--remove", "conv:1", "-o", out, "--json")
    assert made.code == 0, made.err
    proven = repairkit("verify", apart, out, "--patch", json.loads(made.out)["patch_file"])
    assert proven.code == 0, proven.err
    assert (out.parent / "model.data").read_bytes() == before["model.data"]
    assert out.stat().st_size < 20_000
    onnx.checker.check_model(str(out), full_check=True)
    back = repairkit(
        "revert", out, json.loads(made.out)["patch_file"], "-o", tmp_path / "back" / "model.onnx"
    )
    assert back.code == 0, back.err
    for name in ("model.onnx", "model.data"):
        assert (tmp_path / "back" / name).read_bytes() == before[name]


_MEASURED = """
import sys, threading, time
from pathlib import Path
from repairkit.graph.stored import model_files
model_files.KEPT_OUTSIDE_ABOVE = 1 << 20
from repairkit.cli import run
import repairkit.api.repairing, repairkit.cli.repair_story  # loaded before memory is measured

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(l for l in lines if l.startswith("RssAnon")).split()[1]) / 1024

most = [0.0]
def watch():
    while True:
        most[0] = max(most[0], resident())
        time.sleep(0.01)

import onnxruntime, onnx_graphsurgeon
before = resident()
threading.Thread(target=watch, daemon=True).start()
code = run(sys.argv[1:])
print(code, most[0] - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by /proc")
def test_large_weights_are_not_in_memory_twice(tmp_path: Path) -> None:
    size_mb = 64
    path = write_apart(tmp_path / "large", extra_mb=size_mb)
    arguments = [str(path), "--data", str(path.parent / "data.npz"), "--calibration", "all"]
    arguments += ["--selection", "all", "--test", "all", "--quiet", "--workers", "1"]
    done = subprocess.run(
        [
            *(sys.executable, "-c", _MEASURED, "patch", *arguments),
            *("--remove", "conv:1", "-o", str(tmp_path / "out.onnx")),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    code, megabytes = done.stdout.split()
    assert (code, done.stderr) == ("0", "")
    assert float(megabytes) < size_mb / 2
