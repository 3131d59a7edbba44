"""Model files: read with one clear line per fault, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from repairkit.core.errors import ModelError, RunFolderError
from repairkit.graph.index import all_nodes, subgraphs

_SINGLE_FILE_LIMIT = 2_000_000_000


@dataclass(frozen=True)
class ModelFile:
    """A model as it lies on disk. `digest` is the SHA-256 of its bytes and its external data's."""

    path: Path
    model: ModelProto
    digest: str


def read_model(path: Path) -> ModelFile:
    """Read a model and the external data beside it.

    Raises:
        ModelError: the file is missing, is not ONNX, is empty, or its external data is missing or
            lies outside the model's folder.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; give the path of an ONNX model")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(
            f"{path}: this is not an ONNX model ({_first_line(error)}); export the network to "
            "ONNX first"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{path}: this is not an ONNX model (no graph was found in it); export the network to "
            "ONNX first"
        )
    digest = _digest(path, model)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{path}: its external data cannot be read ({_first_line(error)}); put the data file "
            "into the model's own folder"
        ) from error
    return ModelFile(path, model, digest)


def _digest(path: Path, model: ModelProto) -> str:
    hasher = hashlib.sha256(path.read_bytes())
    locations = {ExternalDataInfo(t).location for t in _tensors(model) if uses_external_data(t)}
    for location in sorted(locations):
        data = path.parent / location
        if data.is_file() and data.resolve().parent.is_relative_to(path.parent.resolve()):
            with data.open("rb") as file:
                hasher.update(hashlib.file_digest(file, "sha256").digest())
    return hasher.hexdigest()


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is stored anywhere in a model."""
    nodes = [*all_nodes(model.graph), *(n for f in model.functions for n in f.node)]
    yield from model.graph.initializer
    for node in nodes:
        for found in node.attribute:
            if found.HasField("t"):
                yield found.t
            yield from found.tensors
        for graph in subgraphs(node):
            yield from graph.initializer


def digest_of(model: ModelProto) -> str:
    """SHA-256 of the model's canonical bytes, for a model that is not on disk yet."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def write_model(model: ModelProto, path: Path) -> str:
    """Write to a temporary name, then rename; a model over 2 GB gets a data file beside it.

    Returns:
        The digest that `read_model` would give.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            if model.ByteSize() < _SINGLE_FILE_LIMIT:
                data = model.SerializeToString(deterministic=True)
                with draft.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            else:
                copy = ModelProto()
                copy.CopyFrom(model)
                onnx.save(copy, draft, save_as_external_data=True, location=f"{path.name}.data")
                (Path(folder) / f"{path.name}.data").replace(path.parent / f"{path.name}.data")
            draft.replace(path)
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another "
            "place with -o"
        ) from error
    return _digest(
        path,
        model
        if model.ByteSize() < _SINGLE_FILE_LIMIT
        else onnx.load(path, load_external_data=False),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
