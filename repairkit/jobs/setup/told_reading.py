"""What was read of the data, told before anything is spent: images by part, class and group."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.outputs import OutputForm
from repairkit.core.process.stages import READING_LOG
from repairkit.core.suite import Annotations
from repairkit.data.dataset import Dataset
from repairkit.data.parts import Parts
from repairkit.formats.run_file import Ends
from repairkit.jobs.output.unattended import event
from repairkit.jobs.setup.first_look import ErrorLook, FirstLook, first_look_lines
from repairkit.metrics.catalogue import definition_of

logger = logging.getLogger(READING_LOG)
_SHOWN = 8


def told_reading(
    dataset: Dataset,
    parts: Parts,
    *,
    form: OutputForm | None,
    look: FirstLook | ErrorLook | None,
) -> dict[str, Any]:
    """The entry `read` of `run.json` and of reports.

    Counts are by part in the order calibration, selection, test. A class or group that no part
    holds is left out of them. `means` says which images a calibration part holds that was left
    open: it holds the selection images, and that is by design.
    """
    suites = (parts.calibration, parts.selection, parts.test)
    whole = dataset.annotations
    annotations = [suite.annotations for suite in suites]
    class_names = _class_names(whole) if dataset.labelled else ()
    return {
        "images": len(whole),
        "labels": dataset.how,
        "outputs": "" if form is None else form.how,
        "parts": {suite.name: len(suite) for suite in suites},
        "means": parts.means,
        "in_no_part": parts.n_unused,
        "classes": _counts([_classes(about) for about in annotations], class_names),
        "groups": _counts([about.groups for about in annotations], whole.group_names),
        "left_out": list(dataset.left_out),
        **({} if look is None else {"first_look": look.to_json()}),
    }


def tell_reading(read: Mapping[str, Any]) -> None:
    """Log what was read; the command line shows it."""
    logger.info("%s", "\n".join(reading_lines(read)), extra=event("read", **read))


def tell_first_look(look: Mapping[str, Any]) -> None:
    """Log a first look alone, for jobs that tell nothing else of what they read."""
    logger.info("%s", "\n".join(first_look_lines(look)), extra=event("first_look", look=look))


def reading_lines(read: Mapping[str, Any]) -> Iterator[str]:
    """The same for people, in a few lines however many classes there are."""
    told = {name: f"{name} {n}" if n else f"{name} none" for name, n in read["parts"].items()}
    by_design = read.get("means", "")
    if by_design:
        told["calibration"] += f" ({by_design})"
    unused = f", in no part {read['in_no_part']}" if read["in_no_part"] else ""
    labels = f"; {read['labels']}" if read["labels"] else ""
    if not read["images"]:
        yield "no images were given"
        return
    apart = sum(n for name, n in read["parts"].items() if name != "calibration" or not by_design)
    shared = " (the parts share images)" if apart + read["in_no_part"] > read["images"] else ""
    yield f"read {read['images']:,} images{labels}"
    yield f"images by part: {', '.join(told.values())}{unused}{shared}"
    for noun in ("classes", "groups"):
        counts = read[noun]
        if counts:
            held = [i for i, n in enumerate(read["parts"].values()) if n]
            rows = [f"{name} {'/'.join(str(row[i]) for i in held)}" for name, row in counts.items()]
            more = f", ... and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
            order = "/".join(list(read["parts"])[i] for i in held)
            yield f"images of the {len(rows)} {noun} ({order}): {', '.join(rows[:_SHOWN])}{more}"
    if read["outputs"]:
        yield str(read["outputs"])
    yield from (f"left out: {sentence}" for sentence in read["left_out"])
    if "first_look" in read:
        yield from first_look_lines(read["first_look"])


def told_of_ends(ends: Mapping[str, Ends]) -> list[str]:
    """A note where the model does no better than without all filters: its images are hardly right.

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


def _classes(about: Annotations) -> Array | None:
    return about.labels if about.labels.dtype.kind in "iu" else None


def _class_names(whole: Annotations) -> tuple[str, ...]:
    if whole.labels.dtype.kind not in "iu":
        return ()
    n_named, n_classes = len(whole.class_names), int(whole.labels.max(initial=-1)) + 1
    return (*whole.class_names, *(str(number) for number in range(n_named, n_classes)))


def _counts(columns: list[Array | None], names: tuple[str, ...]) -> dict[str, list[int]]:
    """Images by name, one number per part."""
    known = [column for column in columns if column is not None]
    if len(known) < len(columns) or not names:
        return {}
    table = np.stack([np.bincount(column, minlength=len(names)) for column in known], axis=1)
    return {name: row for name, row in zip(names, table.tolist(), strict=True) if any(row)}
