"""What a patch file, or the claims in a patched model, tell of compiled models.

The edits of a patch file say whether new weights are enough. The sizes of tensors stand in its
entry `runtime`; a file of an earlier version has none, and the patched model beside it tells them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repairkit.core import errors, filters, results
from repairkit.core.process.text import counted
from repairkit.formats.patch_file import RUNTIME, PatchFile, read_patch_file
from repairkit.graph import metadata, new_weights
from repairkit.graph.stored.model_files import ModelFile, read_model
from repairkit.jobs.output.destination import Companions, is_file
from repairkit.notebook import cells, frames, lines
from repairkit.report import wording

if TYPE_CHECKING:
    from pandas import DataFrame

ENDING = ".patch.json"
_MOST_AXES = 64


@dataclass(frozen=True, kw_only=True, repr=False)
class PatchInspected:
    """What a patch file says of the models before and after, and of runtimes.

    Attributes:
        path: of the patch file.
        file: what it holds.
        runtime: what the patch means for a runtime.
    """

    path: Path
    file: PatchFile
    runtime: new_weights.RuntimeFacts

    def to_json(self) -> dict[str, Any]:
        """What `repairkit inspect PATCH --json` prints."""
        file, head = self.file, self.file.patch.head
        return {
            "patch_file": str(self.path),
            "digest": file.digest,
            "source": {"digest": file.source_digest},
            "result": {"digest": file.result_digest},
            "frozen": [results.frozen_entry(frozen) for frozen in file.patch.frozen],
            "head": None if head is None else {"kind": head.kind, "layer": head.layer},
            RUNTIME: self.runtime.to_json(),
            "caches": {"stale": [file.source_digest], "current": file.result_digest},
        }

    def __repr__(self) -> str:
        needs = self.runtime.needs
        words = f"it {needs[0].reason}" if needs else "new weights are enough"
        n_frozen = counted(len(self.file.patch), "filter")
        return lines.cut(f"PatchInspected: {lines.short(self.path)}, {n_frozen} frozen; {words}")

    def _repr_html_(self) -> str:
        """For a notebook: whether new weights are enough, and the changed tensors."""
        document = self.to_json()
        told = wording.runtime_in_words(document[RUNTIME])
        caches = document["caches"]
        told.append(wording.stale_in_words(caches["stale"], caches["current"]))
        rows = [{**row, "shape": str(row["shape"])} for row in document[RUNTIME]["tensors"]]
        return cells.cell(*map(cells.sentence, told), cells.table_of("Changed tensors", rows))

    def to_pandas(self) -> DataFrame:
        """A row for each changed tensor: its kind, shape, type, bytes, and numbers changed.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.frame(self.to_json()[RUNTIME]["tensors"])


def inspect_patch(path: Path) -> PatchInspected:
    """Read a patch file and tell what it means for a runtime.

    Args:
        path: a file that `patch` wrote.

    Raises:
        RunFolderError: it is missing, or no patch file of this version.
        VerificationError: it was altered.
    """
    file = read_patch_file(path)
    sizes = _told_sizes(file.story.get(RUNTIME))
    model = None if sizes else _model_beside(path, file)
    keys: Sequence[str] = () if model is None else new_weights.cache_keys_of(model.model)
    told = file.story.get(RUNTIME)
    if isinstance(told, Mapping) and isinstance(told.get("cache_keys"), list):
        keys = [key for key in told["cache_keys"] if isinstance(key, str)]

    def size_of(edit: filters.TensorEdit) -> new_weights.Size | None:
        if model is not None:
            return new_weights.size_in(model.model, edit)
        return sizes.get((edit.kind, edit.tensor))

    runtime = new_weights.facts_of(file.edits, size_of, cache_keys=tuple(keys))
    return PatchInspected(path=path, file=file, runtime=runtime)


def _told_sizes(told: object) -> dict[tuple[str, str], new_weights.Size]:
    """The sizes of tensors that an entry of a patch file tells, by kind and name."""
    rows = told.get("tensors") if isinstance(told, Mapping) else None
    sizes: dict[tuple[str, str], new_weights.Size] = {}
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, Mapping):
            continue
        shape, dtype, n_bytes = (row.get(key) for key in ("shape", "type", "bytes"))
        whole = isinstance(shape, list) and len(shape) <= _MOST_AXES
        whole = whole and all(type(size) is int for size in (*(shape or ()), n_bytes))
        if whole and isinstance(dtype, str):
            key = str(row.get("kind")), str(row.get("name"))
            sizes[key] = tuple(shape or ()), dtype, int(n_bytes or 0)
    return sizes


def _model_beside(path: Path, file: PatchFile) -> ModelFile | None:
    """The patched model beside a patch file; None where there is none, or another."""
    place = path.with_name(f"{path.name.removesuffix(ENDING)}.onnx")
    if not path.name.endswith(ENDING) or not is_file(place):
        return None
    try:
        model = read_model(place)
    except errors.RepairkitError:
        return None  # whatever lies there, it is not what the patch made
    return model if model.digest == file.result_digest else None


# A patched model


@dataclass(frozen=True, kw_only=True)
class PatchesInside:
    """The patches that a model's metadata claim.

    Attributes:
        claims: oldest first.
        last: of the patch file beside the model, if it made the model.
        note: why nothing is told; empty where all is well.
    """

    claims: tuple[dict[str, Any], ...] = ()
    last: PatchInspected | None = None
    note: str = ""

    def to_json(self, digest: str) -> dict[str, Any]:
        """The entries `patches` and `caches` of `repairkit inspect MODEL --json`.

        Args:
            digest: of the model.
        """
        rows = [_row(claim) for claim in self.claims]
        stale = [row["source"] for row in rows if row["source"] is not None]
        entries = {"patches": rows, "caches": {"stale": stale, "current": digest}}
        return entries | ({} if self.last is None else {RUNTIME: self.last.runtime.to_json()})


def _row(claim: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a claim, which anyone may have written."""
    frozen, head = claim.get("frozen"), claim.get("head")
    texts = {key: claim.get(key) for key in ("digest", "source")}
    return {
        **{key: text if isinstance(text, str) else None for key, text in texts.items()},
        "n_frozen": len(frozen) if isinstance(frozen, list) else 0,
        "head": str(head.get("kind")) if isinstance(head, dict) else None,
    }


def patches_inside(model: ModelFile) -> PatchesInside:
    """What a model says of patches made to it, and what the last one means for a runtime."""
    try:
        claims = metadata.read_claims(model.model)
    except errors.VerificationError as error:
        return PatchesInside(note=str(error))
    beside = Companions.of(model.path).patch_file
    if not claims or not is_file(beside):
        return PatchesInside(claims=tuple(claims))
    try:
        last = inspect_patch(beside)
    except errors.RepairkitError as error:
        return PatchesInside(claims=tuple(claims), note=str(error))
    fits = last.file.result_digest == model.digest
    return PatchesInside(claims=tuple(claims), last=last if fits else None)
