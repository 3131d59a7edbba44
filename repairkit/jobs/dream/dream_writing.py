"""The whole job: dream filters, and write pictures, images and the record, all or none."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repairkit.core import errors, framework
from repairkit.core.filters import Filter
from repairkit.core.process.text import counted
from repairkit.engine import ort
from repairkit.formats import documents, dreams_file
from repairkit.jobs.dream.dream import Dream, DreamSettings
from repairkit.jobs.dream.dreaming import dream_filters
from repairkit.jobs.dream.pixel_input import settle_pixels
from repairkit.jobs.output.destination import check_replaced, is_file, probe
from repairkit.jobs.setup.subject import judging_the_model
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.jobs.setup.workbench import Bench, Settings, Subject

_LEAST_SIDE = 192  # of a picture's file, in pixels


@dataclass(frozen=True, repr=False)
class Dreamt:
    """Dreams, their record, and the folder that holds their pictures; None if none was wanted."""

    dreams: tuple[Dream, ...]
    document: dreams_file.DreamsDocument
    folder: Path | None

    def __repr__(self) -> str:
        n_filters = len({dream.filter for dream in self.dreams})
        dreams = counted(len(self.dreams), "dream")
        return f"Dreamt: {dreams} of {counted(n_filters, 'filter')}"

    def to_json(self) -> dict[str, Any]:
        """The record, and where it lies."""
        folder = None if self.folder is None else str(self.folder)
        return {"out": folder, **self.document}


@judging_the_model
def dream(
    subject: Subject,
    settings: Settings,
    filters: Sequence[Filter],
    asked: DreamSettings,
    *,
    out: Path | None,
    source: tuple[str, framework.FrameworkModel] | None = None,
) -> Dreamt:
    """Dream filters and write what they look like.

    Args:
        subject: the model.
        settings: of the job; its data are the real images, if there are any.
        filters: by site, or by the framework's layer where the model's map has it.
        asked: how to dream.
        out: the folder for pictures; none if None.
        source: name and framework's model that gives gradients; forward passes alone if None.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    if out is not None:
        _check_folder(out)
    layers = subject.layer_map
    wanted = [f if layers is None else layers.filter_named(f) for f in filters]
    if settings.data is None:
        settings = replace(settings, absent="zero")  # no filter is frozen
    bench = prepare_unjudged(subject, settings, sites=[f.site for f in wanted])
    began = time.perf_counter()
    dreams = dream_filters(bench, wanted, asked, source=source)
    document = _document(bench, dreams, asked, source, time.perf_counter() - began)
    if out is not None:
        _write(out, dreams, document)
    return Dreamt(dreams, document, out)


def _check_folder(out: Path) -> None:
    """Before anything is computed: only dreams are replaced."""
    if out.exists() and not out.is_dir():
        raise errors.RunFolderError(
            f"{out}: is a file and dreams are written into a folder; choose another name with -o"
        )
    record = out / dreams_file.DREAMS_FILE
    check_replaced(record, f'"kind": "{dreams_file.KIND}"'.encode(), "record of repairkit dream")
    if not is_file(record) and out.is_dir() and any(out.iterdir()):
        raise errors.RunFolderError(
            f"{out}: holds other files and no {dreams_file.DREAMS_FILE}; give an empty or new "
            "folder with -o"
        )
    probe(record)


def _document(
    bench: Bench,
    dreams: Sequence[Dream],
    asked: DreamSettings,
    source: tuple[str, framework.FrameworkModel] | None,
    seconds: float,
) -> dreams_file.DreamsDocument:
    spec, preparation = bench.subject.spec, bench.settings.preprocessing
    pixels = settle_pixels(spec, preparation, bench.dataset, asked.pixel_range)
    real = dreams[0].real
    return {
        "schema": dreams_file.SCHEMA,
        "kind": dreams_file.KIND,
        "versions": ort.versions(),
        "model": {"path": str(bench.subject.file.path), "digest": bench.subject.file.digest},
        "source": None if source is None else source[0],
        "at": "centre" if asked.at == "centre" else "channel",
        "way": dreams[0].way,
        "diverse": asked.diverse,
        "seed": bench.settings.seed,
        "pixels": {
            "low": pixels.low.tolist(),
            "high": pixels.high.tolist(),
            "origin": pixels.origin,
        },
        "images": None
        if real is None
        else {
            "path": str(bench.settings.data),
            "digest": bench.dataset.digest,
            "part": bench.parts.selection.name,
            "n_images": real.n_images,
        },
        "dreams": [
            _record(bench, position, dream, diverse=asked.diverse > 1)
            for position, dream in enumerate(dreams)
        ],
        "seconds": seconds,
        "notes": list(bench.dataset.notes),
    }


def _record(bench: Bench, position: int, dream: Dream, *, diverse: bool) -> dreams_file.DreamRecord:
    real, layers, window = dream.real, bench.subject.layer_map, dream.window
    origin = None if layers is None else layers.origin(dream.filter)
    record: dreams_file.DreamRecord = {
        "filter": dream.filter.id,
        "number": dream.number,
        "picture": dreams_file.picture_name(
            position, dream.filter.id, dream.number, diverse=diverse
        ),
        "window": {
            "row": window.row,
            "column": window.column,
            "height": window.height,
            "width": window.width,
        },
        "response": dream.response,
        "best_real": None if real is None else real.best,
        "mean_real": None if real is None else real.mean,
        "spread_real": None if real is None else real.spread,
        "excess": dream.excess,
        "control_filter": None if dream.control_filter is None else dream.control_filter.id,
        "control": dream.control,
        "control_excess": dream.control_excess,
        "passes": dream.passes,
    }
    if origin is not None:
        record["layer"] = str(origin)
    return record


def _write(out: Path, dreams: Sequence[Dream], document: dreams_file.DreamsDocument) -> None:
    record = out / dreams_file.DREAMS_FILE
    inputs = io.BytesIO()
    np.savez_compressed(inputs, x=np.stack([dream.input for dream in dreams]))
    with documents.outputs(record) as drafts:
        for dream, entry in zip(dreams, document["dreams"], strict=True):
            drafts.write(out / entry["picture"], png_of(dream))
        drafts.write(out / dreams_file.INPUTS_FILE, inputs.getvalue())
        drafts.write(record, documents.to_json(document).encode("utf-8"))


def png_of(dream: Dream) -> bytes:
    """The picture of a dream as a PNG, with each pixel enlarged to a square where it is small."""
    factor = max(1, -(-_LEAST_SIDE // max(dream.image.shape[:2])))
    large = dream.image.repeat(factor, axis=0).repeat(factor, axis=1)
    stored = io.BytesIO()
    Image.fromarray(large if large.shape[2] == 3 else large[..., 0]).save(stored, "PNG")
    return stored.getvalue()
