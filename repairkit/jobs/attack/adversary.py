"""The model that is attacked and the adversary: a method, and a framework's model for gradients.

An adapter's model that can be repaired as its ONNX file was has a method `patched`. It takes a
patch file and the map of layers, and gives a copy of the model with the filters frozen, or raises
an `AdapterError` where the map lacks a filter.

`judge_attacks` compares a patched model with the original on images that nothing was chosen on. How
many of the adversarial images that the repair was made against still work? How many that are made
anew, by an adversary who knows the patched model? How many that were made against other models
(files of `repairkit attack --source OTHER`)? Freezing filters is a repair against the first, may
help with the third, and is no defence against the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.attacks import Pgd, PixelBox, Square, pgd, square
from repairkit.core import attacked, errors, framework, results, suite
from repairkit.core.outputs import OutputForm
from repairkit.core.process.stages import stage
from repairkit.data.parts import split_parts
from repairkit.data.sources.arrays import read_archive
from repairkit.engine.runner import OpenModel
from repairkit.formats import attack_file, patch_file
from repairkit.graph.metadata import read_layer_map
from repairkit.jobs.export.mapping import Pairing, prove_layers
from repairkit.jobs.setup.preparing import check_labels, read_dataset
from repairkit.jobs.setup.workbench import Bench, Settings, first_images
from repairkit.metrics.evaluation import wilson

SAME = 1e-4
"""Outputs that differ by less, relative to the greatest, are those of the same model."""
Freeze = Callable[[patch_file.PatchFile, framework.LayerMap], framework.FrameworkModel]
"""An adapter's model's `patched`."""
# From an image in NCHW to one in NHWC, and back.
_ORDERS = ((1, 2, 0), (2, 0, 1))
# The least positive number of 32 bits: the logarithm of an output that is 0 must be finite.
_LEAST = 1e-45
_PROOF_IMAGES, _MAPPED_ON = 64, 8
_NO_NEW_HEAD = (
    "left out: the repair changes the last layer, which the framework's model cannot be given; "
    "an adversary who knows the repaired model may succeed as before"
)


@dataclass(frozen=True)
class GradientSource:
    """A model in its framework, fed with the images that an ONNX model takes.

    Attributes:
        name: as the user gave it.
        model: what an adapter loaded.
        order: the axes of an image in the framework's order; None if both orders are the same.
    """

    name: str
    model: framework.FrameworkModel
    order: tuple[int, int, int] | None = None

    def outputs(self, images: suite.Array, batch_size: int = 128) -> suite.Array:
        """The first output for images as the ONNX model takes them."""
        return _in_batches(lambda some: self.model.outputs(self._there(some)), images, batch_size)

    def gradients(self, images: suite.Array, labels: NDArray[np.intp]) -> suite.Array:
        """The gradient of each image's loss for its label, shaped as the images."""
        gradients = self.model.loss_gradients(self._there(images), labels)[1]
        if self.order is None:
            return gradients
        back = _ORDERS[1 - _ORDERS.index(self.order)]
        return gradients.transpose(0, *(axis + 1 for axis in back))

    def patched(self, file: patch_file.PatchFile, layers: framework.LayerMap) -> GradientSource:
        """The source with the filters of a patch frozen in the framework.

        Args:
            file: the patch.
            layers: which channel of which layer each filter is.

        Raises:
            AdapterError: the adapter cannot do that, or not for this patch.
        """
        freeze: Freeze | None = getattr(self.model, "patched", None)
        if freeze is None:
            raise errors.AdapterError(
                f"{self.name}: the adapter of {self.model.framework} cannot freeze filters in the "
                "framework's model"
            )
        return replace(self, model=freeze(file, layers))

    def _there(self, images: suite.Array) -> NDArray[np.float32]:
        if self.order is not None:
            images = images.transpose(0, *(axis + 1 for axis in self.order))
        return np.ascontiguousarray(images, np.float32)


def attach(
    name: str, model: framework.FrameworkModel, image_shape: tuple[int, ...]
) -> GradientSource:
    """The source that takes an ONNX model's images.

    Args:
        name: for messages.
        model: what an adapter loaded.
        image_shape: of one image, as the ONNX model takes it.

    Raises:
        SettingsError: the source takes images of another shape.
    """
    wanted = tuple(model.input_shape)
    if wanted == image_shape:
        return GradientSource(name, model)
    for order in _ORDERS if len(image_shape) == 3 else ():
        if tuple(image_shape[axis] for axis in order) == wanted:
            return GradientSource(name, model, order)
    raise errors.SettingsError(
        f"{name}: takes images of shape {wanted} and the attacked model takes {image_shape}; "
        "the source must take the same images"
    )


def _in_batches(
    compute: Callable[[suite.Array], suite.Array], images: suite.Array, size: int
) -> suite.Array:
    return np.concatenate([compute(images[i : i + size]) for i in range(0, len(images), size)])


def parity(source: suite.Array, judged: suite.Array, form: OutputForm) -> float:
    """The greatest relative difference between a source's outputs and the ONNX model's.

    Logits on one side and their softmax on the other are compared as probabilities. Infinite if the
    outputs cannot be compared.
    """
    source = source.reshape(len(source), -1)
    rows = judged.reshape(len(judged), -1)
    if source.shape != rows.shape or not np.isfinite(source).all():
        return float("inf")
    distances = [_relative(source, rows)]
    if source.shape[1] > 1:
        theirs = OutputForm.detect(source)
        distances.append(
            _relative(
                np.exp(theirs.log_probabilities(source)), np.exp(form.log_probabilities(rows))
            )
        )
    # Probabilities hide a shift of all logits: they count where only one side is normalised.
    normalised = source.shape[1] > 1 and theirs.kind != form.kind
    return distances[-1] if normalised else distances[0]


def _relative(ours: suite.Array, expected: suite.Array) -> float:
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(ours.astype(np.float64) - expected).max(initial=0.0)) / scale


@dataclass(frozen=True)
class Judged:
    """A model, its output and the form of its output: attacked, or judged after an attack."""

    opened: OpenModel
    form: OutputForm
    n_classes: int
    batch_size: int

    def outputs(self, images: suite.Array) -> suite.Array:
        """The judged output for images, in order."""
        return _in_batches(self.opened.run, images, self.batch_size)

    def scores(self, images: suite.Array) -> NDArray[np.float64]:
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
            raise errors.SettingsError(
                "square asks the ONNX model alone; leave --source out, or use --method pgd"
            )
        if isinstance(self.method, Pgd) and self.source is None:
            raise errors.SettingsError(
                "pgd follows gradients, which an ONNX file does not give; name the framework's "
                "model with --source, or attack the ONNX file alone with --method square"
            )

    def __call__(
        self,
        images: suite.Array,
        targets: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> suite.Array:
        """Adversarial images for targets."""
        made = []
        size = self.judged.batch_size
        with stage("attacking", total=len(images)) as tell:
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                made.append(self._attack(images[part], targets[part], rng))
                tell(min(start + size, len(images)))
        return np.concatenate(made)

    def _attack(
        self, images: suite.Array, targets: NDArray[np.intp], rng: np.random.Generator
    ) -> suite.Array:
        """One batch."""
        if isinstance(self.method, Pgd):
            assert self.source is not None
            gradients = self.source.gradients
            return pgd(images, targets, gradients, box=self.box, settings=self.method, rng=rng)
        scores = self.judged.scores
        return square(images, targets, scores, box=self.box, settings=self.method, rng=rng)


def read_attack_settings(path: Path) -> attack_file.AttackRecord:
    """How the images of an attack's file were made.

    Raises:
        DataError: the file cannot be read, or `repairkit attack` did not write it.
    """
    return attack_file.attack_record(path, read_archive(path).get(attack_file.RECORD))


def share(hits: NDArray[np.bool_]) -> results.Figure:
    """A share of images with Wilson's 95 % interval."""
    value = float(hits.mean())
    return results.Figure(value, *wilson(float(hits.sum()), len(hits)))


@dataclass(frozen=True)
class _Pair:
    """The model before and after."""

    before: Judged
    after: Judged

    def row(
        self,
        name: str,
        knowledge: str,
        images: tuple[suite.Array, suite.Array],
        annotations: suite.Annotations,
    ) -> dict[str, Any]:
        """How many images fool each model; `images` were made against the first and the second."""
        targets, labels = annotations.attributes[attacked.TARGET], annotations.labels
        row: dict[str, Any] = {"attack": name, "knowledge": knowledge, "n_images": len(labels)}
        for key, judged, made in zip(
            ("before", "after"), (self.before, self.after), images, strict=True
        ):
            said = judged.form.predictions(judged.outputs(made))
            row[key] = {
                "attack_success": asdict(share(said == targets)),
                "fooled": asdict(share(said != labels)),
            }
        return row


def check_attacks(bench: Bench, fresh: framework.FreshAttacks, *, baselines: bool = False) -> None:
    """Check before any work whether the attacks can be judged.

    Args:
        bench: the workbench of the repair.
        fresh: what the patched model is to be attacked with.
        baselines: whether the source has another use.

    Raises:
        SettingsError: attacks were asked for, and the data holds no adversarial images.
        AdapterError: the source is another model than the one that is repaired.
        DataError: see `judge_attacks`.
    """
    if not attacked.is_attacked(bench.dataset.annotations):
        if fresh.transfers or (fresh.source and not baselines):
            raise errors.SettingsError(
                "--source and --transfer judge a repair under attack, and the data holds no "
                "adversarial images; give --data what repairkit attack wrote, or leave them out"
            )
        return
    _attack_file(bench.settings)
    if not len(bench.parts.test) and (fresh.transfers or (fresh.source and not baselines)):
        raise errors.SettingsError(
            "--source and --transfer attack test images, and --test none leaves none; give a test "
            "part, such as --test 0.3, or leave them out"
        )
    for path in fresh.transfers:
        read_attack_settings(path)
    if fresh.source is not None:
        images = first_images(bench.dataset, _PROOF_IMAGES)
        few = images.batch(np.arange(len(images)))
        given = attach(*fresh.source, few.shape[1:])
        _prove(given, _original(bench), few, "the model that is repaired")


def _attack_file(settings: Settings) -> Path:
    """The file that the attack wrote; its arrays alone do not say how it was made."""
    if settings.data_file is None:
        raise errors.SettingsError(
            "a repair under attack needs the file that repairkit attack wrote, and arrays were "
            "given; name the file as data"
        )
    return settings.data_file


@stage("attacking both models")
def judge_attacks(
    bench: Bench, patched: OpenModel, file: patch_file.PatchFile, fresh: framework.FreshAttacks
) -> list[dict[str, Any]]:
    """A row for each attack: its name, what it knows, and its success before and after.

    A fresh attack that cannot be made is a row with a `note` and no figures.

    Raises:
        DataError: a file of transfers is no attack's, or holds images that filters were scored on.
    """
    before = _original(bench)
    pair = _Pair(before, replace(before, opened=patched))
    test = bench.parts.test
    if not len(test):
        row = {"attack": "the same images", "knowledge": "any", "n_images": 0}
        return [{**row, "note": "left out: there is no test part that chose nothing"}]
    made = np.flatnonzero(attacked.adversarial(test.annotations))
    images = test.batch(made)
    known = test.annotations.take(made)
    record = read_attack_settings(_attack_file(bench.settings))
    rows = [
        pair.row("the same images", record["source"]["knowledge"], (images, images), known),
        _fresh(bench, pair, file, fresh, record),
    ]
    used = _fingerprints(bench.parts.selection) | _fingerprints(bench.parts.calibration)
    return rows + [_transfer(bench, pair, path, used) for path in fresh.transfers]


def _original(bench: Bench) -> Judged:
    """The model as it is."""
    assert bench.form is not None
    return Judged(
        bench.working.opened, bench.form, bench.n_classes, bench.working.effort.batch_size
    )


def _fresh(
    bench: Bench,
    pair: _Pair,
    file: patch_file.PatchFile,
    fresh: framework.FreshAttacks,
    record: attack_file.AttackRecord,
) -> dict[str, Any]:
    """The test images attacked again, for the original and for the patched model."""
    method = _method(record)
    row: dict[str, Any] = {"attack": "a fresh attack", "knowledge": "white-box", "n_images": 0}
    if isinstance(method, Square):
        row["knowledge"] = "black-box"
    elif fresh.source is None:
        return {**row, "note": "left out: its gradients need the framework's model, --source"}
    elif file.patch.head is not None:
        return {**row, "note": _NO_NEW_HEAD}
    test = bench.parts.test
    known = test.annotations.take(np.flatnonzero(attacked.adversarial(test.annotations)))
    images = test.batch(_clean_twins(test.annotations))
    sources: tuple[GradientSource | None, GradientSource | None] = (None, None)
    if isinstance(method, Pgd):
        assert fresh.source is not None
        given = attach(*fresh.source, images.shape[1:])
        try:
            frozen = given.patched(file, _layers(bench, given, images))
            _prove(frozen, pair.after, images, "the patched model")
        except errors.AdapterError as error:
            return {**row, "note": f"left out: {error}"}
        sources = given, frozen
    kept = record["pixel_range"]
    box = pixel_box(kept["low"], kept["high"], kept["channel_axis"], images.dtype)
    targets = known.attributes[attacked.TARGET].astype(np.intp)
    made = [
        Attack(method, box, judged, source)(
            images, targets, np.random.default_rng([bench.settings.seed, 1])
        )
        for judged, source in zip((pair.before, pair.after), sources, strict=True)
    ]
    return pair.row("a fresh attack", row["knowledge"], (made[0], made[1]), known)


def _layers(bench: Bench, source: GradientSource, images: suite.Array) -> framework.LayerMap:
    """The layer of each filter: as the ONNX file says, else found and proven.

    Raises:
        AdapterError: the file does not say it, and the framework has images in another layout.
    """
    known = read_layer_map(bench.subject.model)
    if known is not None:
        return known
    if source.order is not None:
        raise errors.AdapterError(
            "the ONNX file does not say which layers its filters are; write it with repairkit "
            "export"
        )
    return prove_layers(Pairing(source.model, bench.subject, images[:_MAPPED_ON], SAME))


def _clean_twins(annotations: suite.Annotations) -> NDArray[np.intp]:
    """The position of the clean image of each adversarial image, in their order."""
    made, numbers = attacked.adversarial(annotations), annotations.attributes.get(attacked.IMAGE)
    if numbers is not None:
        clean = {number: row for row, number in enumerate(numbers.tolist()) if not made[row]}
        if set(numbers[made].tolist()) <= set(clean):
            return np.array([clean[number] for number in numbers[made].tolist()], np.intp)
    raise errors.DataError(
        "the test part holds adversarial images without the clean ones that they were made of; "
        "leave --selection and --test to the split of the attack's file"
    )


def _prove(source: GradientSource, judged: Judged, images: suite.Array, what: str) -> None:
    """Check that the source is the judged model, as a white-box attack requires."""
    few = images[:_PROOF_IMAGES]
    distance = parity(source.outputs(few, judged.batch_size), judged.outputs(few), judged.form)
    if not distance <= SAME:
        raise errors.AdapterError(
            f"{source.name}: gives other answers than {what} (greatest difference {distance:.1e}, "
            f"at most {SAME:g} expected); give the --source that the ONNX file was "
            "exported from"
        )


def _transfer(bench: Bench, pair: _Pair, path: Path, used: set[bytes]) -> dict[str, Any]:
    """Images of another attack's test part, none of which was used to score or choose."""
    record = read_attack_settings(path)
    settings = replace(bench.settings, data=path)
    dataset = read_dataset(bench.subject, settings, regression=False)
    if not attacked.is_attacked(dataset.annotations):
        raise errors.DataError(
            f"{path}: holds no adversarial images; make it with repairkit attack"
        )
    check_labels(dataset, bench.n_classes, regression=False)
    test = split_parts(dataset, settings.parts, seed=settings.seed).test
    flags = attacked.adversarial(test.annotations)
    if _fingerprints(test.take(np.flatnonzero(~flags))) & used:
        raise errors.DataError(
            f"{path}: its test part holds images that filters were scored or chosen on; attack the "
            "same data with the same seed and parts"
        )
    made = np.flatnonzero(flags)
    images = test.batch(made)
    source = record["source"]
    name = f"from {source['name'] or 'the ONNX model'}"
    return pair.row(name, source["knowledge"], (images, images), test.annotations.take(made))


def _fingerprints(images: suite.Suite) -> set[bytes]:
    """Digests of images."""
    digests = set()
    for start in range(0, len(images), 256):
        rows = np.arange(start, min(start + 256, len(images)))
        digests |= {
            hashlib.blake2b(i.tobytes(), digest_size=16).digest() for i in images.batch(rows)
        }
    return digests


def _method(record: attack_file.AttackRecord) -> Pgd | Square:
    if record["method"] == "pgd":
        return Pgd(
            record["epsilon"], record["n_steps"], record["step_size"], record["random_start"]
        )
    return Square(record["epsilon"], record["n_queries"], record["first_share"])


def pixel_box(low: Any, high: Any, channel_axis: int, dtype: np.dtype[Any]) -> PixelBox:
    """The box of a range for each channel, or of one range for all."""
    shape = (-1, 1, 1) if channel_axis == 0 else (1, 1, -1)
    darkest, brightest = (np.array(end, dtype).reshape(shape) for end in (low, high))
    return PixelBox(darkest, brightest, channel_axis)
