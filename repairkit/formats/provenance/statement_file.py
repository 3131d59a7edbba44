"""The in-toto statement of a repair: which file was made from which, by which patch.

An attestation after https://in-toto.io/Statement/v1. Its subject is what was made, by the SHA-256
of each of its files. Its predicate is ours: the patch as a transformation, with the model and the
patch file that went into it and the command that anyone can run to make the same bytes.

The text is fixed by what it says: entries, their order, white space and a seal, the SHA-256 of the
canonical form of all else. A reader writes it anew and compares, so that every changed byte shows.
A new entry would be a new version of the predicate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repairkit.core.errors import RepairkitError, VerificationError
from repairkit.formats.documents import read_json, to_json
from repairkit.formats.patch_file import claim_digest

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:repairkit:patch:v1"
MARK = f'"predicateType": "{PREDICATE}"'.encode()
"""Stands near the start of every statement of ours."""

Digests = Mapping[str, str]
"""The SHA-256 of files in hexadecimal, by their names; a model's own file comes first."""

_WAYS = ("apply", "overlay")
_BROKEN = (
    RepairkitError,
    OSError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, kw_only=True)
class Making:
    """How a file was made from a model and a patch file.

    Attributes:
        way: the command that makes it anew, `apply` or `overlay`.
        version: of repairkit.
        made: the files of the patched model, or the overlay.
        source: the files of the model that was patched.
        patch_file: one entry.
        beside: the files that were written with it and tell of it.
        source_digest: of the model before, as patch files give it.
        result_digest: of the patched model.
        claim: what the patched model's metadata say of the patch, with its digest.
    """

    way: str
    version: str
    made: Digests
    source: Digests
    patch_file: Digests
    beside: Digests
    source_digest: str
    result_digest: str
    claim: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of what was made: the patched model's file, or the overlay."""
        return next(iter(self.made))


def statement_text(making: Making) -> str:
    """What the statement's file holds, sealed."""
    statement = _statement(making)
    sealed = statement["predicate"] | {"seal": claim_digest(statement)}
    return to_json(statement | {"predicate": sealed})


def _statement(making: Making) -> dict[str, Any]:
    """The statement without its seal."""
    source, patch_file = next(iter(making.source)), next(iter(making.patch_file))
    return {
        "_type": STATEMENT,
        "predicateType": PREDICATE,
        "subject": _described(making.made),
        "predicate": {
            "tool": {"name": "repairkit", "version": making.version},
            "recompute": ["repairkit", making.way, source, patch_file, "-o", making.name],
            "source": {"digest": making.source_digest, "files": _described(making.source)},
            "patchFile": _described(making.patch_file)[0],
            "patch": dict(making.claim),
            "result": {"digest": making.result_digest},
            "byproducts": _described(making.beside),
        },
    }


def _described(files: Digests) -> list[dict[str, Any]]:
    """Files as resource descriptors of in-toto."""
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in files.items()]


def read_statement(path: Path) -> Making:
    """Read a statement of ours, and check it against its seal and its form.

    Raises:
        VerificationError: it is none, or was altered.
    """
    try:
        document = read_json(path, "a statement")
        making = _parsed(document)
        whole = statement_text(making).encode() == path.read_bytes()
    except _BROKEN as error:
        reason = error if isinstance(error, RepairkitError) else f"{error!r} where it is read"
        raise VerificationError(
            f"{path}: was altered, or is no statement of repairkit ({reason}); `repairkit apply` "
            "writes a new one beside the model that it makes"
        ) from error
    if not whole:
        raise VerificationError(
            f"{path}: was altered (its text does not match its seal, or is laid out anew); get it "
            "again from where the repair was made"
        )
    return making


def _parsed(document: Any) -> Making:
    predicate = document["predicate"]
    command = predicate["recompute"]
    if document["predicateType"] != PREDICATE or command[1] not in _WAYS:
        raise ValueError(f"it is of type {document['predicateType']!r}")
    return Making(
        way=command[1],
        version=predicate["tool"]["version"],
        made=_files(document["subject"]),
        source=_files(predicate["source"]["files"]),
        patch_file=_files([predicate["patchFile"]]),
        beside=_files(predicate["byproducts"], some=False),
        source_digest=predicate["source"]["digest"],
        result_digest=predicate["result"]["digest"],
        claim=predicate["patch"],
    )


def _files(described: Any, *, some: bool = True) -> Digests:
    files = {entry["name"]: entry["digest"]["sha256"] for entry in described}
    texts = [*files, *files.values()]
    if (some and not files) or not all(isinstance(text, str) for text in texts):
        raise ValueError("it names no file")
    return files
