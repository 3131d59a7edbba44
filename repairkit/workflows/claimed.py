"""The stack of patches that a model's metadata claims, baked anew one upon the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from repairkit.core.errors import ModelError, SettingsError, VerificationError
from repairkit.core.patch import Patch
from repairkit.graph.bake import Baked, bake
from repairkit.graph.files import ModelFile, digest_of
from repairkit.graph.revert import write_claims
from repairkit.graph.sites import Survey, survey
from repairkit.workflows.patch_file import patch_of_claim
from repairkit.workflows.subject import Subject


@dataclass(frozen=True)
class Step:
    """One patch of a stack: the model before, and after with its claim in it."""

    model: ModelProto
    found: Survey
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
    steps: list[Step] = []
    model, digest = subject.model, subject.file.digest
    for count, claim in enumerate(fresh, start=1):
        patch = patch_of_claim(claim)
        if claim["source"] != digest:
            raise another_model(patched, subject, claim)
        try:
            found = survey(
                model, output=claim["output"], at=claim["sites_at"], include=claim["include"]
            )
            baked = bake(model, patch, found=found)
        except (SettingsError, ModelError) as error:
            raise VerificationError(
                f"{patched.path}: claims a patch that the original cannot take ({error})"
            ) from error
        write_claims(baked.model, [*known, *fresh[:count]])
        steps.append(Step(model, found, patch, baked))
        model, digest = baked.model, digest_of(baked.model)
    return steps


def another_model(patched: ModelFile, subject: Subject, claim: dict[str, Any]) -> VerificationError:
    """The error for a claim whose source is not the model at hand."""
    return VerificationError(
        f"{patched.path}: was made from another model than {subject.file.path} (digest "
        f"{str(claim.get('source'))[:12]}, not {subject.file.digest[:12]})"
    )
