"""Prove that a patched model is the original with just the claimed filters frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.errors import VerificationError
from repairkit.core.filters import FilterMeans
from repairkit.core.patch import Patch, TensorEdit
from repairkit.data.rows import is_tabular
from repairkit.engine.proof import Proof, prove
from repairkit.graph.bake import bake
from repairkit.graph.files import ModelFile
from repairkit.graph.instrument import instrument, mask_name, mask_shape
from repairkit.graph.rebatch import fixed_batch
from repairkit.graph.revert import (
    first_difference,
    read_claims,
    revert,
    same_model,
    write_claims,
)
from repairkit.graph.sites import Survey, survey
from repairkit.graph.tree_noise import spread_over_thresholds
from repairkit.workflows.patch_file import PatchFile, claim_digest, patch_of_claim
from repairkit.workflows.subject import Subject

_GUESSED_SIDE = 64


@dataclass(frozen=True)
class Verified:
    """What was proven. `images` says what the outputs were compared on."""

    patch: Patch
    edits: tuple[TensorEdit, ...]
    proof: Proof
    images: str

    def to_json(self) -> dict[str, Any]:
        return {
            "verified": True,
            "frozen": [{"filter": f.filter.id, "constant": f.constant} for f in self.patch.frozen],
            "tensors": [e.tensor for e in self.edits],
            "n_images": self.proof.n_images,
            "images": self.images,
            "exact_without_optimisation": self.proof.exact,
            "relative_difference_with_optimisation": self.proof.relative,
            "same_answers": self.proof.same_answer,
        }


def verify(
    subject: Subject,
    patched: ModelFile,
    *,
    file: PatchFile | None = None,
    images: NDArray[Any] | None = None,
) -> Verified:
    """Bake the claimed patch anew, compare to the byte, undo it to the byte, compare outputs.

    Args:
        subject: the original.
        patched: the model to prove.
        file: the patch file; without it the claim in the model's own metadata is proven.
        images: real images, shape (n, *input); generated noise if None.

    Raises:
        VerificationError: anything is not as claimed.
    """
    claims = read_claims(patched.model)
    if not claims:
        raise VerificationError(
            f"{patched.path}: its metadata names no patch, so there is nothing to prove"
        )
    claim = claims[-1]
    patch = patch_of_claim(claim)
    if claim["source"] != subject.file.digest:
        raise VerificationError(
            f"{patched.path}: was made from another model than {subject.file.path} (digest "
            f"{str(claim['source'])[:12]}, not {subject.file.digest[:12]})"
        )
    if file is not None:
        _check_file(file, claim, patched)
    found = survey(
        subject.model, output=claim["output"], at=claim["sites_at"], include=claim["include"]
    )
    baked = bake(subject.model, patch, found=found)
    if file is not None and file.edits != baked.edits:
        raise VerificationError(
            "the old bytes that the patch file keeps are not those of the original; the patch "
            "could not be undone from it"
        )
    write_claims(baked.model, claims)
    if not same_model(baked.model, patched.model):
        raise VerificationError(
            f"{patched.path}: is not the original with just the claimed filters frozen: "
            + first_difference(baked.model, patched.model)
        )
    return prove_patch(subject, found, patch, baked.model, baked.edits, images=images)


def _check_file(file: PatchFile, claim: dict[str, Any], patched: ModelFile) -> None:
    if claim["digest"] != file.digest:
        raise VerificationError(
            f"{patched.path}: the patch file is for another patch than the one in the model"
        )
    if file.result_digest != patched.digest:
        raise VerificationError(
            f"{patched.path}: was changed after it was patched (digest {patched.digest[:12]}, not "
            f"{file.result_digest[:12]})"
        )


def prove_patch(
    subject: Subject,
    found: Survey,
    patch: Patch,
    patched: ModelProto,
    edits: tuple[TensorEdit, ...],
    *,
    images: NDArray[Any] | None = None,
) -> Verified:
    """Undo the edits to the original's bytes, and compare outputs with the instrumented model.

    Raises:
        VerificationError: either does not come out equal.
    """
    undone = revert(patched, edits)
    write_claims(undone, read_claims(patched)[:-1])
    if not same_model(undone, subject.model):
        raise VerificationError(
            "undoing the patch does not give the original back: "
            + first_difference(undone, subject.model)
        )
    frozen_sites = {f.site for f in patch.filters}
    sites = tuple(s for s in found.sites if s.name in frozen_sites)
    levels: FilterMeans = {s.name: np.zeros(s.level_shape) for s in sites}
    masks = {mask_name(s): np.ones(mask_shape(s, 1), bool) for s in sites}
    for f in patch.frozen:
        levels[f.filter.site][f.filter.channel] = f.constant
        site = next(s for s in sites if s.name == f.filter.site)
        masks[mask_name(site)].reshape(-1)[f.filter.channel] = False
    given = images is not None
    proof = prove(
        patched,
        instrument(subject.model, sites, levels),
        masks,
        images if images is not None else noise_images(subject),
        input_name=subject.input_name,
        step=fixed_batch(subject.model, subject.input_name),
    )
    if not proof.holds:
        raise VerificationError(
            "the patched model's outputs differ from those of the original under the same mask "
            f"(relative difference {proof.relative:.3g} on {proof.n_images} images)"
        )
    return Verified(patch, edits, proof, "given images" if given else "generated noise")


def noise_images(subject: Subject, n_images: int = 8) -> NDArray[Any]:
    """Noise of the model's input shape, for a proof that has no real images."""
    shape = [size or _GUESSED_SIDE for size in subject.spec.shape]
    rng = np.random.default_rng(0)
    if np.issubdtype(subject.spec.dtype, np.floating):
        noise = rng.standard_normal((n_images, *shape)).astype(subject.spec.dtype)
        if is_tabular(subject.spec):
            return spread_over_thresholds(subject.model, subject.input_name, noise, rng)
        return noise
    limits = np.iinfo(subject.spec.dtype)
    return rng.integers(limits.min, limits.max, (n_images, *shape), subject.spec.dtype)


def sign_claim(claim: dict[str, Any]) -> dict[str, Any]:
    """A claim with its digest, as it stands in a model's metadata."""
    return {**claim, "digest": claim_digest(claim)}
