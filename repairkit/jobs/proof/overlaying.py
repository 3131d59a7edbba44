"""A patch as an overlay: only the tensors that it changes, to be laid over the model at start.

Several repairs can share one file of the model. What an overlay gives is the patched model, number
for number, and that is proven before the overlay is written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from repairkit.core import errors, results, suite
from repairkit.core.process.text import counted
from repairkit.engine.runner import Feeds
from repairkit.formats.overlay_file import ENDING, Overlay, read_overlay, write_overlay
from repairkit.formats.patch_file import PatchFile
from repairkit.graph import metadata
from repairkit.graph.protos import copied
from repairkit.graph.stored.model_files import ModelFile, digest_of
from repairkit.graph.stored.tensors import array_of, store
from repairkit.jobs.proof import undoing, verifying
from repairkit.jobs.setup.workbench import Subject

_WHY_NOT = {
    "added": "adds a tensor (a bias that the layer did not have, or a copy of one that is shared)",
    "constant": "changes a number that stands in a node and in no initializer",
    "attribute": "changes a list inside a node, as that of a forest",
}


@dataclass(frozen=True, repr=False)
class Overlaid:
    """An overlay that was written, and what was proven about the model that it gives."""

    out: Path
    overlay: Overlay
    verified: results.Verified

    @property
    def n_bytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(array.nbytes for array in self.overlay.tensors.values())

    def to_json(self) -> dict[str, Any]:
        """What `repairkit overlay --json` prints."""
        rows = {
            name: {"shape": list(array.shape), "type": array.dtype.name}
            for name, array in self.overlay.tensors.items()
        }
        digests = {"base": self.overlay.base, "result": self.overlay.result}
        proven = self.verified.to_json()
        held = {"bytes": self.n_bytes, "initializers": rows}
        return {"overlay": str(self.out), **digests, **held, **proven}

    def __repr__(self) -> str:
        return f"Overlaid: {self.out.name}, {counted(len(self.overlay.tensors), 'tensor')}"


def make_overlay(
    subject: Subject,
    file: PatchFile,
    *,
    out: Path,
    images: suite.Array | None = None,
    feeds: Feeds | None = None,
) -> Overlaid:
    """Write the tensors that a patch changes in a model, and prove what they give.

    Args:
        subject: the model that the patch was made for.
        file: the patch file.
        out: the overlay.
        images: real images for the proof, shape (n, *input); generated noise if None.
        feeds: what the model takes beside each of the images, by the names of inputs.

    Raises:
        ModelError: the patch changes more than initializers.
        VerificationError: see `undoing.apply_patch`; nothing is written.
        RepairkitError: `out` cannot be written.
    """
    reasons = Counter(edit.kind for edit in file.edits if edit.kind != "initializer")
    if reasons:
        kind = next(iter(reasons))
        raise errors.ModelError(
            f"an overlay replaces tensors alone, and this patch {_WHY_NOT[kind]}; deploy the "
            "patched model itself (`repairkit apply`)"
        )
    _check_place(out)
    surveyed, baked = undoing.bake_patch(subject, file)
    names = {edit.tensor for edit in file.edits}
    stored = {t.name: t for t in baked.model.graph.initializer if t.name in names}
    missing = names - stored.keys()
    if missing:
        raise errors.ModelError(
            f"{min(missing)!r} is a sparse tensor, which an overlay cannot hold; deploy the "
            "patched model itself (`repairkit apply`)"
        )
    overlay = Overlay(
        tensors={name: np.array(array_of(t)) for name, t in stored.items()},
        base=file.source_digest,
        result=file.result_digest,
        patch=file.digest,
        claims=tuple(metadata.read_claims(baked.model)),
    )
    laid = lay_over(subject.file, overlay, out)
    assert laid.digest == file.result_digest
    verified = verifying.prove_patch(
        subject, surveyed, file.patch, baked, images=images, feeds=feeds
    )
    write_overlay(overlay, out)
    return Overlaid(out, overlay, verified)


def _check_place(out: Path) -> None:
    """Refuse to replace anything but an overlay.

    Raises:
        SettingsError: the name does not end as one of a safetensors file.
        RunFolderError: something else is there.
    """
    if out.suffix.lower() != ENDING:
        raise errors.SettingsError(
            f"{out}: an overlay is a safetensors file; end its name in {ENDING}"
        )
    if not out.exists():
        return
    try:
        read_overlay(out)
    except errors.ModelError as error:
        raise errors.RunFolderError(
            f"{out}: something is there that repairkit did not write; move it, or choose another "
            "name with -o"
        ) from error


def lay_over(base: ModelFile, overlay: Overlay, path: Path) -> ModelFile:
    """The patched model that an overlay gives, in memory.

    Args:
        base: the model below.
        overlay: made for it.
        path: of the overlay, for messages.

    Raises:
        VerificationError: the overlay is for another model, or was altered.
    """
    if base.digest != overlay.base:
        raise errors.VerificationError(
            f"{path}: is an overlay for another model (digest {overlay.base[:12]}); {base.path} "
            f"has {base.digest[:12]}"
        )
    model = _with_tensors(base.model, overlay, path)
    metadata.write_claims(model, overlay.claims)
    digest = digest_of(model)
    if digest != overlay.result:
        raise errors.VerificationError(
            f"{path}: was altered: with it {base.path.name} has the digest {digest[:12]}, and the "
            f"overlay promises {overlay.result[:12]}"
        )
    return replace(base, path=path, model=model, digest=digest)


def _with_tensors(base: ModelProto, overlay: Overlay, path: Path) -> ModelProto:
    model = copied(base)
    stored = {t.name: t for t in model.graph.initializer}
    for name, array in overlay.tensors.items():
        if name not in stored:
            raise errors.VerificationError(
                f"{path}: has a tensor {name!r}, which the model does not have; make it anew"
            )
        held = stored[name]
        now = array_of(held)
        if (array.dtype, array.shape) != (now.dtype, now.shape):
            raise errors.VerificationError(
                f"{path}: its tensor {name!r} has another shape or type than the model's; make it "
                "anew"
            )
        store(held, np.arange(array.size), array.reshape(-1))
    return model
