"""The stack of patches that a model's metadata claims, baked anew one upon the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.errors import ModelError, SettingsError, VerificationError
from repairkit.core.patch import Patch, constant_of
from repairkit.formats.patch_file import patch_of_claim
from repairkit.graph.baking import Baked, bake, held, representable
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.class_head import head_named
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import survey
from repairkit.graph.metadata import write_claims
from repairkit.graph.stored.model_files import ModelFile, digest_of
from repairkit.jobs.setup.workbench import Subject


@dataclass(frozen=True)
class Step:
    """One patch of a stack: the model before, and after with its claim in it."""

    model: ModelProto
    surveyed: Survey
    patch: Patch
    baked: Baked


def bake_claims(
    subject: Subject,
    patched: ModelFile,
    known: list[dict[str, Any]],
    fresh: list[dict[str, Any]],
) -> list[Step]:
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
            return head_named(GraphIndex(patched.model), layer).weight
        except ModelError as error:
            raise VerificationError(f"{patched.path}: {error}") from error

    steps: list[Step] = []
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
            baked = bake(surveyed, patch)
        except (SettingsError, ModelError) as error:
            raise VerificationError(
                f"{patched.path}: claims a patch that the original cannot take ({error})"
            ) from error
        write_claims(baked.model, [*known, *fresh[:count]])
        steps.append(Step(model, surveyed, patch, baked))
        model, digest = baked.model, digest_of(baked.model)
    return steps


def _check_constants(surveyed: Survey, patch: Patch) -> None:
    """Every number is one that the file holds; baking would round another one silently.

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
    nearest = representable(surveyed, claimed)
    for f in patch.frozen:
        if f.filter.site not in nearest or f.filter.channel >= len(nearest[f.filter.site]):
            continue  # baking tells that there is no such filter
        if constant_of(nearest[f.filter.site][f.filter.channel]) != f.constant:
            raise ModelError(f"{f.filter.id} cannot hold {f.constant}")
    if patch.head is None:
        return
    head = head_named(surveyed.index, patch.head.layer)
    if held(surveyed.index, head, patch.head) != patch.head:
        raise ModelError(f"the last layer {head.name!r} cannot hold the numbers that are claimed")


def another_model(patched: ModelFile, subject: Subject, claim: dict[str, Any]) -> VerificationError:
    """The error for a claim whose source is not the model at hand."""
    return VerificationError(
        f"{patched.path}: was made from another model than {subject.file.path} (digest "
        f"{str(claim.get('source'))[:12]}, not {subject.file.digest[:12]})"
    )
