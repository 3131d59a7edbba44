"""Large weights stay in their files: a model in memory names them and reads what it needs.

A tensor that is kept outside carries two more entries among its external data than its file has:
the folder where its data lies, and the digest of the data file, so that models are equal where
their weights are. Both are taken out before a model is written or run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError, RunFolderError
from repairkit.core.process.writing import Drafts
from repairkit.graph.index import all_nodes, subgraphs

KEPT_OUTSIDE_ABOVE = 1 << 30
"""External data of more bytes than this, all together, are not read into memory."""

_FOLDER, _DIGEST = "repairkit.folder", "repairkit.sha256"


def stored_in(graph: GraphProto, functions: Iterable[NodeProto] = ()) -> Iterator[TensorProto]:
    """The tensors of a graph, of its nodes and of the graphs inside it; sparse ones left out."""
    yield from graph.initializer
    for node in (*all_nodes(graph), *functions):
        for found in node.attribute:
            if found.HasField("t"):
                yield found.t
            yield from found.tensors
        for body in subgraphs(node):
            yield from body.initializer


def keep_outside(tensor: TensorProto, folder: Path, digest: str) -> None:
    """Mark an external tensor, in place, as one that is not read into memory."""
    tensor.external_data.add(key=_FOLDER, value=str(folder.resolve()))
    tensor.external_data.add(key=_DIGEST, value=digest)


def forget_marks(tensor: TensorProto, *keys: str) -> None:
    """Take out the entries that are repairkit's own, in place: a file may not hold them."""
    gone = keys or (_FOLDER, _DIGEST)
    kept = [(e.key, e.value) for e in tensor.external_data if e.key not in gone]
    if len(kept) != len(tensor.external_data):
        del tensor.external_data[:]
        for key, value in kept:
            tensor.external_data.add(key=key, value=value)


def is_outside(tensor: TensorProto) -> bool:
    """Whether a tensor's numbers are still in a file."""
    return tensor.data_location == TensorProto.EXTERNAL and bool(_entry(tensor, _FOLDER))


def array_of(tensor: TensorProto) -> Array:
    """A tensor's numbers; those of one that is kept outside are mapped from its file.

    Raises:
        ModelError: the file is gone.
    """
    if not is_outside(tensor):
        return numpy_helper.to_array(tensor)
    path = Path(_entry(tensor, _FOLDER)) / _entry(tensor, "location")
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape, offset = tuple(tensor.dims), int(_entry(tensor, "offset") or 0)
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    try:
        mapped = np.memmap(path, dtype, "r", offset, shape)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: the model's weights cannot be read ({error})") from error
    return np.asarray(mapped)


def folder_of(model: ModelProto) -> Path | None:
    """The folder of the weights that are kept outside; None where none are."""
    found = (_entry(t, _FOLDER) for t in stored_in(model.graph) if is_outside(t))
    first = next(found, None)
    return None if first is None else Path(first)


def as_on_disk(model: ModelProto) -> ModelProto:
    """The model without repairkit's marks: itself where it has none."""
    return _without(model, _FOLDER, _DIGEST)


def wherever_it_lies(model: ModelProto) -> ModelProto:
    """The model without the folder of its weights, for comparing; itself where none is outside."""
    return _without(model, _FOLDER)


def _without(model: ModelProto, *keys: str) -> ModelProto:
    if folder_of(model) is None:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in stored_in(result.graph, (n for f in result.functions for n in f.node)):
        forget_marks(tensor, *keys)
    return result


def outside_digests(model: ModelProto) -> dict[str, str]:
    """The SHA-256 of every data file that is kept outside, by its name in the model."""
    return {
        _entry(t, "location"): _entry(t, _DIGEST)
        for t in stored_in(model.graph, (n for f in model.functions for n in f.node))
        if is_outside(t)
    }


def place_beside(model: ModelProto, out: Path, drafts: Drafts) -> None:
    """Let the data files that a model keeps outside lie beside `out` too.

    Args:
        model: its weights may lie anywhere.
        out: where it is to be.
        drafts: the files that appear together with it, to which copies are added.

    Raises:
        RunFolderError: another file is in the way, or nothing can be written.
    """
    folder = folder_of(model)
    if folder is None:
        return
    for location, digest in sorted(outside_digests(model).items()):
        source, target = folder / location, out.parent / location
        if target.exists():
            if not (target.samefile(source) or digest_of_file(target) == digest):
                raise RunFolderError(
                    f"{target}: is in the way of the model's weights and holds other data; choose "
                    "another folder with -o"
                )
            continue
        try:
            drafts.copy(source, target)  # a link would be refused by onnx.checker
        except OSError as error:
            raise RunFolderError(
                f"{target}: the model's weights cannot be put there ({error.strerror or error}); "
                "free space or choose another place with -o"
            ) from error


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(tensor: TensorProto, key: str) -> str:
    return next((e.value for e in reversed(tensor.external_data) if e.key == key), "")
