"""An overlay: the tensors that a patch changed, whole, and the models that they belong to.

A safetensors file. Each tensor has the name of the initializer that it takes the place of. The
header's metadata hold digests of the model below and of the patched model, and the claims in the
patched model's metadata, so that it can be made again to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repairkit.core import errors, suite
from repairkit.core.process.text import first_line

KIND, SCHEMA = "repairkit overlay", 1
ENTRY = "repairkit.overlay"
"""The entry of the header's metadata, a JSON object."""
ENDING = ".safetensors"
_DIGEST_LETTERS = 64


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """What a patch changes in a model.

    Attributes:
        tensors: new numbers of initializers, by name, each of the shape and type that it has in the
            model.
        base: digest of the model that the patch was made for.
        result: digest of the patched model.
        patch: digest of the patch.
        claims: what the patched model's metadata say of all patches made to it, oldest first.
    """

    tensors: Mapping[str, suite.Array]
    base: str
    result: str
    patch: str
    claims: tuple[dict[str, Any], ...]


def overlay_bytes(overlay: Overlay) -> bytes:
    """What the file of an overlay holds.

    Raises:
        SettingsError: the library safetensors is missing.
        ModelError: a tensor has a type that safetensors cannot hold.
    """
    numpy_part = _library().numpy
    described = {
        "kind": KIND,
        "schema": SCHEMA,
        "base": overlay.base,
        "result": overlay.result,
        "patch": overlay.patch,
        "claims": overlay.claims,
    }
    # One entry: the library writes several in an order of its own, anew each time.
    entry = json.dumps(described, separators=(",", ":"), sort_keys=True)
    try:
        content: bytes = numpy_part.save(dict(overlay.tensors), metadata={ENTRY: entry})
    except (KeyError, ValueError) as error:
        raise errors.ModelError(
            f"a changed tensor has a type that an overlay cannot hold ({first_line(error)}); "
            "deploy the patched model itself"
        ) from error
    return content


def read_overlay(path: Path) -> Overlay:
    """Read an overlay.

    Raises:
        SettingsError: the library safetensors is missing.
        ModelError: the file is missing, is no safetensors file, or no overlay.
    """
    library = _library()
    if not path.is_file():
        raise errors.ModelError(f"{path}: there is no such file; expected an overlay")
    try:
        with library.safe_open(path, framework="numpy") as opened:
            described = _described((opened.metadata() or {}).get(ENTRY, "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (library.SafetensorError, OSError, TypeError, ValueError) as error:
        raise errors.ModelError(
            f"{path}: is no safetensors file ({first_line(error)}); `repairkit overlay` writes one"
        ) from error
    if described.get("kind") != KIND or described.get("schema") != SCHEMA:
        raise errors.ModelError(
            f"{path}: is no overlay of schema {SCHEMA} that `repairkit overlay` wrote (kind "
            f"{described.get('kind')!r}, schema {described.get('schema')!r})"
        )
    digests = {name: str(described.get(name)) for name in ("base", "result", "patch")}
    claims = described.get("claims")
    claims = claims if isinstance(claims, list) and claims else [None]
    well_formed = all(isinstance(claim, dict) for claim in claims)
    well_formed = well_formed and claims[-1].get("digest") == digests["patch"]
    if not well_formed or any(len(text) != _DIGEST_LETTERS for text in digests.values()):
        raise errors.ModelError(f"{path}: its metadata are damaged; make the overlay anew")
    return Overlay(tensors=tensors, claims=tuple(claims), **digests)


def _described(text: str) -> dict[str, Any]:
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return described if isinstance(described, dict) else {}


def _library() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise errors.SettingsError(
            "overlays are safetensors files; pip install 'repairkit[overlay]'"
        ) from None
    return safetensors
