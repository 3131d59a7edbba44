"""What an atlas of 50 filters costs on public models: seconds, CPU seconds, and the page's size.

    REPAIRKIT_ZOO=... python benchmarks/atlas.py [mlperf_resnet8 mesonet ...] [--filters N]

The zoo holds labelled images for one of the models alone. The others are shown CIFAR-10 or
Fashion-MNIST images of their size, with the model's own answers for labels; a detector is judged by
its best score. Filters are ranked by the size of their activations, which costs next to nothing:
what is timed is the atlas. CPU seconds are those of all cores and hold beside other work.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.wild import METRICS, ZOO, _answers, image_input

N_IMAGES = 400
BAR_SECONDS, BAR_BYTES = 180, 10_000_000


@dataclass(frozen=True)
class Trial:
    """A model, the images that it is shown, and how its pixels are made ready."""

    model: str
    data: str
    options: tuple[str, ...] = ()
    scale: float = 1.0
    mean: float = 0.0
    metric: str = "accuracy"

    @property
    def reading(self) -> list[str]:
        words = [f"--scale={self.scale!r}"] if self.scale != 1.0 else []
        return [*words, *([f"--mean={self.mean!r}"] if self.mean else []), *self.options]


TRIALS = (
    Trial("mlperf_resnet8", "cifar10_jpeg_test10k"),
    Trial("mesonet", "cifar10_jpeg_test10k", scale=1 / 255),
    Trial("gender_mini_XCEPTION", "fashion_test10k", scale=2 / 255, mean=1.0),
    Trial(
        "ultraface_rfb320",
        "cifar10_jpeg_test10k",
        options=("--output", "scores", "--trust"),
        scale=1 / 128,
        mean=0.99,
        metric="own:best_face",
    ),
)


def prepare(trial: Trial, folder: Path) -> Path:
    """Images of the model's size as `.npz`, in bytes."""
    model = onnx.load(ZOO / "models" / f"{trial.model}.onnx")
    name, shape, _ = image_input(model)
    channels_last = shape[-1] in (1, 3)
    height, width = shape[:2] if channels_last else shape[1:]
    with np.load(ZOO / "data" / f"{trial.data}.npz") as stored:
        images, labels = stored["x"][:N_IMAGES], stored["y"][:N_IMAGES]
    sized = np.stack([_sized(image, width, height) for image in images])
    sized = sized[..., None] if sized.ndim == 3 else sized
    stored_as = sized if channels_last else sized.transpose(0, 3, 1, 2)
    if trial.model != "mlperf_resnet8":
        ready = stored_as.astype(np.float32) * trial.scale - trial.mean
        labels = _answers(folder / "labels.onnx", model, name, ready.astype(np.float32))
        if len(np.unique(labels)) < 2 or trial.metric != "accuracy":
            labels = np.arange(len(images)) % 2  # made up: nothing is told of them
    path = folder / f"{trial.model}.npz"
    np.savez(path, x=stored_as, y=labels)
    return path


def _sized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def run(folder: Path, *words: str) -> tuple[float, float]:
    """Seconds and CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    code = "from repairkit.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(folder)])}
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--quiet"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=[trial.model for trial in TRIALS])
    parser.add_argument("--filters", type=int, default=50)
    given = parser.parse_args()
    print(
        f"{'model':24s} {'filters':>7s} {'seconds':>8s} {'CPU s':>7s} {'no dreams':>9s} {'MB':>6s}"
    )
    for trial in TRIALS:
        if trial.model not in given.models:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "own.py").write_text(METRICS, encoding="utf-8")
            data = prepare(trial, folder)
            model = ZOO / "models" / f"{trial.model}.onnx"
            trust = ["--trust"] if "--trust" in trial.options else []
            words = ["--data", str(data), "--metric", trial.metric, "--method", "activation-norm"]
            words += [*trial.reading, "--accept-preprocessing", "--no-curve", "-o", "run"]
            run(folder, "score", str(model), *words)
            atlas = ["atlas", "run", "--filters", str(given.filters), *trust]
            _, plain = run(folder, *atlas, "--no-dreams", "-o", "plain.html")
            seconds, cpu = run(folder, *atlas)
            page = folder / "run" / "atlas.html"
            size, n = page.stat().st_size, page.read_text(encoding="utf-8").count("<article")
            print(
                f"{trial.model:24s} {n:7d} {seconds:8.1f} {cpu:7.1f} {plain:9.1f} {size / 1e6:6.2f}"
                + ("" if cpu <= 2 * BAR_SECONDS and size <= BAR_BYTES else "  over the bar"),
                flush=True,
            )


if __name__ == "__main__":
    main()
