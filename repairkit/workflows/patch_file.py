"""The patch file: what was frozen, at what, in which model, and all that undoing it needs.

Its canonical form is JSON with sorted keys, no white space and nothing but ASCII. The seal is the
SHA-256 of that form of all but the seal, so the file may be laid out anew but not altered.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from repairkit.core.errors import RunFolderError, SettingsError, VerificationError
from repairkit.core.filters import Filter
from repairkit.core.patch import FrozenFilter, Patch, TensorEdit, constant_of
from repairkit.workflows.files import read_json, to_json, write_text
from repairkit.workflows.layout import StoredFile, stored_file

SCHEMA = 1
KIND = "repairkit patch"

_TEXTS = ("source", "sites_at", "output")
_CLAIMED = (*_TEXTS, "include", "frozen")
# What is read of a patch file; all else in it can be proven by nobody.
_READ = {
    "source": {"digest", "layout"},
    "result": {"digest"},
    "sites": {"at", "include", "output"},
    "frozen": {"filter", "site", "channel", "constant"},
    "edits": {"kind", "tensor", "runs", "old", "node", "slot", "replaces"},
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class PatchFile:
    """A patch bound to one model.

    `digest` covers the source, the sites and what is frozen. `layout` tells the source's files from
    its canonical bytes; it is empty where the source is one file of just these. `unproven` names
    what stands in the file and cannot be proven from the two models: figures, notes, settings.
    """

    patch: Patch
    edits: tuple[TensorEdit, ...]
    source_digest: str
    result_digest: str
    sites_at: str
    include: tuple[str, ...]
    output: str | None
    story: Mapping[str, Any]
    layout: tuple[StoredFile, ...] = ()
    unproven: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return claim_digest(self.claim())

    def claim(self) -> dict[str, Any]:
        """What the patched model's metadata says of this patch, as JSON has it; not the digest."""
        frozen = [
            [f.filter.id, list(f.constant) if isinstance(f.constant, tuple) else f.constant]
            for f in self.patch.frozen
        ]
        return {
            "source": self.source_digest,
            "sites_at": self.sites_at,
            "include": list(self.include),
            "output": self.output,
            "frozen": frozen,
        }


def claim_digest(claim: Mapping[str, Any]) -> str:
    """SHA-256 of a claim in its canonical form."""
    text = json.dumps(claim, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def patch_of_claim(claim: Mapping[str, Any]) -> Patch:
    """The patch that a model's metadata claims.

    Raises:
        VerificationError: the claim is broken, does not match its own digest, or says more than
            what can be proven.
    """
    body = {k: v for k, v in claim.items() if k != "digest"}
    if claim.get("digest") != claim_digest(body):
        raise VerificationError("the model's claim of its patch does not match its own digest")
    further = sorted(set(body) - set(_CLAIMED))
    if further:
        raise VerificationError(
            f"the model's claim of its patch also names {', '.join(further)}, which nothing can "
            "prove; repairkit claims the source, the sites and what is frozen, no more"
        )
    try:
        frozen = [FrozenFilter(Filter.parse(i), constant_of(c)) for i, c in body["frozen"]]
        patch = Patch(tuple(frozen))
        _check_once(patch)
        include = tuple(body["include"])
        read = PatchFile(
            patch, (), body["source"], "", body["sites_at"], include, body["output"], {}
        )
        # The output alone may be null: the sites then lead to any.
        texts = [body[n] for n in _TEXTS if n != "output" or body[n] is not None]
        if not all(isinstance(text, str) for text in (*include, *texts)):
            raise TypeError("a name is no text")
        # What was read says the same, so that nothing hides in how it is written.
        if claim_digest(read.claim()) != claim["digest"]:
            raise ValueError("it is not written as repairkit writes it")
    except (AttributeError, KeyError, TypeError, ValueError, SettingsError) as error:
        raise VerificationError(f"the model's claim of its patch is broken ({error})") from error
    return patch


def _check_once(patch: Patch) -> None:
    names = [found.id for found in patch.filters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"it names the filter {twice[0]} twice")


def write_patch_file(path: Path, file: PatchFile) -> None:
    """Write whole or not at all."""
    write_text(path, patch_file_text(file))


def patch_file_text(file: PatchFile) -> str:
    """What a patch file holds, sealed."""
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
        "source": {
            "digest": file.source_digest,
            **({"layout": [f.to_json() for f in file.layout]} if file.layout else {}),
        },
        "result": {"digest": file.result_digest},
        "sites": {"at": file.sites_at, "include": list(file.include), "output": file.output},
        "frozen": frozen,
        "edits": edits,
        **file.story,
    }
    return to_json({**document, "seal": claim_digest(document)})


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
    altered = VerificationError(f"{path}: was altered (its content does not match its seal)")
    try:
        sealed = {name: value for name, value in document.items() if name != "seal"}
        if document["seal"] != claim_digest(sealed):
            raise altered
        file = _parse(document)
        if document["digest"] != file.digest:
            raise altered
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: is a broken patch file ({error!r})") from error
    return file


def _parse(document: Mapping[str, Any]) -> PatchFile:
    source, sites = _typed(document, "source", dict), _typed(document, "sites", dict)
    known = {"schema", "kind", "seal", "digest", *_READ}
    patch = Patch(tuple(_frozen(f) for f in _typed(document, "frozen", list)))
    _check_once(patch)
    return PatchFile(
        patch,
        tuple(_edit(e) for e in _typed(document, "edits", list)),
        _typed(source, "digest", str),
        _typed(_typed(document, "result", dict), "digest", str),
        _typed(sites, "at", str),
        tuple(_text(kind) for kind in _typed(sites, "include", list)),
        None if sites["output"] is None else _typed(sites, "output", str),
        {k: v for k, v in document.items() if k not in known},
        tuple(stored_file(f) for f in source.get("layout", [])),
        (*sorted(set(document) - known), *_unread(document)),
    )


def _unread(document: Mapping[str, Any]) -> Iterator[str]:
    """What parts of a patch file hold besides what is read of them."""
    for part, read in _READ.items():
        entries = document[part] if isinstance(document[part], list) else [document[part]]
        further = {name for entry in entries for name in entry} - read
        yield from (f"{part}.{name}" for name in sorted(further))


def _typed(document: Any, key: str, kind: type[_T]) -> _T:
    """A value of just that type: `1.0` or `true` where a whole number must stand is refused."""
    value = document[key]
    if type(value) is not kind:
        raise TypeError(f"{key} is no {kind.__name__}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} is no text")
    return value


def _frozen(document: Any) -> FrozenFilter:
    found = Filter(_typed(document, "site", str), _typed(document, "channel", int))
    constant = document["constant"]
    numbers = constant if type(constant) is list else [constant]
    if not numbers or any(type(n) not in (int, float) or not math.isfinite(n) for n in numbers):
        raise ValueError(f"the constant of {found.id} is no finite number")
    if document["filter"] != found.id:
        raise ValueError(f"{document['filter']!r} is not {found.id}")
    return FrozenFilter(found, constant_of(constant))


def _edit(document: Any) -> TensorEdit:
    runs = []
    for run in _typed(document, "runs", list):
        start, stop = run
        if type(start) is not int or type(stop) is not int or not 0 <= start < stop:
            raise ValueError(f"{run!r} is no range")
        runs.append((start, stop))
    replaces = document["replaces"]
    return TensorEdit(
        _typed(document, "kind", str),
        _typed(document, "tensor", str),
        tuple(runs),
        base64.b64decode(_typed(document, "old", str), validate=True),
        _typed(document, "node", str),
        _typed(document, "slot", int),
        None if replaces is None else _text(replaces),
    )
