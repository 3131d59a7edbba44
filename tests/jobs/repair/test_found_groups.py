"""A whole repair with `--group auto`: the page shows the slices, and workers change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort

import repairkit as kit

SAMPLE = Path(__file__).parents[3] / "samples" / "digits"


def test_slices_are_repaired_and_shown_and_the_true_group_gains(tmp_path: Path) -> None:
    reports = []
    for workers in (1, 2):
        out = tmp_path / f"repaired-{workers}.onnx"
        done = kit.patch(
            SAMPLE / "model.onnx", out=out, fairness=True, groups="auto", repair="bias",
            workers=workers,
        )  # fmt: skip
        reports.append(json.loads(done.report_file.read_text(encoding="utf-8")))
    first, second = (report["read"]["slices"] for report in reports)
    assert first == second
    assert (tmp_path / "repaired-1.onnx").read_bytes() == out.read_bytes()
    assert done.change["worst_group_accuracy"].ci_low > 0
    page = out.with_suffix(".report.html").read_text(encoding="utf-8")
    section = page.split('id="slices"')[1].split("</section>")[0]
    assert section.count("<h3>") == len(first["slices"])
    assert section.count("<image ") == 8 * len(first["slices"])
    with np.load(SAMPLE / "digits.npz") as stored:
        kept = (stored["split"] == "test") & (stored["polarity"] == "dark-on-light")
        images = stored["x"][kept, None].astype(np.float32) / np.float32(16)
        labels = stored["y"][kept].astype(int)
    shares = []
    for model in (SAMPLE / "model.onnx", out):
        session = ort.InferenceSession(model)
        (scores,) = session.run(None, {session.get_inputs()[0].name: images})
        shares.append(float((scores.argmax(axis=1) == labels).mean()))
    assert shares[1] > shares[0] + 0.1


def test_a_run_folder_holds_the_slices_and_its_page_shows_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    kit.score(
        SAMPLE / "model.onnx", out=run, groups="auto", metric="worst_group_accuracy",
        method="activation-norm",
    )  # fmt: skip
    told = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert told["settings"]["groups"] == ["auto"]
    assert next(row["name"] for row in told["read"]["slices"]["slices"]) == "slice 1"
    kit.report(run)
    assert 'id="slices"' in (run / "report.html").read_text(encoding="utf-8")
