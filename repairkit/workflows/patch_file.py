"""The patch file: what was frozen, at what, in which model, and all that undoing it needs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repairkit.core.errors import RunFolderError, SettingsError, VerificationError
from repairkit.core.filters import Filter
from repairkit.core.patch import FrozenFilter, Patch, TensorEdit, constant_of
from repairkit.workflows.files import read_json, write_json

SCHEMA = 1
KIND = "repairkit patch"


@dataclass(frozen=True)
class PatchFile:
    """A patch bound to one model. `digest` covers the source, the sites and what is frozen."""

    patch: Patch
    edits: tuple[TensorEdit, ...]
    source_digest: str
    result_digest: str
    sites_at: str
    include: tuple[str, ...]
    output: str
    story: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return claim_digest(self.claim())

    def claim(self) -> dict[str, Any]:
        """What the patched model's metadata says of this patch, but for the digest."""
        return {
            "source": self.source_digest,
            "sites_at": self.sites_at,
            "include": list(self.include),
            "output": self.output,
            "frozen": [[f.filter.id, f.constant] for f in self.patch.frozen],
        }


def claim_digest(claim: Mapping[str, Any]) -> str:
    """SHA-256 of a claim in its canonical form."""
    text = json.dumps(claim, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def patch_of_claim(claim: Mapping[str, Any]) -> Patch:
    """The patch that a model's metadata claims.

    Raises:
        VerificationError: the claim is broken, or does not match its own digest.
    """
    body = {k: v for k, v in claim.items() if k != "digest"}
    if claim.get("digest") != claim_digest(body):
        raise VerificationError("the model's claim of its patch does not match its own digest")
    try:
        frozen = [FrozenFilter(Filter.parse(i), constant_of(c)) for i, c in body["frozen"]]
        _ = body["source"], body["output"], body["sites_at"], body["include"]
    except (KeyError, TypeError, ValueError, SettingsError) as error:
        raise VerificationError("the model's claim of its patch is broken") from error
    return Patch(tuple(frozen))


def write_patch_file(path: Path, file: PatchFile) -> None:
    """Write whole or not at all."""
    frozen = [
        {
            "filter": f.filter.id,
            "site": f.filter.site,
            "channel": f.filter.channel,
            "constant": f.constant,
        }
        for f in file.patch.frozen
    ]
    edits = [
        {
            "kind": e.kind,
            "tensor": e.tensor,
            "runs": [list(run) for run in e.runs],
            "old": base64.b64encode(e.old).decode(),
            "node": e.node,
            "slot": e.slot,
            "replaces": e.replaces,
        }
        for e in file.edits
    ]
    document = {
        "schema": SCHEMA,
        "kind": KIND,
        "digest": file.digest,
        "source": {"digest": file.source_digest},
        "result": {"digest": file.result_digest},
        "sites": {"at": file.sites_at, "include": list(file.include), "output": file.output},
        "frozen": frozen,
        "edits": edits,
        **file.story,
    }
    write_json(path, {**document, "seal": claim_digest(document)})


def read_patch_file(path: Path) -> PatchFile:
    """Read a patch file and check it against its own digest.

    Raises:
        RunFolderError: missing, or not a patch file of this version.
        VerificationError: it was altered.
    """
    document = read_json(path, "a patch file")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise RunFolderError(f"{path}: is not a patch file of repairkit")
    if document.get("schema") != SCHEMA:
        raise RunFolderError(
            f"{path}: has schema {document.get('schema')!r}; this version reads {SCHEMA}"
        )
    try:
        file = _parse(document)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise RunFolderError(f"{path}: is a broken patch file ({error!r})") from error
    sealed = {name: value for name, value in document.items() if name != "seal"}
    if file.digest != document["digest"] or claim_digest(sealed) != document.get("seal"):
        raise VerificationError(f"{path}: was altered (its content does not match its seal)")
    return file


def _parse(document: Mapping[str, Any]) -> PatchFile:
    frozen = [
        FrozenFilter(Filter(f["site"], int(f["channel"])), constant_of(f["constant"]))
        for f in document["frozen"]
    ]
    edits = [
        TensorEdit(
            e["kind"],
            e["tensor"],
            tuple((int(a), int(b)) for a, b in e["runs"]),
            base64.b64decode(e["old"], validate=True),
            e["node"],
            int(e["slot"]),
            e["replaces"],
        )
        for e in document["edits"]
    ]
    known = {"schema", "kind", "seal", "digest", "source", "result", "sites", "frozen", "edits"}
    return PatchFile(
        Patch(tuple(frozen)),
        tuple(edits),
        document["source"]["digest"],
        document["result"]["digest"],
        document["sites"]["at"],
        tuple(document["sites"]["include"]),
        document["sites"]["output"],
        {k: v for k, v in document.items() if k not in known},
    )
