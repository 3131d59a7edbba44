"""Patched real models in OpenVINO, onnxruntime-node and onnxruntime-web: all agree.

The JavaScript packages are looked for in REPAIRKIT_NODE_MODULES, a folder in which
`npm install onnxruntime-node onnxruntime-web` was run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import repairkit
from repairkit.engine.runtimes import foreign
from repairkit.graph.kinds.sites import survey
from tests import zoo

FOLDER = os.environ.get("REPAIRKIT_NODE_MODULES", "")
CODES = "quant"  # in the names of the zoo's models on integer codes
FLOATS = 1e-5  # what float models stay within; the tolerance is ten times that

pytestmark = zoo.needs_zoo
needs_javascript = pytest.mark.skipif(
    not FOLDER or shutil.which("node") is None,
    reason="Node.js is missing, or REPAIRKIT_NODE_MODULES names no folder of its packages",
)


def patched(path: Path, folder: Path) -> tuple[Path, int]:
    """A patched copy with filters frozen in layers from the first to the last, and how many."""
    sites = survey(zoo.load(path)).sites
    some = sites[:: max(1, len(sites) // 4)]
    names = [f"{site.name}:{channel}" for site in some for channel in {0, site.n_channels - 1}]
    out = folder / "patched.onnx"
    repairkit.patch(path, out=out, remove=names, level="bias")
    return out, len(names)


def check(path: Path, folder: Path, runtime: str) -> None:
    out, n_frozen = patched(path, folder)
    modules = FOLDER if runtime.startswith("onnxruntime") else None
    (found,) = repairkit.verify(path, out, runtime=runtime, node_modules=modules).runtimes
    assert (found.spread, found.offset) == (0.0, 0.0)
    assert (found.n_constant, found.other_answers) == (n_frozen, 0)
    assert found.tolerance == (
        foreign.CODE_TOLERANCE if CODES in path.stem else foreign.FLOAT_TOLERANCE
    )
    assert found.relative <= (found.tolerance if CODES in path.stem else FLOATS)


@pytest.mark.parametrize("path", zoo.ZOO_MODELS, ids=lambda path: path.stem)
def test_openvino_agrees(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    check(path, tmp_path, "openvino")


@needs_javascript
@pytest.mark.parametrize("path", zoo.ZOO_MODELS, ids=lambda path: path.stem)
def test_onnx_runtime_for_node_agrees(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path, "onnxruntime-node")


@needs_javascript
@pytest.mark.parametrize("name", ["cntk_mnist8", "mlperf_resnet8", "tfl_resnet8_quant"])
def test_onnx_runtime_for_the_web_agrees(name: str, tmp_path: Path) -> None:
    check(zoo.model(name), tmp_path, "onnxruntime-web")
