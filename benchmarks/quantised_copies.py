"""What quantised copies keep of a repair: the packaged sample, by ways to quantise.

Both the original and the patched model are quantised by ONNX Runtime's tools, with the calibration
images, and judged by `verify --quantised` on the test images. Ways differ in the form of the copy,
in one scale per tensor or per channel, and in whether codes keep a bit free (`reduce_range`). Else
8-bit sums may saturate on x86 processors that lack VNNI.

    python benchmarks/quantised_copies.py [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import quantization

sys.path.insert(0, str(Path(__file__).parent.parent))

import repairkit
from repairkit.api import copy_sample
from repairkit.core.errors import VerificationError

WAYS: dict[str, dict[str, Any]] = {
    f"{form}, a scale per {scale}{', a bit free' if free else ''}": {
        "quant_format": quantization.QuantFormat[form],
        "per_channel": scale == "channel",
        "reduce_range": free,
    }
    for form in ("QDQ", "QOperator")
    for scale in ("tensor", "channel")
    for free in (False, True)
}


class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Prepared images, one at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self.feeds: Iterator[dict[str, np.ndarray]] = iter([{"image": i[None]} for i in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """See onnxruntime."""
        return next(self.feeds, None)


def quantise(source: Path, way: str, images: np.ndarray) -> Path:
    """A copy beside the model."""
    out = source.with_name(f"{source.stem}.quantised.onnx")
    if way == "dynamic":
        quantization.quantize_dynamic(source, out, op_types_to_quantize=["Conv", "Gemm"])
    else:
        quantization.quantize_static(source, out, Images(images), **WAYS[way])
    return out


def row(way: str, pair: tuple[Path, Path], patch_file: Path, images: np.ndarray) -> list[str]:
    """The figures of one way; empty where a check failed, with the reason last."""
    before, after = (quantise(path, way, images) for path in pair)
    try:
        found = repairkit.verify(
            *pair, patch_file=patch_file, quantised=after, quantised_original=before
        ).quantised
    except VerificationError as error:
        return [way, "", "", "", str(error).partition(": ")[2]]
    assert found is not None
    assert found.gain is not None
    figures = found.gain.figures
    gain = found.gain.changes["among_quantised"]
    return [
        way,
        f"{100 * figures['quantised_original'].value:.1f}",
        f"{100 * figures['quantised'].value:.1f}",
        f"{100 * gain.value:+.1f} [{100 * gain.ci_low:+.1f}, {100 * gain.ci_high:+.1f}]",
        found.gain.verdict,
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place)
        model = copy_sample(folder)
        done = repairkit.patch(model, fairness=True, level="best", out=folder / "patched.onnx")
        data = np.load(folder / "digits.npz")
        images = data["x"][data["split"] == "calibration"][:, None].astype(np.float32) / 16
        print("| copy | original | patched | difference | gain |\n|---|---|---|---|---|")
        figures = (done.before, done.after)
        plain = [f"{100 * f.metrics['worst_group_accuracy'].value:.1f}" for f in figures]
        change = done.change["worst_group_accuracy"]
        ends = (
            f"{100 * change.value:+.1f} [{100 * change.ci_low:+.1f}, {100 * change.ci_high:+.1f}]"
        )
        print(f"| none | {' | '.join(plain)} | {ends} | |")
        for way in (*WAYS, "dynamic"):
            print(f"| {' | '.join(row(way, (model, done.out), done.patch_file, images))} |")


if __name__ == "__main__":
    main()
