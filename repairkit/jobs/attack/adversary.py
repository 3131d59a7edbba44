"""Who attacks and whom: the model that is judged, and a method that makes images against it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.attacks import Pgd, PixelBox, Square, pgd, square
from repairkit.core.errors import SettingsError
from repairkit.core.outputs import OutputForm
from repairkit.core.patch import Figure
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Suite
from repairkit.data.dataset import Dataset
from repairkit.data.sources.archive import read_archive
from repairkit.engine.batching import settle_batching
from repairkit.engine.runner import OpenModel
from repairkit.formats.attack_file import RECORD, AttackRecord, attack_record
from repairkit.jobs.attack.sources import GradientSource
from repairkit.jobs.setup.preparing import check_labels, read_dataset, settle_form, with_inputs
from repairkit.jobs.setup.workbench import Settings, Subject, first_images
from repairkit.metrics.evaluation import wilson

# The least positive number of 32 bits: the logarithm of an output that is 0 must be finite.
_LEAST = 1e-45


@dataclass(frozen=True)
class Judged:
    """A model, its output and the form of it, for attacks and for telling what came of them."""

    opened: OpenModel
    form: OutputForm
    n_classes: int
    batch_size: int

    def outputs(self, images: Array) -> Array:
        """The judged output for images, in order."""
        parts = [
            self.opened.run(images[i : i + self.batch_size])
            for i in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(parts)

    def scores(self, images: Array) -> NDArray[np.float64]:
        """A row per image: logits, or logarithms of probabilities."""
        scores = self.form.class_scores(self.outputs(images))
        if "probabilit" in self.form.kind:
            return np.log(np.maximum(scores, _LEAST))
        return scores


@dataclass(frozen=True)
class Attack:
    """A method, the pixel range that it keeps to, and the model whose gradients it follows."""

    method: Pgd | Square
    box: PixelBox
    judged: Judged
    source: GradientSource | None

    def __post_init__(self) -> None:
        if isinstance(self.method, Square) and self.source is not None:
            raise SettingsError(
                "square asks the ONNX model alone; leave --source out, or use --method pgd"
            )
        if isinstance(self.method, Pgd) and self.source is None:
            raise SettingsError(
                "pgd follows gradients, which an ONNX file does not give; name the framework's "
                "model with --source, or attack the ONNX file alone with --method square"
            )

    def __call__(
        self,
        images: Array,
        targets: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> Array:
        """Adversarial images for targets."""
        made = []
        size = self.judged.batch_size
        with stage("attacking", total=len(images)) as tell:
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                made.append(self._attack(images[part], targets[part], rng))
                tell(min(start + size, len(images)))
        return np.concatenate(made)

    def _attack(self, images: Array, targets: NDArray[np.intp], rng: np.random.Generator) -> Array:
        """Some images at once."""
        if isinstance(self.method, Pgd):
            assert self.source is not None
            gradients = self.source.gradients
            return pgd(images, targets, gradients, box=self.box, settings=self.method, rng=rng)
        scores = self.judged.scores
        return square(images, targets, scores, box=self.box, settings=self.method, rng=rng)


def open_judged(subject: Subject, settings: Settings) -> tuple[Dataset, Judged]:
    """The data, and the model that is judged on it.

    Raises:
        SettingsError: the model is no classifier of images in floating point.
        RepairkitError: data or model cannot be read.
    """
    if subject.spec.layout == "other" or subject.spec.dtype.kind != "f":
        raise SettingsError(
            f"{subject.file.path}: takes {subject.spec.dtype} of {len(subject.spec.shape)} axes an "
            "image, and attacks need images of three axes in floating point"
        )
    dataset = read_dataset(subject, settings, regression=False)
    subject = with_inputs(subject, settings, dataset)
    if dataset.further:
        raise SettingsError(
            f"an attack changes images alone and the data feeds {', '.join(dataset.further)} with "
            "each of them; give constants with --input"
        )
    few = first_images(dataset, 8)
    proof = few.batch(np.arange(len(few)))
    declared = subject.opened(device=settings.device)
    opened = settle_batching(declared, proof, outputs=(subject.output,)).opened
    everything = Suite.whole("all", dataset.images, dataset.annotations)
    form, n_classes = settle_form(
        opened.run(proof),
        settings,
        subject,
        lambda: opened.run_suite(everything, settings.batch_size),
        regression=False,
    )
    if form is None or n_classes < 2:
        raise SettingsError("an attack needs a model that tells classes apart")
    check_labels(dataset, n_classes, regression=False)
    return dataset, Judged(opened, form, n_classes, settings.batch_size)


def read_attack_settings(path: Path) -> AttackRecord:
    """How the images of an attack's file were made.

    Raises:
        DataError: the file is none, or was not written by `repairkit attack`.
    """
    return attack_record(path, read_archive(path).get(RECORD))


def share(hits: NDArray[np.bool_]) -> Figure:
    """A share of images with Wilson's 95 % interval."""
    value = float(hits.mean())
    return Figure(value, *wilson(float(hits.sum()), len(hits)))
