"""Take a first look at model and data, report what was read, and stop if there is a doubt."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from repairkit.core import attacked, errors, suite
from repairkit.core.outputs import OutputForm
from repairkit.core.process.stages import READING_LOG, Deadline, event, stage
from repairkit.data.dataset import Dataset
from repairkit.data.parts import Parts, label_bins
from repairkit.data.usual import class_orders, usual_ways
from repairkit.formats.score_size import Ends
from repairkit.jobs.setup import first_look, workbench
from repairkit.metrics.catalogue import definition_of, is_user_metric

logger = logging.getLogger(READING_LOG)

_SECONDS = 8.0
_PATIENCE = 15.0  # more seconds, if the job is about to stop
_SHARE_OF_LIMIT = 0.05
_OTHER_SEED = 0x100C  # so that these images are not drawn as the parts were
_SHOWN = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A model whose outputs can be computed, and the data that it is judged on."""

    subject: workbench.Subject
    settings: workbench.Settings
    dataset: Dataset
    parts: Parts
    form: OutputForm
    n_classes: int
    outputs: Callable[[suite.Suite], suite.Array]


def looked_at(
    bench: workbench.Bench,
    deadline: Deadline | None,
    *,
    thorough: first_look.Thorough = "doubt",
    go_on: bool = False,
) -> workbench.Bench:
    """The bench with a first look, if one can be taken.

    Args:
        bench: of a job that judges the model on labels.
        deadline: of the job.
        thorough: which preprocessings are tried.
        go_on: whether a doubt is only reported and does not stop the job.

    Raises:
        PreprocessingError: there is a doubt and it was not accepted.
    """
    if bench.look is not None or bench.unjudged or bench.form is None:
        return bench
    scene = Scene(
        subject=bench.subject,
        settings=bench.settings,
        dataset=bench.dataset,
        parts=bench.parts,
        form=bench.form,
        n_classes=bench.n_classes,
        outputs=bench.working.run_plain,
    )
    look = _take_look(scene, deadline, thorough=thorough)
    if look is None:
        return bench
    accepted = go_on or bench.settings.accept_preprocessing
    bench = replace(bench, look=replace(look, accepted=accepted))
    if look.doubt and not accepted:
        tell_reading(bench.reading)
        raise _refusal(bench.subject, look)
    return bench


def look_or_stop(scene: Scene) -> first_look.FirstLook | first_look.ErrorLook | None:
    """Take a first look and log it at once.

    Raises:
        PreprocessingError: there is a doubt and it was not accepted.
    """
    look = _take_look(scene, None, thorough="doubt")
    if look is None:
        return None
    look = replace(look, accepted=scene.settings.accept_preprocessing)
    tell_first_look(look.to_json())
    if look.doubt and not look.accepted:
        raise _refusal(scene.subject, look)
    return look


def _take_look(
    scene: Scene, deadline: Deadline | None, *, thorough: first_look.Thorough
) -> first_look.FirstLook | first_look.ErrorLook | None:
    """A first look; None if the data has no labels or all metrics are user-defined."""
    settings, dataset = scene.settings, scene.dataset
    if not dataset.labelled or all(is_user_metric(name) for name in settings.metrics):
        return None
    images = _images(scene.parts, settings.seed)
    if not len(images):
        return None
    if scene.form.kind == "values":
        return _look_at_errors(scene, images)
    labels, spec = dataset.annotations.labels, scene.subject.spec
    if labels.dtype.kind not in "iu" or scene.n_classes < 2:
        return None
    spec = spec.with_layout(settings.preprocessing.layout)
    ways = usual_ways(
        dataset.images, spec, settings.preprocessing, images.indices[: first_look.TRIED_IMAGES]
    )
    names = dataset.annotations.class_names
    orders = class_orders(
        labels,
        names,
        dataset.reading,
        scene.n_classes,
        from_folder=settings.data_file is not None and settings.data_file.is_dir(),
        first_column=0 if settings.columns is None else settings.columns[0],
    )
    return first_look.take_first_look(
        first_look.AskedModel(scene.outputs, scene.form, scene.n_classes, tuple(names)),
        images,
        ways,
        orders,
        _pains(deadline, thorough, settings.seed),
    )


def _pains(deadline: Deadline | None, thorough: first_look.Thorough, seed: int) -> first_look.Pains:
    if thorough == "all":
        return first_look.Pains(thorough, 4 * _PATIENCE, 4 * _PATIENCE, seed)
    if deadline is None:
        return first_look.Pains(thorough, _SECONDS, _PATIENCE, seed)
    seconds = max(0.0, min(_SECONDS, _SHARE_OF_LIMIT * deadline.seconds, deadline.left / 2))
    return first_look.Pains(thorough, seconds, 0.0, seed)


def _refusal(
    subject: workbench.Subject, look: first_look.FirstLook | first_look.ErrorLook
) -> errors.PreprocessingError:
    return errors.PreprocessingError(
        f"{subject.file.path}: {look.doubt}; {look.remedy}; or go on as it is with "
        "--accept-preprocessing"
    )


def _images(parts: Parts, seed: int) -> suite.Suite:
    """Selection images outside the test part, up to the number of a first look.

    Each beginning has each class and group at its share. What was made from images is left out.
    """
    for part in (parts.selection, parts.calibration):
        positions = np.flatnonzero(~np.isin(part.indices, parts.test.indices))
        if len(positions):
            break
    else:  # the parts are the same images, and the result says so
        part, positions = parts.selection, np.arange(len(parts.selection))
    positions = positions[~attacked.made(part.annotations)[positions]]
    clean = part.take(positions)
    return clean.take(_evenly(clean.annotations, np.random.default_rng((seed, _OTHER_SEED))))


def _evenly(about: suite.Annotations, rng: np.random.Generator) -> suite.Indices:
    """Positions of up to `MOST_IMAGES` images; every beginning of them resembles the whole."""
    strata = label_bins(about.labels)
    if about.groups is not None:
        strata = strata * (int(about.groups.max(initial=0)) + 1) + about.groups
    drawn = rng.permutation(len(strata))
    keys = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = drawn[strata[drawn] == stratum]
        keys[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(keys, kind="stable")[: first_look.MOST_IMAGES]


@stage("comparing with the mean answer")
def _look_at_errors(scene: Scene, images: suite.Suite) -> first_look.ErrorLook:
    """The error of a regressor beside that of the mean answer."""
    labels = images.annotations.labels.astype(np.float64)
    answers = scene.form.class_scores(scene.outputs(images))[:, 0]
    return first_look.ErrorLook(
        float(np.abs(answers - labels).mean()),
        float(np.abs(labels - labels.mean()).mean()),
        len(labels),
        images.name,
    )


def tell_reading(read: Mapping[str, Any]) -> None:
    """Log what was read; the command line shows it."""
    logger.info("%s", "\n".join(reading_lines(read)), extra=event("read", **read))


def tell_first_look(look: Mapping[str, Any]) -> None:
    """Log only a first look, for jobs that report nothing else about their data."""
    logger.info(
        "%s", "\n".join(first_look.first_look_lines(look)), extra=event("first_look", look=look)
    )


def reading_lines(read: Mapping[str, Any]) -> Iterator[str]:
    """What was read, in words: a few lines for any number of classes."""
    sizes = {name: f"{name} {n}" if n else f"{name} none" for name, n in read["parts"].items()}
    by_design = read.get("means", "")
    if by_design:
        sizes["calibration"] += f" ({by_design})"
    unused = f", in no part {read['in_no_part']}" if read["in_no_part"] else ""
    labels = f"; {read['labels']}" if read["labels"] else ""
    if not read["images"]:
        yield "no images were given"
        return
    apart = sum(n for name, n in read["parts"].items() if name != "calibration" or not by_design)
    shared = " (the parts share images)" if apart + read["in_no_part"] > read["images"] else ""
    yield f"read {read['images']:,} images{labels}"
    yield f"images by part: {', '.join(sizes.values())}{unused}{shared}"
    for noun in ("classes", "groups"):
        counts = read[noun]
        if counts:
            held = [i for i, n in enumerate(read["parts"].values()) if n]
            rows = [f"{name} {'/'.join(str(row[i]) for i in held)}" for name, row in counts.items()]
            more = f", ... and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
            order = "/".join(list(read["parts"])[i] for i in held)
            yield f"images of the {len(rows)} {noun} ({order}): {', '.join(rows[:_SHOWN])}{more}"
    if "slices" in read:
        yield f"slices of errors were found by {read['slices']['features']}"
        yield from slice_lines(read["slices"])
    if read["outputs"]:
        yield str(read["outputs"])
    yield from (f"left out: {sentence}" for sentence in read["left_out"])
    if "first_look" in read:
        yield from first_look.first_look_lines(read["first_look"])


def slice_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A line for each slice of errors: its size, its accuracy out of fold, its mistakes."""
    for row in found["slices"]:
        accuracy = row["accuracy"]
        ends = f"{100 * accuracy['ci_low']:.1f} to {100 * accuracy['ci_high']:.1f}"
        mistakes = [f"{m['label']} taken for {m['answer']} ({m['n']})" for m in row["mistakes"]]
        most = f"; mostly {', '.join(mistakes)}" if mistakes else ""
        n_images = f"{row['n_images']:,} selection images"
        yield f"{row['name']}: {n_images}, {100 * accuracy['value']:.1f} % right ({ends}){most}"


def told_of_ends(ends: Mapping[str, Ends]) -> list[str]:
    """Notes for a model that does no better than without its filters: check its images.

    Args:
        ends: V(all) and V(none) by metric.
    """
    notes = []
    for name, figures in ends.items():
        definition = definition_of(name)
        if definition is None or not definition.shows_skill:
            continue
        measure = definition.measure
        if measure.sign * (figures["all"] - figures["none"]) <= 0:
            notes.append(
                f"with all filters {name} is {measure.figure(figures['all'])}, no better than "
                f"{measure.figure(figures['none'])} with none: check that images and labels are "
                "what the model was trained with (--scale, --mean, --std, --color, --classes)"
            )
    return notes
