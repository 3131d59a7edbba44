"""Prove that a patched model is the original with just the claimed changes.

Other programs write the same model in another order of fields, or keep its weights in files beside
it. The patch file keeps how such files differ from the canonical bytes (their layout), so that
undoing the patch gives back every byte of every file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core import errors, filters, results, suite
from repairkit.core.process import stages, writing
from repairkit.engine.proof import prove, prove_head
from repairkit.engine.runner import Feeds, OpenModel
from repairkit.formats.patch_file import RUNTIME, PatchFile, claim_digest, patch_of_claim
from repairkit.formats.stored_files import StoredFile, describe, restore
from repairkit.graph import baking, metadata, new_weights, protos
from repairkit.graph.coalitions.masking import mask_name, mask_shape, with_gains
from repairkit.graph.kinds import class_head, kind
from repairkit.graph.kinds.sites import instrument, survey
from repairkit.graph.stored import model_files, tensors
from repairkit.jobs.setup.subject import judging_the_model, noise_images
from repairkit.jobs.setup.workbench import Subject

# Relative: a partly frozen filter is rounded in its layer, and later layers propagate that.
_ROUNDED_ELSEWHERE = 1e-4
_SLACK_BYTES = 64 << 20


@stages.stage("verifying")
@judging_the_model
def verify(
    subject: Subject,
    patched: model_files.ModelFile,
    *,
    file: PatchFile | None = None,
    images: suite.Array | None = None,
    feeds: Feeds | None = None,
) -> results.Verified:
    """Bake the claimed patch again, compare bytes, undo it, compare bytes, compare outputs.

    Args:
        subject: the original.
        patched: the model to prove.
        file: the patch file; without it the claims in the model's own metadata are proven, and
            where there are none, what its tensors show to be frozen.
        images: real images, shape (n, *input); generated noise if None.
        feeds: what the model takes beside each of the images, by the names of inputs.

    Raises:
        VerificationError: anything is not as claimed.
    """
    known, claims = (metadata.read_claims(m) for m in (subject.model, patched.model))
    if file is None and claims == known:
        return _verify_inferred(subject, patched, images=images, feeds=feeds)
    if claims == known:
        raise errors.VerificationError(
            f"{patched.path}: its metadata names no patch, so the patch file's is not in it"
        )
    if claims[: len(known)] != known:
        raise another_model(patched, subject, claims[0])
    fresh = claims[len(known) :]
    if file is not None:
        _check_file(file, fresh[-1], patched)
    steps = bake_claims(subject, patched, known, fresh)
    if file is not None and file.edits != steps[-1].baked.edits:
        raise errors.VerificationError(
            "the old bytes that the patch file keeps are not those of the original; the patch "
            "could not be undone from it"
        )
    if not model_files.same_model(steps[-1].baked.model, patched.model):
        raise errors.VerificationError(
            f"{patched.path}: is not the original with just the claimed changes: "
            + model_files.first_difference(steps[-1].baked.model, patched.model)
        )
    if file is not None:
        _check_undoing(file, steps[-1])
        _check_runtime(file, steps[-1])
    verified = _joined([_prove_step(subject, step, images, feeds) for step in steps])
    unproven = () if file is None else (name for name in file.unproven if name != RUNTIME)
    return replace(verified, unproven=tuple(unproven))


def _check_runtime(file: PatchFile, step: ClaimedPatch) -> None:
    """Check what the patch file says of runtimes, where it says anything."""
    index, baked = step.surveyed.index, step.baked
    facts = new_weights.runtime_facts(index, baked.model, baked.edits)
    if RUNTIME in file.story and not new_weights.agrees(file.story[RUNTIME], facts):
        verdict = "new weights alone" if not facts.needs else f"more: it {facts.needs[0].reason}"
        raise errors.VerificationError(
            f"what the patch file says under {RUNTIME!r} does not hold; the patch needs {verdict}"
        )


def _check_undoing(file: PatchFile, step: ClaimedPatch) -> None:
    """Check that the patch file restores every byte of the model before the patch."""
    contents = restored_files(step.model, file.layout)
    if digest_of_files(contents, tensors.outside_digests(step.model)) != file.source_digest:
        raise errors.VerificationError(
            "the patch file's layout of the original does not give back its files; the patch could "
            "not be undone from it"
        )


def _prove_step(
    subject: Subject, step: ClaimedPatch, images: suite.Array | None, feeds: Feeds | None
) -> results.Verified:
    before = replace(subject, file=replace(subject.file, model=step.model))
    return prove_patch(before, step.surveyed, step.patch, step.baked, images=images, feeds=feeds)


def _joined(proofs: list[results.Verified]) -> results.Verified:
    """The proof of several patches: the last constant of each filter, and the worst figures."""
    last = {f.filter: f for verified in proofs for f in verified.patch.frozen}
    heads = [v.patch.head for v in proofs if v.patch.head is not None]
    proof = reduce(results.Proof.joined, (verified.proof for verified in proofs))
    edits = tuple(edit for verified in proofs for edit in verified.edits)
    return replace(
        proofs[-1],
        patch=filters.Patch(tuple(last.values()), heads[-1] if heads else None),
        edits=edits,
        proof=proof,
    )


def _verify_inferred(
    subject: Subject,
    patched: model_files.ModelFile,
    *,
    images: suite.Array | None,
    feeds: Feeds | None,
) -> results.Verified:
    """Prove a model that names no patch: the tensors show what was frozen."""
    surveyed, after = (survey(m, include=["dense"]) for m in (subject.model, patched.model))
    patch = baking.infer_patch(surveyed, after)
    baked = baking.bake(surveyed, patch)
    if not model_files.same_model(baked.model, patched.model):
        raise errors.VerificationError(
            f"{patched.path}: names no patch and differs from the original in more than the "
            f"{len(patch)} filters that are frozen in it: "
            + model_files.first_difference(baked.model, patched.model)
        )
    if not patch.frozen and patch.head is None:
        raise errors.VerificationError(
            f"{patched.path}: is the original; it names no patch and nothing was changed in it"
        )
    verified = prove_patch(
        subject, surveyed, patch, baked, images=images, feeds=feeds, claimed=False
    )
    return replace(verified, inferred=True)


def _check_file(file: PatchFile, claim: dict[str, Any], patched: model_files.ModelFile) -> None:
    if claim["digest"] != file.digest:
        raise errors.VerificationError(
            f"{patched.path}: the patch file is for another patch than the one in the model"
        )
    if file.result_digest != patched.digest:
        raise errors.VerificationError(
            f"{patched.path}: was changed after it was patched (digest {patched.digest[:12]}, not "
            f"{file.result_digest[:12]})"
        )


@stages.stage("proving the patch")
def prove_patch(
    subject: Subject,
    surveyed: kind.Survey,
    patch: filters.Patch,
    baked: baking.Baked,
    *,
    opened: OpenModel | None = None,
    images: suite.Array | None = None,
    feeds: Feeds | None = None,
    claimed: bool = True,
) -> results.Verified:
    """Undo the edits to the original's bytes, and compare outputs with the instrumented model.

    Args:
        subject: the original.
        surveyed: the survey of the original in which the patch's sites were found.
        patch: what was frozen.
        baked: the original with that baked into it.
        opened: the patched model with shared sessions; it is opened for this proof alone if None.
        images: real images, shape (n, *input); generated noise if None.
        feeds: what the model takes beside each of the images, by the names of inputs.
        claimed: whether the last claim in the metadata is this patch's.

    Raises:
        VerificationError: either does not come out equal, or a filter was frozen already.
    """
    _refuse_idle(surveyed, patch)
    undone = baking.revert(baked.model, baked.edits)
    if claimed:
        metadata.write_claims(undone, metadata.read_claims(baked.model)[:-1])
    if not model_files.same_model(undone, subject.model):
        raise errors.VerificationError(
            "undoing the patch does not give the original back: "
            + model_files.first_difference(undone, subject.model)
        )
    rows = noise_images(subject) if images is None else images
    proofs = _proofs(subject, surveyed, patch, baked, opened=opened, images=rows, feeds=feeds)
    for proof in proofs:
        if not proof.holds:
            raise errors.VerificationError(
                f"the patched model's outputs differ from {proof.against} "
                f"(relative difference {proof.relative:.3g} on {proof.n_images} images)"
            )
    return results.Verified(
        patch=patch,
        edits=baked.edits,
        proof=reduce(results.Proof.joined, proofs),
        images="generated noise" if images is None else "given images",
    )


def _proofs(
    subject: Subject,
    surveyed: kind.Survey,
    patch: filters.Patch,
    baked: baking.Baked,
    *,
    opened: OpenModel | None,
    images: suite.Array,
    feeds: Feeds | None,
) -> list[results.Proof]:
    """The outputs compared for the head, if it was changed, and for the frozen filters, if any."""
    original = subject.opened()
    whole = original.variant(subject.runnable(baked.model))
    if opened is not None:
        whole = replace(opened.on_cpu(), step=original.step)
    frozen, proofs = whole, []
    if patch.head is not None:
        without_head = baking.bake(surveyed, filters.Patch(patch.frozen)).model
        frozen = original.variant(subject.runnable(without_head))
        proofs.append(prove_head(whole, frozen, patch.head, images, feeds=feeds))
    if patch.frozen:
        instrumented, masks = _masked(subject.model, surveyed, patch)
        exact = all(not f.gain and surveyed.layers[f.filter.site].is_exact for f in patch.frozen)
        tolerance = 0.0 if exact else _ROUNDED_ELSEWHERE
        proofs.append(
            prove(
                frozen,
                original.variant(subject.runnable(instrumented)),
                masks,
                images,
                feeds=feeds,
                tolerance=tolerance,
            )
        )
    return proofs


def _masked(
    model: ModelProto, surveyed: kind.Survey, patch: filters.Patch
) -> tuple[ModelProto, dict[str, NDArray[np.bool_]]]:
    """The instrumented model, with masks and levels under which it does what the patch does."""
    sites = tuple(s for s in surveyed.sites if s.name in {f.site for f in patch.filters})
    levels: filters.FilterMeans = {s.name: np.zeros(s.level_shape) for s in sites}
    masks = {s.name: np.ones(mask_shape(s, 1), bool) for s in sites}
    gains = {s.name: np.zeros(s.n_channels) for s in sites}
    for f in patch.frozen:
        site, channel = f.filter.site, f.filter.channel
        levels[site][channel], gains[site][channel] = f.constant, f.gain
        masks[site].reshape(-1)[channel] = False
    instrumented = instrument(model, sites, levels)
    partly = {site: gain for site, gain in gains.items() if gain.any()}
    return (
        with_gains(instrumented, sites, partly),
        {mask_name(site): masks[site.name] for site in sites},
    )


def _refuse_idle(surveyed: kind.Survey, patch: filters.Patch) -> None:
    """Refuse a patch with a change that changes nothing."""
    if patch.head is not None and not baking.changes_head(
        class_head.head_named(surveyed.index, patch.head.layer), patch.head
    ):
        raise errors.VerificationError(
            f"the new numbers of the last layer {patch.head.layer!r} are those that it has already"
        )
    for frozen in patch.frozen:
        if baking.is_idle(surveyed, frozen):
            raise errors.VerificationError(
                f"freezing {frozen.filter.id} at {filters.constant_text(frozen)} changes nothing: "
                "the filter holds that constant already; leave it out"
            )


def sign_claim(claim: dict[str, Any]) -> dict[str, Any]:
    """A claim with its digest, as it stands in a model's metadata."""
    return {**claim, "digest": claim_digest(claim)}


@dataclass(frozen=True)
class ClaimedPatch:
    """One patch of a stack: the model before, and after with its claim in it."""

    model: ModelProto
    surveyed: kind.Survey
    patch: filters.Patch
    baked: baking.Baked


def bake_claims(
    subject: Subject,
    patched: model_files.ModelFile,
    known: list[dict[str, Any]],
    fresh: list[dict[str, Any]],
) -> list[ClaimedPatch]:
    """Bake every claimed patch anew, each into what the one before it made.

    Args:
        subject: the original.
        patched: the model that makes the claims.
        known: claims that the original makes itself.
        fresh: those that came after them, oldest first.

    Raises:
        VerificationError: a claim is broken, or was made of another model.
    """

    def weights_of(layer: str) -> NDArray[np.float64]:
        try:
            return class_head.head_named(protos.GraphIndex(patched.model), layer).weight
        except errors.ModelError as error:
            raise errors.VerificationError(f"{patched.path}: {error}") from error

    steps: list[ClaimedPatch] = []
    model, digest = subject.model, subject.file.digest
    for count, claim in enumerate(fresh, start=1):
        patch = patch_of_claim(claim, weights_of)
        if claim["source"] != digest:
            raise another_model(patched, subject, claim)
        try:
            surveyed = survey(
                model, output=claim["output"], at=claim["sites_at"], include=claim["include"]
            )
            _check_constants(surveyed, patch)
            baked = baking.bake(surveyed, patch)
        except (errors.SettingsError, errors.ModelError) as error:
            raise errors.VerificationError(
                f"{patched.path}: claims a patch that the original cannot take ({error})"
            ) from error
        metadata.write_claims(baked.model, [*known, *fresh[:count]])
        steps.append(ClaimedPatch(model, surveyed, patch, baked))
        model, digest = baked.model, model_files.digest_of(baked.model)
    return steps


def _check_constants(surveyed: kind.Survey, patch: filters.Patch) -> None:
    """Check that the file can hold every number exactly; baking would round others silently.

    Raises:
        ModelError: one is not.
    """
    shapes = {site.name: site.level_shape for site in surveyed.sites}
    claimed = {
        f.filter.site: np.zeros(shapes[f.filter.site])
        for f in patch.frozen
        if f.filter.site in shapes
    }
    for f in patch.frozen:
        if f.filter.site in claimed and 0 <= f.filter.channel < len(claimed[f.filter.site]):
            claimed[f.filter.site][f.filter.channel] = f.constant
    nearest = baking.representable(surveyed, claimed)
    for f in patch.frozen:
        if f.filter.site not in nearest or f.filter.channel >= len(nearest[f.filter.site]):
            continue  # baking tells that there is no such filter
        if filters.constant_of(nearest[f.filter.site][f.filter.channel]) != f.constant:
            raise errors.ModelError(f"{f.filter.id} cannot hold {f.constant}")
    if patch.head is None:
        return
    head = class_head.head_named(surveyed.index, patch.head.layer)
    if baking.held(surveyed.index, head, patch.head) != patch.head:
        raise errors.ModelError(
            f"the last layer {head.name!r} cannot hold the numbers that are claimed"
        )


def another_model(
    patched: model_files.ModelFile, subject: Subject, claim: dict[str, Any]
) -> errors.VerificationError:
    """The error for a claim whose source is not the model at hand."""
    return errors.VerificationError(
        f"{patched.path}: was made from another model than {subject.file.path} (digest "
        f"{str(claim.get('source'))[:12]}, not {subject.file.digest[:12]})"
    )


def layout_of(file: model_files.ModelFile) -> tuple[StoredFile, ...]:
    """How the files of a model differ from its canonical bytes; nothing where they do not."""
    content = file.path.read_bytes()
    canonical = model_files.canonical_bytes(file.model)
    if content == canonical:
        return ()
    names = model_files.external_locations(ModelProto.FromString(content))
    kept = tensors.outside_digests(file.model)  # files that are never written
    read = [name for name in names if name not in kept]
    contents = {"": content} | {n: model_files.safe_path(file.path, n).read_bytes() for n in read}
    return tuple(
        StoredFile(name, tuple(describe(data, canonical))) for name, data in contents.items()
    )


def restored_files(model: ModelProto, layout: Sequence[StoredFile]) -> dict[str, bytes]:
    """The bytes of every file of a model, by name; "" is the model itself.

    Raises:
        VerificationError: the layout is not one of this model.
    """
    canonical = model_files.canonical_bytes(model)
    if not layout:
        return {"": canonical}
    names = [stored.name for stored in layout]
    most = 2 * len(canonical) + _SLACK_BYTES
    if len(set(names)) != len(names) or "" not in names or sum(s.size for s in layout) > most:
        raise errors.VerificationError(
            "the patch file's layout of the original is not one of this model"
        )
    try:
        return {stored.name: restore(stored.pieces, canonical) for stored in layout}
    except ValueError as error:
        raise errors.VerificationError(
            f"the patch file's layout of the original does not fit the model ({error})"
        ) from error


def digest_of_files(contents: Mapping[str, bytes], outside: Mapping[str, str]) -> str:
    """The digest that `read_model` gives to a model in these files.

    Args:
        contents: from `restored_files`.
        outside: digests of the data files that were never read, by name.
    """
    hasher = hashlib.sha256(contents[""])
    digests = {n: hashlib.sha256(data).hexdigest() for n, data in contents.items() if n}
    for _, digest in sorted((digests | dict(outside)).items()):
        hasher.update(bytes.fromhex(digest))
    return hasher.hexdigest()


def add_files(drafts: writing.Drafts, contents: Mapping[str, bytes], out: Path) -> None:
    """Add a model's files to those that appear together; those beside it first, itself last.

    Raises:
        RunFolderError: a file beside it holds other data.
        ModelError: a file's name leads out of the folder.
        OSError: a draft cannot be written.
    """
    beside = {model_files.safe_path(out, name): data for name, data in contents.items() if name}
    for path, data in beside.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise errors.RunFolderError(
                f"{path}: is in the way of the model's weights and holds other data; choose "
                "another folder with -o"
            )
    for path, data in beside.items():
        if not path.exists():
            drafts.write(path, data)
    drafts.write(out, contents[""])
