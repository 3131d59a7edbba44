"""Make adversarial images of a data set, and measure how often they fool a model."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from repairkit.attacks import Pgd, PixelBox, Square, random_targets
from repairkit.core import errors, framework, results
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Array, Suite
from repairkit.data.dataset import Dataset
from repairkit.data.parts import Parts, split_parts
from repairkit.data.preprocessing import InputSpec, Preprocessing, pixel_ends
from repairkit.engine import batching, ort
from repairkit.formats import attack_file, documents
from repairkit.jobs.attack import adversary
from repairkit.jobs.output.destination import check_attack_place
from repairkit.jobs.setup import looking, preparing, workbench
from repairkit.jobs.setup.subject import judging_the_model

_PROOF_IMAGES = 64


@dataclass(frozen=True)
class AttackSettings:
    """How to attack.

    Attributes:
        method: `Pgd` needs a source of gradients, `Square` asks the ONNX model alone.
        pixel_range: the darkest and the brightest pixel in the model's input; from the data if
            None.
        at_most: images attacked of each part; all if None.
    """

    method: Pgd | Square = field(default_factory=Pgd)
    pixel_range: tuple[float, float] | None = None
    at_most: int | None = None

    def __post_init__(self) -> None:
        if self.at_most is not None and self.at_most < 1:
            raise errors.SettingsError(
                "at least one image must be attacked; leave --images out for all"
            )


@judging_the_model
def attack(
    subject: workbench.Subject,
    settings: workbench.Settings,
    asked: AttackSettings,
    *,
    out: Path,
    source: tuple[str, framework.FrameworkModel] | None = None,
) -> results.Attacked:
    """Make adversarial images of the selection and the test part, and write them.

    Args:
        subject: the model that is to be fooled.
        settings: images, parts, seed.
        asked: method and strength.
        out: the `.npz`; see `formats.attack_file`.
        source: name and model that gradients come from. If it gives the subject's answers, the
            attack is white-box, else it is a transfer attack.

    Raises:
        RepairkitError: anything that the user can mend.
    """
    check_attack_place(out, settings.data_file)
    dataset, judged = open_judged(subject, settings)
    attack_file.check_columns(dataset.annotations.attributes)
    parts = split_parts(dataset, settings.parts, seed=settings.seed)
    for first, second in parts.overlaps:
        if second == "test":
            raise errors.SettingsError(
                f"the parts {first} and test share images, and an attack's file keeps each image "
                "in one part; name parts that are disjoint"
            )
    scene = looking.Scene(
        subject=subject,
        settings=settings,
        dataset=dataset,
        parts=parts,
        form=judged.form,
        n_classes=judged.n_classes,
        outputs=partial(judged.opened.run_suite, batch_size=judged.batch_size),
    )
    look = looking.look_or_stop(scene)
    rng = np.random.default_rng(settings.seed)
    parts = _fewer(parts, asked.at_most, rng)
    box, origin = pixel_range(dataset, subject.spec, settings.preprocessing, asked.pixel_range)
    few = workbench.first_images(dataset, _PROOF_IMAGES)
    proof = few.batch(np.arange(len(few)))
    given = None if source is None else adversary.attach(*source, proof.shape[1:])
    knowledge = _knowledge(given, judged, proof)
    making = adversary.Attack(asked.method, box, judged, given)
    images, figures = _make(making, dataset, parts, rng)
    document = {
        **_asked(replace(scene, parts=parts), asked, (box, origin), knowledge),
        "first_look": None if look is None else look.to_json(),
        "figures": figures,
        "notes": [*dataset.notes, *workbench.doubts(look)],
    }
    documents.write_bytes(out, attack_file.attack_archive(images, document))
    return results.Attacked(out, document)


def _asked(
    scene: looking.Scene,
    asked: AttackSettings,
    kept: tuple[PixelBox, str],
    source: dict[str, Any],
) -> dict[str, Any]:
    """The entries of the record that say what was attacked, and how."""
    (box, origin), file, parts = kept, scene.subject.file, scene.parts
    suites = (parts.calibration, parts.selection, parts.test)
    return {
        "schema": 1,
        "kind": attack_file.KIND,
        "versions": ort.versions(),
        "method": type(asked.method).__name__.lower(),
        "norm": "L-infinity",
        "targets": "random",
        **asdict(asked.method),
        "model": {"path": str(file.path), "digest": file.digest},
        "source": source,
        "pixel_range": {
            "low": np.ravel(box.low).tolist(),
            "high": np.ravel(box.high).tolist(),
            "channel_axis": box.channel_axis,
            "from": origin,
        },
        "data": {"path": str(scene.settings.data), "digest": scene.dataset.digest},
        "parts": {"how": parts.summary, **{suite.name: len(suite) for suite in suites}},
        "seed": scene.settings.seed,
    }


def _knowledge(
    source: adversary.GradientSource | None, judged: adversary.Judged, proof: Array
) -> dict[str, Any]:
    """What the adversary knows: the model, another model, or only answers."""
    if source is None:
        return {"name": None, "knowledge": "black-box", "parity": None}
    if judged.form.columns is not None:
        raise errors.SettingsError(
            "--columns and --source do not go together: gradients see all columns"
        )
    outputs = source.outputs(proof, judged.batch_size)
    n_classes = OutputForm.detect(outputs).n_classes(outputs)
    if n_classes != judged.n_classes:
        raise errors.SettingsError(
            f"{source.name}: tells {n_classes} classes apart and the attacked model "
            f"{judged.n_classes}; the source must know the same classes"
        )
    distance = adversary.parity(outputs, judged.outputs(proof), judged.form)
    return {
        "name": source.name,
        "framework": source.model.framework,
        "knowledge": "white-box" if distance <= adversary.SAME else "transfer",
        "parity": distance if np.isfinite(distance) else None,
    }


def _make(
    making: adversary.Attack, dataset: Dataset, parts: Parts, rng: np.random.Generator
) -> tuple[attack_file.AttackedImages, dict[str, Any]]:
    """Clean images of all parts, then adversarial ones of two parts; and how often they succeed."""
    attacked = [suite for suite in (parts.selection, parts.test) if len(suite)]
    rows = np.concatenate([suite.indices for suite in attacked])
    clean = np.concatenate([suite.batch(np.arange(len(suite))) for suite in attacked])
    making.box.check(clean)
    labels = dataset.annotations.labels[rows].astype(np.intp)
    targets = random_targets(labels, making.judged.n_classes, rng)
    made = making(clean, targets, rng)
    names = np.repeat([suite.name for suite in attacked], [len(suite) for suite in attacked])
    # A job on this file measures means on all clean images outside the test part, these included.
    apart = np.flatnonzero(~np.isin(parts.calibration.indices, rows))
    still, kept = parts.calibration.batch(apart), parts.calibration.indices[apart]
    every = np.concatenate([kept, rows, rows])
    about = dataset.annotations
    images = attack_file.AttackedImages(
        x=np.concatenate([still, clean, made]),
        y=about.labels[every].astype(np.int64),
        split=np.concatenate([np.repeat(["calibration"], len(kept)), names, names]),
        adversarial=np.repeat([0, 0, 1], [len(kept), len(rows), len(rows)]).astype(np.uint8),
        target=np.concatenate([np.full(len(kept), -1), targets, targets]).astype(np.int64),
        image=every.astype(np.int64),
        attributes={name: column[every] for name, column in about.attributes.items()},
    )
    figures: dict[str, Any] = {"largest_change": making.box.distance(made, clean)}
    before, after = (
        making.judged.form.predictions(making.judged.outputs(i)) for i in (clean, made)
    )
    for suite in attacked:
        here = names == suite.name
        figures[suite.name] = {
            "n_images": int(here.sum()),
            "attack_success": asdict(adversary.share(after[here] == targets[here])),
            "fooled": asdict(adversary.share(after[here] != labels[here])),
            "clean_accuracy": asdict(adversary.share(before[here] == labels[here])),
        }
    return images, figures


def _fewer(parts: Parts, at_most: int | None, rng: np.random.Generator) -> Parts:
    """The parts with at most `at_most` images to attack each, drawn at random."""

    def some(suite: Suite) -> Suite:
        if at_most is None or len(suite) <= at_most:
            return suite
        return suite.take(np.sort(rng.choice(len(suite), at_most, replace=False)))

    return replace(parts, selection=some(parts.selection), test=some(parts.test))


def pixel_range(
    dataset: Dataset,
    spec: InputSpec,
    preprocessing: Preprocessing,
    given: tuple[float, float] | None,
) -> tuple[PixelBox, str]:
    """The pixel range, and a sentence on where it comes from; see `pixel_ends`.

    Raises:
        SettingsError: the range is empty, or the preprocessing does not fit the model.
    """
    axis = 2 if (preprocessing.layout or spec.layout) == "nhwc" else 0
    ends = pixel_ends(dataset.images, spec, preprocessing, given)
    return adversary.pixel_box(ends.low, ends.high, axis, spec.dtype), ends.origin


def open_judged(
    subject: workbench.Subject, settings: workbench.Settings
) -> tuple[Dataset, adversary.Judged]:
    """The data, and the model that is judged on it.

    Raises:
        SettingsError: the model is no classifier of images in floating point.
        RepairkitError: data or model cannot be read.
    """
    if subject.spec.layout == "other" or subject.spec.dtype.kind != "f":
        raise errors.SettingsError(
            f"{subject.file.path}: takes {subject.spec.dtype} of {len(subject.spec.shape)} axes an "
            "image, and attacks need images of three axes in floating point"
        )
    dataset = preparing.read_dataset(subject, settings, regression=False)
    subject = preparing.with_inputs(subject, settings, dataset)
    if dataset.further:
        raise errors.SettingsError(
            f"an attack changes images alone and the data feeds {', '.join(dataset.further)} with "
            "each of them; give constants with --input"
        )
    few = workbench.first_images(dataset, 8)
    proof = few.batch(np.arange(len(few)))
    declared = subject.opened(device=settings.device)
    opened = batching.settle_batching(declared, proof, outputs=(subject.output,)).opened
    everything = Suite.whole("all", dataset.images, dataset.annotations)
    form, n_classes = preparing.settle_form(
        opened.run(proof),
        settings,
        subject,
        lambda: opened.run_suite(everything, settings.batch_size),
        regression=False,
    )
    if form is None or n_classes < 2:
        raise errors.SettingsError("an attack needs a model that tells classes apart")
    preparing.check_labels(dataset, n_classes, regression=False)
    return dataset, adversary.Judged(opened, form, n_classes, settings.batch_size)
