"""The engine's benchmark runs as written, and tells what it promises to tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zoo import ZOO_MODELS

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "engine.py"
NEXT_DOOR = Path(__file__).parents[2] / "shared" / "zoo" / "models" / "mlperf_resnet8.onnx"
KEYS = {
    "model",
    "way",
    "what",
    "device",
    "workers",
    "seconds",
    "ratio_to_plain",
    "ratio_to_eager",
    "peak_mib",
    "cpu_ratio_to_plain",
}


@pytest.mark.slow
@pytest.mark.skipif(
    not ZOO_MODELS or not NEXT_DOOR.is_file(), reason=f"no model zoo at {NEXT_DOOR.parent}"
)
@pytest.mark.parametrize("stacked", [False, True])
def test_the_engine_s_benchmark_prints_its_table(tmp_path: Path, *, stacked: bool) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), "--models", "mlperf_resnet8", "--json", str(out)]
    command += ["--batch", "16", "--repeats", "1", "--steps", "4", "--workers", "1"]
    command += ["--stacked"] if stacked else []
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(out.read_text())
    assert all(set(row) == KEYS for row in rows)
    assert {row["device"] for row in rows} == {"cpu"}
    measured = {(row["way"], row["what"]) for row in rows}
    common = {("plain", "pass"), ("masks", "coalition"), ("engine", "coalition")}
    ours = {("engine", what) for what in ("marginal", "step of a walk", "a coalition per image")}
    assert common | ours <= measured
    apart = {("tight", "marginal"), ("session", "coalition")}
    assert apart & measured == (set() if stacked else apart)
    assert "a mask per image where a row has few" in told
    assert told.count("peak MiB") == (0 if stacked else 2)
    assert all(row["ratio_to_plain"] > 0 for row in rows)
    assert all((row["peak_mib"] is None) == stacked for row in rows if row["way"] == "engine")
