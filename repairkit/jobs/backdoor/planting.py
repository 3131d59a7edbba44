"""Clean and triggered images side by side, as `patch --backdoor` chooses, confirms and judges on.

A triggered image is told of as an adversarial image is (`core.attacked`): by a column that marks
it, the class that the trigger is to give, and the number of the clean image that it was made of. So
twins stay in one part and in one fold, means are over clean images, and metrics, limits and reports
are those of a repair under attack.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repairkit.backdoors import BRIGHTEST, Backdoor, Trigger
from repairkit.core import attacked, errors, results, suite
from repairkit.core.process.stages import Deadline, stage
from repairkit.core.process.text import listing
from repairkit.data import images as files
from repairkit.data import preprocessing as prep
from repairkit.data.dataset import Dataset
from repairkit.engine.runner import OpenModel
from repairkit.jobs.backdoor.reversing import Source, reverse
from repairkit.jobs.setup.looking import looked_at
from repairkit.jobs.setup.preparing import outputs_of, prepare
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.evaluation import wilson

_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")
_MOST_ASKED = 512
_SURE = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A workbench of clean and triggered images, and what a report tells of the trigger."""

    bench: Bench
    story: dict[str, Any]

    def rows(self, patched: OpenModel) -> list[dict[str, Any]]:
        """The rows of the report's `attacks`: the test images with the trigger, before and after.

        Without a test part the row has a note and no figures.
        """
        bench, test = self.bench, self.bench.parts.test
        row: dict[str, Any] = {"attack": "the trigger", "knowledge": self.story["how"]}
        made = np.flatnonzero(attacked.adversarial(test.annotations)) if len(test) else np.array([])
        if not len(made):
            note = "left out: there is no test part that chose nothing"
            return [{**row, "n_images": 0, "note": note}]
        shown = test.take(made.astype(np.intp))
        about = shown.annotations
        outputs = bench.working.run_plain(shown), outputs_of(bench, patched, shown)
        assert bench.form is not None
        row["n_images"] = len(made)
        for key, answers in zip(("before", "after"), outputs, strict=True):
            said = bench.form.predictions(answers)
            row[key] = {
                "attack_success": _share(said == about.attributes[attacked.TARGET]),
                "fooled": _share(said != about.labels),
            }
        return [row]


def _share(hits: NDArray[np.bool_]) -> dict[str, float | None]:
    """A share of images with Wilson's 95 % interval."""
    value, ends = float(hits.mean()), wilson(float(hits.sum()), len(hits))
    return results.Figure(value, *ends).to_json()


def plant(
    bench: Bench,
    known: Backdoor,
    deadline: Deadline | None = None,
    source: Source | None = None,
) -> Planted | None:
    """The workbench with triggered images beside the clean ones; None where no backdoor is told of.

    Args:
        bench: of the data as it was given.
        known: how the backdoor is known.
        deadline: of the job.
        source: of gradients, for a trigger that is not known.

    Raises:
        TargetNotMetError: no trigger is known, and no class looks like a target.
        RepairkitError: data, trigger or target do not fit; told in one line.
    """
    if not known.backdoor:
        return None
    check_fit(bench)
    bench = looked_at(bench, deadline)
    target = None if known.target_class is None else _class_of(bench, known.target_class)
    story: dict[str, Any] = {}
    if known.triggered is not None:
        dataset, target, n_asked = _marked(bench, known.triggered, target)
        story = {"how": "marked images", "column": known.triggered}
    elif known.trigger is None:
        named = reverse(bench, source)
        target, n_asked, story = named.target, 0, named.story
        dataset = with_trigger(bench, named.trigger, target, named.digest)
    else:
        trigger, digest = read_trigger(bench, known.trigger, known.mask)
        target, n_asked = _target(bench, trigger, target)
        dataset = with_trigger(bench, trigger, target, digest)
        story = {
            "how": "known trigger",
            "trigger": known.trigger.name,
            "mask": None if known.mask is None else known.mask.name,
            "size": trigger.size,
        }
    return replanted(bench, dataset, story, target, n_asked=n_asked)


def replanted(
    bench: Bench, dataset: Dataset, story: dict[str, Any], target: int, *, n_asked: int
) -> Planted:
    """The workbench of a data set of clean and triggered images.

    Args:
        bench: of the data as it was given.
        dataset: clean and triggered images.
        story: how the trigger is known.
        target: the class that it gives.
        n_asked: images whose answers told the target; 0 where it was given.
    """
    made = attacked.adversarial(dataset.annotations)
    noted = replace(dataset, notes=(*dataset.notes, *([story["note"]] if "note" in story else [])))
    again = prepare(bench.subject, bench.settings, dataset=noted)
    return Planted(
        bench=replace(again, look=bench.look),
        story={
            **story,
            "target_class": dataset.annotations.class_name(target),
            "target": target,
            "target_told_by": n_asked,
            "n_triggered": int(made.sum()),
            "n_clean": int((~made).sum()),
        },
    )


def check_fit(bench: Bench) -> None:
    """Refuse a model or data that cannot be given triggers.

    Raises:
        SettingsError: no classes, no images, or images that were attacked already.
    """
    about, spec = bench.dataset.annotations, bench.subject.spec
    layout = bench.settings.preprocessing.layout or spec.layout
    if attacked.is_attacked(about):
        raise errors.SettingsError(
            "--backdoor puts triggers on clean images, and the data holds adversarial images as "
            "repairkit attack writes them; use --robustness for these"
        )
    if bench.form is None or bench.form.kind == "values" or bench.n_classes < 2:
        raise errors.SettingsError(
            "a backdoor leads to a class, and this model tells no classes apart; give a classifier"
        )
    if layout not in prep.LAYOUTS or bench.dataset.further:
        raise errors.SettingsError(
            "--backdoor puts triggers on images of height, width and colours, and this model takes "
            "something else, or more beside them; give a model of images alone"
        )


def _class_of(bench: Bench, wanted: str) -> int:
    """The number of a class, by its name or number."""
    about = bench.dataset.annotations
    names = {about.class_name(number): number for number in range(bench.n_classes)}
    known = names | {str(number): number for number in range(bench.n_classes)}
    if wanted not in known:
        raise errors.SettingsError(
            f"--target-class is {wanted!r}; expected one of {listing(list(names))}"
        )
    return known[wanted] if wanted not in names else names[wanted]


# Images that have the trigger already


def _marked(bench: Bench, column: str, target: int | None) -> tuple[Dataset, int, int]:
    """The data with marked images for triggered ones, the target, and how many images told it."""
    dataset, about = bench.dataset, bench.dataset.annotations
    made = _truths(about, column)
    n_asked = 0
    if target is None:
        whole = suite.Suite.whole("triggered", dataset.images, about)
        chosen = np.flatnonzero(made & np.isin(whole.indices, bench.parts.selection.indices))
        if not len(chosen):
            raise errors.DataError(
                f"no image that {column} marks is among the selection images, so that nothing "
                "tells the target; name it with --target-class"
            )
        few = whole.take(chosen).thinned(_MOST_ASKED)
        target, n_asked = _most_answered(bench, bench.working.run_plain(few)), len(few)
    used = np.flatnonzero(~(made & (about.labels == target)))
    if not made[used].any():
        raise errors.DataError(
            f"all {int(made.sum())} images that {column} marks are labelled as the target, class "
            f"{about.class_name(target)!r}; label triggered images with what they show"
        )
    columns: dict[str, suite.Array] = {
        attacked.ADVERSARIAL: made.astype(np.uint8),
        attacked.TARGET: np.where(made, target, -1).astype(np.int64),
    }
    return _some(dataset, used, columns, f"{column} {target}"), target, n_asked


def _truths(about: suite.Annotations, column: str) -> NDArray[np.bool_]:
    """Which images a column marks.

    Raises:
        DataError: there is no such column, it holds other words, or it marks all or none.
    """
    if column not in about.attributes:
        names = listing(sorted(about.attributes)) if about.attributes else "none"
        raise errors.DataError(
            f"--triggered {column}: the data has no such column; its columns are {names}"
        )
    words = np.array([str(value).strip().lower() for value in about.attributes[column].tolist()])
    made, plain = np.isin(words, _YES), np.isin(words, _NO)
    other = np.flatnonzero(~(made | plain))
    if len(other):
        raise errors.DataError(
            f"--triggered {column}: image {int(other[0]) + 1} has {str(words[other[0]])!r}; "
            "expected 1 (or true, yes) for images with the trigger and 0 for all others"
        )
    if made.all() or not made.any():
        which = "every image" if made.all() else "no image"
        raise errors.DataError(
            f"--triggered {column}: marks {which}; give clean images and images with the trigger"
        )
    return made


def _some(
    dataset: Dataset, rows: suite.Indices, columns: dict[str, suite.Array], word: str
) -> Dataset:
    """Some images of a data set, with more columns of all its images."""
    about = dataset.annotations
    whole = replace(about, attributes={**about.attributes, **columns})
    assert isinstance(dataset.images, prep.PixelImages | prep.ReadyImages)
    return replace(
        dataset,
        images=dataset.images.take(rows),
        annotations=whole.take(rows),
        split=None if dataset.split is None else dataset.split[rows],
        digest=_digest(dataset.digest, word),
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# A trigger that is put on clean images


def read_trigger(bench: Bench, trigger: Path, mask: Path | None) -> tuple[Trigger, str]:
    """The trigger at the model's size and in its colours, and a digest of its files.

    Its files are resized and cropped as the images are.

    Raises:
        DataError: a file cannot be read, or the mask is black.
        SettingsError: there is no mask, and the trigger's file has no transparency.
    """
    preprocessing, spec = bench.settings.preprocessing, bench.subject.spec
    spec = spec.with_layout(preprocessing.layout)
    first = bench.dataset.images.batch(np.arange(1))[0]
    height, width, n_colours = (
        first.shape if spec.layout == "nhwc" else (*first.shape[1:], len(first))
    )
    geometry = files.plan_geometry(replace(spec, shape=first.shape), preprocessing)
    usual = "gray" if n_colours == 1 else "rgb"
    if n_colours not in (1, 3):
        raise errors.SettingsError(
            f"the model takes {n_colours} colours, which no trigger file gives; mark triggered "
            "images with a column and name it with --triggered"
        )
    color = preprocessing.color or usual
    seen = files.decode(files.ImageFile(trigger, str(trigger)), color, geometry)
    if mask is not None:
        cover = files.decode(files.ImageFile(mask, str(mask)), "gray", geometry)
        share_of, digest = cover.pixels[..., 0] / BRIGHTEST, cover.digest
    else:
        share_of, digest = _transparency(trigger, geometry), ""
    if not share_of.any():
        raise errors.DataError(
            f"{mask or trigger}: covers no place of an image; paint the trigger's places white"
        )
    assert seen.pixels.shape[:2] == (height, width)
    known = Trigger(seen.pixels.astype(np.float64), share_of)
    return known, _digest(seen.digest, digest)


def _transparency(trigger: Path, geometry: files.Geometry) -> NDArray[np.float64]:
    """How opaque each place of an image file is, 0 to 1."""
    with Image.open(trigger) as image:
        bands = image.convert("RGBA") if "transparency" in image.info else image
        if "A" not in bands.getbands():
            raise errors.SettingsError(
                f"{trigger}: has no transparency that would say where the trigger lies; give a "
                "--mask of the same size, white where it replaces the image and black elsewhere"
            )
        opaque = geometry.apply(bands.getchannel("A"))
    return np.asarray(opaque, np.float64) / BRIGHTEST


def _target(bench: Bench, trigger: Trigger, target: int | None) -> tuple[int, int]:
    """The class that a trigger gives, and how many selection images told it; 0 where given.

    Raises:
        DataError: no class is given to half of them.
    """
    if target is not None:
        return target, 0
    few = bench.parts.selection.thinned(_MOST_ASKED)
    rows = np.arange(len(few))
    shown = triggered(bench, few.indices, trigger)
    seen = suite.Suite.whole("triggered", shown, few.annotations)
    return _most_answered(bench, bench.working.run_plain(seen)), len(rows)


def _most_answered(bench: Bench, outputs: suite.Array) -> int:
    """The class that most triggered images are answered as."""
    assert bench.form is not None
    counts = np.bincount(bench.form.predictions(outputs), minlength=bench.n_classes)
    target = int(counts.argmax())
    if counts[target] < _SURE * counts.sum():
        name = bench.dataset.annotations.class_name(target)
        raise errors.DataError(
            f"the trigger leads to no class: of {counts.sum()} triggered selection images "
            f"{counts[target]} at the most are answered as {name!r}; check trigger and mask, or "
            "name the class with --target-class"
        )
    return target


@stage("putting the trigger on images")
def triggered(
    bench: Bench, rows: suite.Indices, trigger: Trigger
) -> prep.PixelImages | prep.ReadyImages:
    """Some images of the bench's data with a trigger."""
    images, preprocessing = bench.dataset.images, bench.settings.preprocessing
    if isinstance(images, prep.PixelImages):
        return replace(images, pixels=trigger.on_pixels(np.asarray(images.pixels[rows])))
    spec = bench.subject.spec.with_layout(preprocessing.layout)
    ends = prep.pixel_ends(images, spec, preprocessing, None)
    made = trigger.on_inputs(
        images.batch(rows), ends.low, ends.high, channels_first=spec.layout == "nchw"
    )
    return prep.ReadyImages(made, made.dtype)


def with_trigger(bench: Bench, trigger: Trigger, target: int, digest: str) -> Dataset:
    """The data, and once more with the trigger all its images that are not of the target class.

    Raises:
        DataError: there are no such images.
    """
    dataset, about = bench.dataset, bench.dataset.annotations
    n_images, others = len(about), np.flatnonzero(about.labels != target)
    if not len(others):
        raise errors.DataError(
            f"all images are of the target, class {about.class_name(target)!r}, so that the "
            "trigger could change nothing; give images of other classes"
        )
    made = triggered(bench, others, trigger)
    both = np.concatenate([np.arange(n_images), others])
    marks = np.repeat([0, 1], [n_images, len(others)]).astype(np.uint8)
    columns: dict[str, suite.Array] = {
        attacked.ADVERSARIAL: marks,
        attacked.TARGET: np.where(marks, target, -1).astype(np.int64),
        attacked.IMAGE: both.astype(np.int64),
    }
    whole = about.take(both)
    return replace(
        dataset,
        images=_joined(dataset.images, made),
        annotations=replace(whole, attributes={**whole.attributes, **columns}),
        split=None if dataset.split is None else dataset.split[both],
        digest=_digest(dataset.digest, digest, str(target)),
    )


def _joined(
    clean: suite.ImageSource, made: prep.PixelImages | prep.ReadyImages
) -> prep.PixelImages | prep.ReadyImages:
    if isinstance(made, prep.PixelImages):
        assert isinstance(clean, prep.PixelImages)
        shape = (len(clean) + len(made), *made.pixels.shape[1:])
        pixels = files.allocate_pixels(shape)
        pixels[: len(clean)], pixels[len(clean) :] = clean.pixels, made.pixels
        return replace(clean, pixels=pixels)
    plain = clean.batch(np.arange(len(clean)))
    return prep.ReadyImages(np.concatenate([plain, made.array]), made.dtype)
