"""Model files: read with one clear line per fault, written whole or not at all."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from repairkit.core.errors import ModelError, RunFolderError
from repairkit.core.process.text import first_line
from repairkit.core.process.writing import Drafts, together
from repairkit.graph.stored.checking import check_model
from repairkit.graph.stored.external import external_locations, load_external, safe_path
from repairkit.graph.stored.outside import as_on_disk, outside_digests, place_beside

_SINGLE_FILE_LIMIT = 2_000_000_000
_LARGEST_MESSAGE = 2**31 - 1


@dataclass(frozen=True)
class ModelFile:
    """A model as it lies on disk. `digest` is the SHA-256 of its bytes and its external data's."""

    path: Path
    model: ModelProto
    digest: str


def read_model(path: Path) -> ModelFile:
    """Read a model and the external data beside it.

    Raises:
        ModelError: the file is missing, is not ONNX, is empty or contradicts itself, or its
            external data is missing or lies outside the model's folder.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; give the path of an ONNX model")
    try:
        content = _content(path)
        model = ModelProto.FromString(content)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(
            f"{path}: this is not an ONNX model ({first_line(error)}); export the network to "
            "ONNX first"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{path}: this is not an ONNX model (no graph was found in it); export the network to "
            "ONNX first"
        )
    external = {name: safe_path(path, name) for name in external_locations(model)}
    digest = _digest(content, external)
    del content
    load_external(path, model)
    check_model(path, model)
    return ModelFile(path, model, digest)


def _content(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST_MESSAGE:
        raise ValueError("it is over 2 GB, which no ONNX file without external data can be")
    return path.read_bytes()


def _digest(content: bytes, external: Mapping[str, Path]) -> str:
    """Over the model file and its data files, in the order of their names."""
    hasher = hashlib.sha256(content)
    for _, data in sorted(external.items()):
        if data.is_file():
            with data.open("rb") as file:
                hasher.update(hashlib.file_digest(file, "sha256").digest())
    return hasher.hexdigest()


def canonical_bytes(model: ModelProto) -> bytes:
    """The bytes under which repairkit writes and compares a model."""
    return as_on_disk(model).SerializeToString(deterministic=True)


def digest_of(model: ModelProto) -> str:
    """What `read_model` will give for a model that is not on disk yet."""
    hasher = hashlib.sha256(canonical_bytes(model))
    for _, digest in sorted(outside_digests(model).items()):
        hasher.update(bytes.fromhex(digest))
    return hasher.hexdigest()


def write_model(model: ModelProto, path: Path) -> str:
    """Write a model whole or not at all; one over 2 GB gets a data file beside it.

    Returns:
        The digest that `read_model` would give.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full, or another file is in the
            way of the model's weights.
    """
    try:
        with together() as drafts:
            add_model(drafts, model, path)
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another "
            "place with -o"
        ) from error
    if model.ByteSize() < _SINGLE_FILE_LIMIT:
        return digest_of(model)
    return _digest(path.read_bytes(), {f"{path.name}.data": path.with_name(f"{path.name}.data")})


def add_model(drafts: Drafts, model: ModelProto, path: Path) -> None:
    """Add a model to files that appear together: its weights' files, then the model itself.

    Raises:
        RunFolderError: another file is in the way of the model's weights.
        OSError: a draft cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place_beside(model, path, drafts)
    if model.ByteSize() < _SINGLE_FILE_LIMIT:
        drafts.write(path, canonical_bytes(model))
        return
    data = path.with_name(f"{path.name}.data")
    if data.exists() and not _names_data(path, data.name):
        raise RunFolderError(
            f"{data}: is in the way of the model's weights, and no model of repairkit names it; "
            "move it, or choose another place with -o"
        )
    copy = ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        onnx.save(copy, Path(folder) / path.name, save_as_external_data=True, location=data.name)
        drafts.adopt(Path(folder) / data.name, data)
        drafts.adopt(Path(folder) / path.name, path)


def _names_data(path: Path, name: str) -> bool:
    """Whether the model that is at a place keeps its weights in the file of that name."""
    try:
        return name in external_locations(ModelProto.FromString(_content(path)))
    except (DecodeError, ValueError, OSError):
        return False
