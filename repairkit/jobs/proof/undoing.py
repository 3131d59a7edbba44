"""Apply a patch file to the model that it was made for, revert it, or write it as an overlay.

An overlay holds only the tensors that a patch changes, to be laid over the model at start. What it
gives is the patched model, number for number, and that is proven before it is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from repairkit.core import errors, results, suite
from repairkit.core.process.stages import stage
from repairkit.core.process.text import counted
from repairkit.engine.runner import Feeds
from repairkit.formats import documents, patch_file
from repairkit.graph import baking, metadata, new_weights, protos
from repairkit.graph.kinds import kind, sites
from repairkit.graph.stored import model_files, tensors
from repairkit.jobs.output.destination import Companions, check_result, is_file
from repairkit.jobs.proof import beside, verifying
from repairkit.jobs.proof.overlay_file import ENDING, Overlay, overlay_bytes, read_overlay
from repairkit.jobs.setup.subject import judging_the_model, learn_words
from repairkit.jobs.setup.workbench import Subject


@stage("applying the patch")
@judging_the_model
def apply_patch(
    subject: Subject,
    file: patch_file.PatchFile,
    *,
    out: Path,
    place: Path,
    images: suite.Array | None = None,
    feeds: Feeds | None = None,
) -> results.Applied:
    """Apply a patch file to the model that it was made for, and prove the result.

    Args:
        subject: the model.
        file: the patch file.
        out: the patched model; its statement is written beside it.
        place: where the patch file lies.
        images: real images for the proof, shape (n, *input); generated noise if None.
        feeds: what the model takes beside each of the images, by the names of inputs.

    Raises:
        VerificationError: the patch was made for another model, was altered, changes nothing, or
            its result is not what it promises; nothing is written.
        RepairkitError: `out` cannot be written, or would replace something else.
    """
    check_result(out, subject.file.path)
    beside.check_statement_place(out)
    surveyed, baked = bake_patch(subject, file)
    verified = verifying.prove_patch(
        subject, surveyed, file.patch, baked, images=images, feeds=feeds
    )
    named, source = {place.name: model_files.digest_of_file(place)}, subject.file.path
    before = model_files.files_of(source)
    with documents.outputs(out) as drafts:
        model_files.add_model(drafts, baked.model, out)
        made = model_files.drafted_files(drafts, baked.model, out)
        beside.add_statement(drafts, made, out, source=before, file=file, patch_file=named)
    return results.Applied(out, file.result_digest, verified)


def bake_patch(subject: Subject, file: patch_file.PatchFile) -> tuple[kind.Survey, baking.Baked]:
    """The model that a patch file promises, with the patch's claim in it.

    Raises:
        VerificationError: the patch was made for another model, was altered, or its result is not
            what it promises.
    """
    if subject.file.digest != file.source_digest:
        raise _wrong_model(subject.file, file)
    surveyed, baked = _bake(subject, file)
    if baked.edits != file.edits:
        raise errors.VerificationError(
            "the patch file was altered: the bytes that it keeps are not those that it "
            "changes in this model"
        )
    claim = verifying.sign_claim(file.claim())
    metadata.write_claims(baked.model, [*metadata.read_claims(subject.model), claim])
    digest = model_files.digest_of(baked.model)
    if digest != file.result_digest:
        raise errors.VerificationError(
            f"the result is not the one that the patch file promises (digest {digest[:12]}, not "
            f"{file.result_digest[:12]}); it was altered, or made by another version of repairkit"
        )
    return surveyed, baked


def _bake(subject: Subject, file: patch_file.PatchFile) -> tuple[kind.Survey, baking.Baked]:
    try:
        surveyed = sites.survey(
            subject.model, output=file.output, at=file.sites_at, include=file.include
        )
        return surveyed, baking.bake(surveyed, file.patch)
    except (errors.SettingsError, errors.ModelError) as error:
        raise errors.VerificationError(
            f"the patch file does not fit its model ({error})"
        ) from error


def _wrong_model(
    model: model_files.ModelFile, file: patch_file.PatchFile
) -> errors.VerificationError:
    if file.digest in [claim.get("digest") for claim in metadata.read_claims(model.model)]:
        return errors.VerificationError(f"{model.path}: this patch is in the model already")
    return errors.VerificationError(
        f"{model.path}: the patch was made for another model (digest {file.source_digest[:12]}, "
        f"and this one is {model.digest[:12]})"
    )


_NEAR = "*.patch.json"
_NEAR_SHOWN = 4


def patch_file_beside(model: model_files.ModelFile) -> Path:
    """The patch file of a patched model, where none is named: the one beside the model.

    Raises:
        ModelError: the model was never patched; the message names the patch files in its folder.
        RunFolderError: the model was patched, and its patch file is not beside it.
        VerificationError: the metadata about patches are broken.
    """
    place = Companions.of(model.path).patch_file
    claims = metadata.read_claims(model.model)
    near = sorted(model.path.parent.glob(_NEAR))
    if not claims:
        raise errors.ModelError(f"{model.path}: {_never_patched(near)}")
    if place.is_file():
        return place
    last = claims[-1].get("digest")
    fitting = [str(path) for path in near if _digest_in(path) == last]
    advice = f"it is {fitting[0]}: name it" if fitting else "find it, and name it"
    raise errors.RunFolderError(
        f"{model.path}: was patched, and its patch file {place.name} is not beside it; {advice} "
        "as repairkit revert MODEL PATCH"
    )


def _never_patched(near: Sequence[Path]) -> str:
    """What to say of a model without patches, and which patch files are near."""
    text = "was never patched, so that there is nothing to take off"
    if not near:
        return f"{text}; no patch file is in its folder either; give the model that patch wrote"
    names = [path.name.removesuffix(".patch.json") + ".onnx" for path in near[:_NEAR_SHOWN]]
    more = f" and {len(near) - _NEAR_SHOWN} more" if len(near) > _NEAR_SHOWN else ""
    return f"{text}; patch files in its folder are of {', '.join(names)}{more}: give such a model"


def _digest_in(path: Path) -> str | None:
    """The digest of a patch file; None where the file cannot be read as one."""
    try:
        return patch_file.read_patch_file(path).digest
    except errors.RepairkitError:
        return None


@stage("taking the patch off")
def revert_patch(
    patched: model_files.ModelFile, file: patch_file.PatchFile, *, out: Path
) -> results.Reverted:
    """Restore, byte for byte, the files of the model before a patch.

    Args:
        patched: what the patch made; of several patches the last comes off first.
        file: the patch file.
        out: the model before; weights that lay beside it are put beside `out`. Where that very
            model is there already, nothing is written.

    Raises:
        VerificationError: the model is not what the patch made, or another patch lies upon it;
            nothing is written.
        RepairkitError: `out` cannot be written, or would replace something else.
    """
    is_there = _holds(out, file.source_digest)
    if not is_there:
        check_result(out, patched.path)
    learn_words(patched.model, metadata.read_layer_map(patched.model))
    claims = metadata.read_claims(patched.model)
    if patched.digest != file.result_digest or claims[-1:] != [verifying.sign_claim(file.claim())]:
        raise _not_the_last(patched, claims, file)
    undone = baking.revert(patched.model, file.edits)
    metadata.write_claims(undone, claims[:-1])
    contents = verifying.restored_files(undone, file.layout)
    digest = verifying.digest_of_files(contents, tensors.outside_digests(undone))
    if digest != file.source_digest:
        raise errors.VerificationError(
            f"{patched.path}: undoing the patch does not give back the model that it was made for "
            f"(digest {digest[:12]}, not {file.source_digest[:12]}); the patch file was altered"
        )
    if not is_there:
        with documents.outputs(out) as drafts:
            model_files.place_beside(undone, out, drafts)
            verifying.add_files(drafts, contents, out)
    return results.Reverted(out, digest, file.patch, len(claims) - 1, is_there)


def _holds(path: Path, digest: str) -> bool:
    """Whether a model with this digest is at `path`; False where no model can be read there."""
    try:
        return is_file(path) and model_files.read_model(path).digest == digest
    except errors.RepairkitError:
        return False


def _not_the_last(
    patched: model_files.ModelFile, claims: list[dict[str, Any]], file: patch_file.PatchFile
) -> errors.VerificationError:
    digests = [claim.get("digest") for claim in claims]
    if not claims:
        return errors.VerificationError(
            f"{patched.path}: was never patched, so it was not made by this patch; give the model "
            f"that the patch made (digest {file.result_digest[:12]})"
        )
    if file.digest in digests[:-1]:
        upon = [str(d)[:12] for d in reversed(digests[digests.index(file.digest) + 1 :])]
        return errors.VerificationError(
            f"{patched.path}: {len(upon)} other patches were made upon this one and rest on it; "
            f"take those off first, in this order: {', '.join(upon[:6])}"
        )
    if file.digest in digests:
        return errors.VerificationError(
            f"{patched.path}: was changed after it was patched (digest {patched.digest[:12]}, not "
            f"{file.result_digest[:12]}), so the old bytes would not give back the original"
        )
    return errors.VerificationError(
        f"{patched.path}: was not made by this patch, which is not in it"
    )


# Overlays


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
    file: patch_file.PatchFile,
    *,
    out: Path,
    place: Path,
    images: suite.Array | None = None,
    feeds: Feeds | None = None,
) -> Overlaid:
    """Write the tensors that a patch changes in a model, and prove what they give.

    Args:
        subject: the model that the patch was made for.
        file: the patch file.
        out: the overlay; its statement is written beside it.
        place: where the patch file lies.
        images: real images for the proof, shape (n, *input); generated noise if None.
        feeds: what the model takes beside each of the images, by the names of inputs.

    Raises:
        ModelError: the patch changes more than initializers.
        VerificationError: see `undoing.apply_patch`; nothing is written.
        RepairkitError: `out` cannot be written.
    """
    index = protos.GraphIndex(subject.model)
    needs = new_weights.facts_of(file.edits, lambda _: None, index).needs
    if needs:
        raise errors.ModelError(
            f"an overlay replaces tensors alone, and this patch {needs[0].reason}; deploy the "
            "patched model itself (`repairkit apply`)"
        )
    _check_place(out)
    surveyed, baked = bake_patch(subject, file)
    names = {edit.tensor for edit in file.edits}
    stored = {t.name: t for t in baked.model.graph.initializer if t.name in names}
    missing = names - stored.keys()
    if missing:
        raise errors.ModelError(
            f"{min(missing)!r} is a sparse tensor, which an overlay cannot hold; deploy the "
            "patched model itself (`repairkit apply`)"
        )
    overlay = Overlay(
        tensors={name: np.array(tensors.array_of(t)) for name, t in stored.items()},
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
    named, source = {place.name: model_files.digest_of_file(place)}, subject.file.path
    before = model_files.files_of(source)
    content = overlay_bytes(overlay)
    with documents.outputs(out) as drafts:
        drafts.write(out, content)
        made = {out.name: drafts.digests()[out]}
        beside.add_statement(drafts, made, out, source=before, file=file, patch_file=named)
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
    beside.check_statement_place(out)
    if not out.exists():
        return
    try:
        read_overlay(out)
    except errors.ModelError as error:
        raise errors.RunFolderError(
            f"{out}: something is there that repairkit did not write; move it, or choose another "
            "name with -o"
        ) from error


def lay_over(base: model_files.ModelFile, overlay: Overlay, path: Path) -> model_files.ModelFile:
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
    digest = model_files.digest_of(model)
    if digest != overlay.result:
        raise errors.VerificationError(
            f"{path}: was altered: with it {base.path.name} has the digest {digest[:12]}, and the "
            f"overlay promises {overlay.result[:12]}"
        )
    return replace(base, path=path, model=model, digest=digest)


def _with_tensors(base: ModelProto, overlay: Overlay, path: Path) -> ModelProto:
    model = protos.copied(base)
    stored = {t.name: t for t in model.graph.initializer}
    for name, array in overlay.tensors.items():
        if name not in stored:
            raise errors.VerificationError(
                f"{path}: has a tensor {name!r}, which the model does not have; make it anew"
            )
        held = stored[name]
        now = tensors.array_of(held)
        if (array.dtype, array.shape) != (now.dtype, now.shape):
            raise errors.VerificationError(
                f"{path}: its tensor {name!r} has another shape or type than the model's; make it "
                "anew"
            )
        tensors.store(held, np.arange(array.size), array.reshape(-1))
    return model
