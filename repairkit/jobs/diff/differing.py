"""Compare two ONNX files, and write what differs as one document and one page."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repairkit.core import errors
from repairkit.core.process.stages import stage
from repairkit.engine.ort import versions
from repairkit.formats import documents
from repairkit.formats.patch_file import PatchFile, read_patch_file
from repairkit.graph import metadata
from repairkit.graph.stored.model_files import ModelFile, read_model
from repairkit.jobs.diff.answers import compare_answers
from repairkit.jobs.diff.around_changes import (
    Ports,
    header_changes,
    metadata_changes,
    storage_changes,
)
from repairkit.jobs.diff.frozen_filters import PatchVerdict, frozen_filters
from repairkit.jobs.diff.graph_changes import compare_graphs
from repairkit.jobs.diff.graph_view import GraphView, opsets_of
from repairkit.jobs.diff.summing_up import verdict_on
from repairkit.jobs.output.destination import Companions, Places, check_replaced
from repairkit.jobs.proof.verifying import verify
from repairkit.jobs.setup.subject import subject_of
from repairkit.jobs.setup.workbench import Settings, Subject
from repairkit.report.diff_page import render_diff

SCHEMA = 1
KIND = "repairkit diff"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Diff:
    """What differs between two models; `document` is what `repairkit diff --json` prints."""

    document: dict[str, Any]
    page: Path | None = None

    @property
    def differs(self) -> bool:
        """Whether anything differs that a reader of the models can see, names included."""
        return bool(self.document["verdict"]["differs"])

    @property
    def same_computation(self) -> bool:
        """Whether both models compute the same from the same inputs, operator by operator."""
        return bool(self.document["verdict"]["same_computation"])

    def to_json(self) -> dict[str, Any]:
        page = {} if self.page is None else {"page": str(self.page)}
        return {**self.document, **page}

    def __repr__(self) -> str:
        return f"Diff({self.document['verdict']['sentence']!r})"


def diff(
    a: Path, b: Path, settings: Settings, *, patch: Path | None = None, page: Path | None = None
) -> Diff:
    """Compare two models.

    Args:
        a: an ONNX file.
        b: another.
        settings: the images on which outputs are compared, and how both are read; without data,
            outputs are compared on noise.
        patch: a patch file; if None, the one beside the patched model, where it is for that model.
        page: the HTML page to write; none if None.

    Raises:
        RepairkitError: a file cannot be read, the images cannot be read, or the page would replace
            another file.
    """
    if page is not None:
        check_replaced(page, b'content="repairkit"', "page of repairkit's")
    files = read_model(a), read_model(b)
    ports = Ports.of(files[0].model, files[1].model)
    with stage("comparing graphs", total=len(files[0].model.graph.node), unit="nodes") as tell:
        changes = compare_graphs(files[0].model, files[1].model, ports.inputs, tell)
    with stage("finding frozen filters"):
        frozen = frozen_filters(*files, changes)
    patched = _judge_patch(*files, patch)
    if files[0].digest == files[1].digest:
        images: dict[str, Any] = {"source": None, "reason": "the files are the same"}
    else:
        images = _images(files, ports, settings)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": KIND,
        "verdict": {},
        "a": _facts(files[0], changes.views[0]),
        "b": _facts(files[1], changes.views[1]),
        "header": list(header_changes(files[0].model, files[1].model)),
        "metadata": list(metadata_changes(files[0].model, files[1].model)),
        "storage": list(storage_changes(a, b)),
        "inputs": ports.changed_inputs,
        "outputs": ports.changed_outputs,
        "nodes": {
            "a": changes.n_nodes[0],
            "b": changes.n_nodes[1],
            "same": changes.n_same,
        },
        "tensors": {"same": changes.n_same_tensors},
        **changes.entries,
        "filters": frozen.to_json(),
        "patch": None if patched is None else patched.to_json(),
        "images": images,
        "versions": versions(),
    }
    same = changes.same_computation and ports.alike
    document["verdict"] = verdict_on(document, changes, frozen, patched, same)
    document = Places.here().cleaned(document)
    if page is not None:
        with documents.outputs(page) as drafts:
            drafts.write(page, render_diff(document).encode())
    return Diff(document, page)


def _facts(file: ModelFile, view: GraphView) -> dict[str, Any]:
    model = file.model
    return {
        "path": Places.here().relative(file.path),
        "digest": file.digest,
        "n_bytes": file.path.stat().st_size,
        "ir_version": model.ir_version,
        "opsets": opsets_of(model.opset_import),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "n_nodes": len(view.nodes),
        "n_tensors": len(view.stored),
        "n_numbers": sum(math.prod(t.shape) for t in view.stored.values()),
    }


# Answers


def _images(files: tuple[ModelFile, ModelFile], ports: Ports, settings: Settings) -> dict[str, Any]:
    """How outputs differ; on noise, a reason where the models do not run."""
    try:
        a = subject_of(
            files[0],
            output=settings.output,
            layout=settings.preprocessing.layout,
            image_input=settings.image_input,
        )
        b = subject_of(
            files[1],
            output=ports.outputs.get(a.output),
            layout=settings.preprocessing.layout,
            image_input=ports.inputs.get(a.input_name),
        )
        _check_inputs(settings, a, b)
        return compare_answers(a, b, settings, ports.outputs)
    except errors.RepairkitError as error:
        if settings.data is not None or isinstance(error, errors.SettingsError):
            raise
        return {"source": None, "reason": str(error)}


def _check_inputs(settings: Settings, a: Subject, b: Subject) -> None:
    """Refuse constants for inputs that neither model has."""
    known = {v.name for subject in (a, b) for v in subject.model.graph.input}
    for name in settings.inputs:
        if name not in known:
            raise errors.SettingsError(
                f"--input {name}: neither model has such an input; they take "
                f"{', '.join(sorted(known))}"
            )


# The patch


def _judge_patch(a: ModelFile, b: ModelFile, named: Path | None) -> PatchVerdict | None:
    """Whether the models differ by exactly the patch that a file or their metadata name.

    Args:
        a: the one model.
        b: the other.
        named: a patch file; if None, the one beside the patched model, if it is for these models.

    Raises:
        RunFolderError: the named file is no patch file.
        VerificationError: the named file was altered.
    """
    file = None if named is None else read_patch_file(named)
    turned = _is_patched_a(a, b, file)
    if turned is None:
        return None
    original, patched = (b, a) if turned else (a, b)
    place = named
    if file is None:
        beside = Companions.of(patched.path).patch_file
        file = _own_patch_file(beside, patched)
        place = beside if file is not None else None
    try:
        verified = verify(subject_of(original), patched, file=file)
    except errors.RepairkitError as error:
        return PatchVerdict(file=place, turned=turned, exactly=False, reason=str(error))
    head = verified.patch.head
    return PatchVerdict(
        file=place,
        turned=turned,
        exactly=True,
        reason="",
        frozen=verified.patch.frozen,
        head="" if head is None else head.kind,
    )


def _is_patched_a(a: ModelFile, b: ModelFile, file: PatchFile | None) -> bool | None:
    """Whether A is the patched model, or B is; None where no patch is named between them."""
    if file is not None:
        return a.digest == file.result_digest or b.digest == file.source_digest
    try:
        ours, theirs = (metadata.read_claims(each.model) for each in (a, b))
    except errors.VerificationError:
        return None  # the metadata are another program's, and shown as such
    if len(theirs) > len(ours) and theirs[: len(ours)] == ours:
        return False
    if len(ours) > len(theirs) and ours[: len(theirs)] == theirs:
        return True
    return None


def _own_patch_file(path: Path, patched: ModelFile) -> PatchFile | None:
    """The patch file beside a model, if it is one and made this model."""
    if not path.is_file():
        return None
    try:
        file = read_patch_file(path)
    except errors.RepairkitError as error:
        logger.warning("the patch file beside the model is not used: %s", error)
        return None
    return file if file.result_digest == patched.digest else None
