"""The patch file: what was frozen, at what, in which model, and all that undoing it needs.

A patch that changes the head of the model, or freezes filters partly, is written in schema 2; all
others stay in schema 1, which earlier versions read too.

Its canonical form is JSON with sorted keys, no white space and nothing but ASCII. The seal is the
SHA-256 of that form of all but the seal, so the file may be laid out anew but not altered.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters
from repairkit.formats.documents import read_json, to_json
from repairkit.formats.stored_files import StoredFile, stored_file

SCHEMAS = (1, 2)
KIND = "repairkit patch"
RUNTIME = "runtime"
"""The entry that tells what the patch means for a runtime: new weights alone, or more."""

_TEXTS = ("source", "sites_at", "output")
_CLAIMED = (*_TEXTS, "include", "frozen", "gains", "head")
# What is read of a patch file; nothing else in it can be proven.
READ = {
    "source": {"digest", "layout"},
    "result": {"digest"},
    "sites": {"at", "include", "output"},
    "frozen": {"filter", "site", "channel", "constant", "gain"},
    "head": {"kind", "layer", "bias", "weight"},
    "edits": {"kind", "tensor", "runs", "old", "node", "slot", "replaces"},
}

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class PatchFile:
    """A patch bound to one model.

    `digest` covers the source, the sites and what is frozen. `layout` tells the source's files from
    its canonical bytes; it is empty where the source is one file of just these. `unproven` names
    what stands in the file and cannot be proven from the two models: figures, notes, settings.
    """

    patch: filters.Patch
    edits: tuple[filters.TensorEdit, ...]
    source_digest: str
    result_digest: str
    sites_at: str
    include: tuple[str, ...]
    output: str | None
    story: Mapping[str, Any] = field(default_factory=dict)
    layout: tuple[StoredFile, ...] = ()
    unproven: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return claim_digest(self.claim())

    def claim(self) -> dict[str, Any]:
        """What the patched model's metadata says of this patch, as JSON has it; not the digest."""
        return {
            "source": self.source_digest,
            "sites_at": self.sites_at,
            "include": list(self.include),
            "output": self.output,
            **claimed_patch(self.patch),
        }


def claimed_patch(patch: filters.Patch) -> dict[str, Any]:
    """What metadata and reports say of a patch: what is frozen, how far, and the head's change."""
    claim: dict[str, Any] = {
        "frozen": [
            [f.filter.id, list(f.constant) if isinstance(f.constant, tuple) else f.constant]
            for f in patch.frozen
        ]
    }
    gains = {f.filter.id: f.gain for f in patch.frozen if f.gain}
    if gains:
        claim["gains"] = gains
    if patch.head is not None:
        claim["head"] = claimed_head(patch.head)
    return claim


def claimed_head(head: filters.HeadChange) -> dict[str, Any]:
    """What metadata say of a change of the head: of weights, which are many, their SHA-256."""
    return {
        "kind": head.kind,
        "layer": head.layer,
        "bias": None if head.bias is None else head.bias.tolist(),
        "weight": None if head.weight is None else weight_digest(head.weight),
    }


def weight_digest(weight: NDArray[np.float64]) -> str:
    """SHA-256 of the shape and of the weights, row by row as 64-bit little-endian numbers."""
    numbers = np.ascontiguousarray(weight, "<f8").tobytes()
    return hashlib.sha256(f"{weight.shape}".encode() + numbers).hexdigest()


def claim_digest(claim: Mapping[str, Any]) -> str:
    """SHA-256 of a claim in its canonical form."""
    text = json.dumps(claim, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


HeadOf = Callable[[str], NDArray[np.float64]]
"""The weights that a model holds in the last layer of that name."""


def patch_of_claim(claim: Mapping[str, Any], weights_of: HeadOf) -> filters.Patch:
    """The patch that a model's metadata claims.

    Args:
        claim: one entry of the metadata.
        weights_of: the weights of a refitted last layer, of which the claim has but the digest.

    Raises:
        VerificationError: the claim is broken, does not match its own digest, or says more than
            what can be proven.
    """
    body = {k: v for k, v in claim.items() if k != "digest"}
    if claim.get("digest") != claim_digest(body):
        raise errors.VerificationError(
            "the model's claim of its patch does not match its own digest"
        )
    further = sorted(set(body) - set(_CLAIMED))
    if further:
        raise errors.VerificationError(
            f"the model's claim of its patch also names {', '.join(further)}, which nothing can "
            "prove; repairkit claims the source, the sites and what is frozen, no more"
        )
    try:
        claimed = _claimed_file(body, weights_of)
        # Written anew it must be the same, so that nothing hides in how it is written.
        if claim_digest(claimed.claim()) != claim["digest"]:
            raise ValueError("it is not written as repairkit writes it")
    except (AttributeError, KeyError, TypeError, ValueError, errors.SettingsError) as error:
        raise errors.VerificationError(
            f"the model's claim of its patch is broken ({error})"
        ) from error
    return claimed.patch


def _claimed_file(body: Mapping[str, Any], weights_of: HeadOf) -> PatchFile:
    """What a claim holds of a patch file: all but the edits and the result's digest."""
    gains = body.get("gains", {})
    frozen = tuple(
        filters.FrozenFilter(
            filters.Filter.parse(i), filters.constant_of(c), _gain(gains.get(i, 0.0))
        )
        for i, c in body["frozen"]
    )
    head = _head_of_claim(body["head"], weights_of) if "head" in body else None
    patch = filters.Patch(frozen, head)
    _check_once(patch)
    include = tuple(body["include"])
    # The output alone may be null: the sites then lead to any.
    texts = [body[n] for n in _TEXTS if n != "output" or body[n] is not None]
    if not all(isinstance(text, str) for text in (*include, *texts)):
        raise TypeError("a name is no text")
    return PatchFile(
        patch=patch,
        edits=(),
        source_digest=body["source"],
        result_digest="",
        sites_at=body["sites_at"],
        include=include,
        output=body["output"],
    )


def _gain(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ValueError(f"the gain {value!r} is no number from 0 to below 1")
    return float(value)


def _head_of_claim(document: Any, weights_of: HeadOf) -> filters.HeadChange:
    if set(document) != {"kind", "layer", "bias", "weight"}:
        raise ValueError("the change of the last layer is not written as repairkit writes it")
    weight = None
    if document["weight"] is not None:
        weight = weights_of(_typed(document, "layer", str))
        if weight_digest(weight) != document["weight"]:
            raise errors.VerificationError(
                "the weights of the last layer are not those that a claim in the metadata names; "
                "where it was refitted again later, verify each patch against the model that it "
                "was made for"
            )
    return _head(document, weight)


def _head(document: Any, weight: NDArray[np.float64] | None) -> filters.HeadChange:
    """A change of the head from JSON, but for its weights."""
    kind: filters.HeadKind = document["kind"]
    numbers = document["bias"]
    if kind not in get_args(filters.HeadKind) or (kind == "last-layer") != (weight is not None):
        raise ValueError(f"{kind!r} with these numbers is no change of a last layer")
    bias = None
    if numbers is not None:
        if type(numbers) is not list or any(type(n) not in (int, float) for n in numbers):
            raise ValueError("the class biases are no list of numbers")
        bias = np.array(numbers, np.float64)
    for array in (bias, weight):
        if array is not None and not (array.size and np.isfinite(array).all()):
            raise ValueError("the new last layer has numbers that are not finite, or none")
    return filters.HeadChange(kind, _typed(document, "layer", str), bias, weight)


def _check_once(patch: filters.Patch) -> None:
    if not patch.frozen and patch.head is None:
        raise ValueError("it changes nothing")
    names = [frozen.id for frozen in patch.filters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"it names the filter {twice[0]} twice")


def patch_file_text(file: PatchFile) -> str:
    """What a patch file holds, sealed."""
    frozen = [
        {
            "filter": f.filter.id,
            "site": f.filter.site,
            "channel": f.filter.channel,
            "constant": f.constant,
            **({"gain": f.gain} if f.gain else {}),
        }
        for f in file.patch.frozen
    ]
    edits = [
        {
            **vars(e),
            "runs": [list(run) for run in e.runs],
            "old": base64.b64encode(e.old).decode(),
        }
        for e in file.edits
    ]
    head = file.patch.head
    document = {
        "schema": 2 if head is not None or any(f.gain for f in file.patch.frozen) else 1,
        "kind": KIND,
        "digest": file.digest,
        "source": {
            "digest": file.source_digest,
            **({"layout": [f.to_json() for f in file.layout]} if file.layout else {}),
        },
        "result": {"digest": file.result_digest},
        "sites": {"at": file.sites_at, "include": list(file.include), "output": file.output},
        "frozen": frozen,
        **({} if head is None else {"head": _stored_head(head)}),
        "edits": edits,
        **file.story,
    }
    return to_json({**document, "seal": claim_digest(document)})


def _stored_head(head: filters.HeadChange) -> dict[str, Any]:
    weight = head.weight
    return {
        **claimed_head(head),
        "weight": None
        if weight is None
        else {
            "shape": list(weight.shape),
            "numbers": base64.b64encode(weight.astype("<f8").tobytes()).decode(),
        },
    }


def read_patch_file(path: Path) -> PatchFile:
    """Read a patch file and check it against its own digest.

    Raises:
        RunFolderError: missing, or not a patch file of this version.
        VerificationError: it was altered.
    """
    document = read_json(path, "a patch file")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise errors.RunFolderError(
            f"{path}: is not a patch file of repairkit; give the NAME.patch.json "
            "that patch wrote beside the model"
        )
    if document.get("schema") not in SCHEMAS or type(document["schema"]) is not int:
        known = " and ".join(map(str, SCHEMAS))
        raise errors.RunFolderError(
            f"{path}: has schema {document.get('schema')!r}; this version reads {known}"
        )
    altered = errors.VerificationError(f"{path}: was altered (its content does not match its seal)")
    try:
        sealed = {name: value for name, value in document.items() if name != "seal"}
        if document["seal"] != claim_digest(sealed):
            raise altered
        file = _parse(document)
        if document["digest"] != file.digest:
            raise altered
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise errors.RunFolderError(f"{path}: is a broken patch file ({error!r})") from error
    return file


def _parse(document: Mapping[str, Any]) -> PatchFile:
    source, sites = _typed(document, "source", dict), _typed(document, "sites", dict)
    known = {"schema", "kind", "seal", "digest", *READ}
    frozen = tuple(_frozen(f) for f in _typed(document, "frozen", list))
    patch = filters.Patch(frozen, _parsed_head(document["head"]) if "head" in document else None)
    _check_once(patch)
    if document["schema"] != (2 if patch.head or any(f.gain for f in frozen) else 1):
        raise ValueError("its schema is not that of what it holds")
    return PatchFile(
        patch=patch,
        edits=tuple(_edit(e) for e in _typed(document, "edits", list)),
        source_digest=_typed(source, "digest", str),
        result_digest=_typed(_typed(document, "result", dict), "digest", str),
        sites_at=_typed(sites, "at", str),
        include=tuple(_text(kind) for kind in _typed(sites, "include", list)),
        output=None if sites["output"] is None else _typed(sites, "output", str),
        story={k: v for k, v in document.items() if k not in known},
        layout=tuple(stored_file(f) for f in source.get("layout", [])),
        unproven=(*sorted(set(document) - known), *_unread(document)),
    )


def _unread(document: Mapping[str, Any]) -> Iterator[str]:
    """What parts of a patch file hold besides what is read of them."""
    for part, read in READ.items():
        if part not in document:
            continue
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


def _frozen(document: Any) -> filters.FrozenFilter:
    wanted = filters.Filter(_typed(document, "site", str), _typed(document, "channel", int))
    constant = document["constant"]
    numbers = constant if type(constant) is list else [constant]
    if not numbers or any(type(n) not in (int, float) or not math.isfinite(n) for n in numbers):
        raise ValueError(f"the constant of {wanted.id} is no finite number")
    if document["filter"] != wanted.id:
        raise ValueError(f"{document['filter']!r} is not {wanted.id}")
    return filters.FrozenFilter(
        wanted, filters.constant_of(constant), _gain(document.get("gain", 0.0))
    )


def _parsed_head(document: Any) -> filters.HeadChange:
    weight = None
    if document["weight"] is not None:
        held = document["weight"]
        shape = tuple(_typed(held, "shape", list))
        if len(shape) != 2 or any(type(n) is not int or n < 1 for n in shape):
            raise ValueError(f"{shape} is no shape of a last layer")
        content = base64.b64decode(_typed(held, "numbers", str), validate=True)
        weight = np.frombuffer(content, "<f8").astype(np.float64).reshape(shape)
    return _head(document, weight)


def _edit(document: Any) -> filters.TensorEdit:
    runs = []
    for run in _typed(document, "runs", list):
        start, stop = run
        if type(start) is not int or type(stop) is not int or not 0 <= start < stop:
            raise ValueError(f"{run!r} is no range")
        runs.append((start, stop))
    replaces = document["replaces"]
    return filters.TensorEdit(
        kind=_typed(document, "kind", str),
        tensor=_typed(document, "tensor", str),
        runs=tuple(runs),
        old=base64.b64decode(_typed(document, "old", str), validate=True),
        node=_typed(document, "node", str),
        slot=_typed(document, "slot", int),
        replaces=None if replaces is None else _text(replaces),
    )
