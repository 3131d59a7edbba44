"""Model files: read with one clear line per fault, written whole or not at all.

A model file is not trusted: the places and sizes that it names for weights in other files are
checked against the folder and the files before anything is read. Large weights stay in their files
(see `tensors`).
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import uses_external_data

from repairkit.core.errors import ModelError, RunFolderError
from repairkit.core.process.text import first_line
from repairkit.core.process.writing import Drafts, together
from repairkit.graph import protos
from repairkit.graph.stored import tensors
from repairkit.graph.stored.checking import check_model
from repairkit.graph.stored.other_formats import missing_file, name_format

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
    if path.is_dir():
        raise ModelError(f"{path}: {name_format(path)}")
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; {missing_file(path)}")
    try:
        content = _content(path)
        model = ModelProto.FromString(content)
        if not model.graph.node or not model.opset_import:
            raise ValueError("no graph was found in it")
    except (DecodeError, ValueError, OSError) as error:
        fault = name_format(path) or (
            f"this is not an ONNX model ({first_line(error)}); export the network to ONNX first"
        )
        raise ModelError(f"{path}: {fault}") from error
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
    """The SHA-256 of the model file, then of its data files in the order of their names."""
    hasher = hashlib.sha256(content)
    for _, data in sorted(external.items()):
        if data.is_file():
            with data.open("rb") as file:
                hasher.update(hashlib.file_digest(file, "sha256").digest())
    return hasher.hexdigest()


def canonical_bytes(model: ModelProto) -> bytes:
    """The bytes under which repairkit writes and compares a model."""
    return tensors.as_on_disk(model).SerializeToString(deterministic=True)


def digest_of(model: ModelProto) -> str:
    """What `read_model` will give for a model that is not on disk yet."""
    hasher = hashlib.sha256(canonical_bytes(model))
    for _, digest in sorted(tensors.outside_digests(model).items()):
        hasher.update(bytes.fromhex(digest))
    return hasher.hexdigest()


def files_of(path: Path) -> dict[str, str]:
    """The SHA-256 of each file of a model: its own first, then those that its tensors name.

    Args:
        path: of a model that `read_model` could read.
    """
    content = _content(path)
    beside = external_locations(ModelProto.FromString(content))
    digests = {name: digest_of_file(safe_path(path, name)) for name in beside}
    return {path.name: hashlib.sha256(content).hexdigest(), **digests}


def drafted_files(drafts: Drafts, model: ModelProto, path: Path) -> dict[str, str]:
    """What `files_of` will give for a model that `add_model` added.

    Raises:
        OSError: a draft cannot be read.
    """
    drafted = drafts.digests()
    data = path.with_name(f"{path.name}.data")
    beside = tensors.outside_digests(model)
    beside |= {data.name: drafted[data]} if data in drafted else {}
    return {path.name: drafted[path], **dict(sorted(beside.items()))}


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
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        onnx.save(protos.copied(model), draft, save_as_external_data=True, location=data.name)
        drafts.adopt(draft.with_name(data.name), data)
        drafts.adopt(draft, path)


def _names_data(path: Path, name: str) -> bool:
    """Whether the model that is at a place keeps its weights in the file of that name."""
    try:
        return name in external_locations(ModelProto.FromString(_content(path)))
    except (DecodeError, ValueError, OSError):
        return False


# External data


KEPT_OUTSIDE_ABOVE = 1 << 30
"""External data of more bytes than this in total are not read into memory."""

# Tied weights may be claimed twice or three times; a thousand claims of one gigabyte are an attack.
_MOST_TIMES = 4
_SLACK_BYTES = 64 << 20


def external_locations(model: ModelProto) -> list[str]:
    """The files beside the model that its tensors name, sorted."""
    external = (t for t in protos.stored_tensors(model) if uses_external_data(t))
    return sorted({tensors.external_entry(t, "location") for t in external})


def tensors_outside(path: Path) -> dict[str, int]:
    """How many tensors a model file keeps in each file beside it, by the name of that file.

    Args:
        path: of a model that `read_model` could read, which moves small ones into the model.
    """
    external = filter(
        uses_external_data, protos.stored_tensors(ModelProto.FromString(_content(path)))
    )
    return dict(Counter(tensors.external_entry(tensor, "location") for tensor in external))


def safe_path(model_path: Path, location: str) -> Path:
    """The file that `location` names, in or below the model's folder.

    Raises:
        ModelError: it is absolute, climbs out of the folder, or a link leads out of it.
    """
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    absolute = PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor)
    folder = model_path.parent.resolve()
    path = model_path.parent / location
    if not location or "\0" in location or absolute or ".." in parts or path == model_path:
        raise _not_in_folder(model_path, location)
    try:
        inside = path.resolve().is_relative_to(folder)
        path.exists()  # raises where no file can have that name
    except (OSError, RuntimeError) as error:  # the name is too long, or links form a circle
        raise _not_in_folder(model_path, location) from error
    if not inside:
        raise _not_in_folder(model_path, location)
    return path


def _not_in_folder(model_path: Path, location: str) -> ModelError:
    return _unreadable(
        model_path,
        f"{location[:200]!r} is no file in the model's own folder; put the data file there and let "
        "the model name it",
    )


def _unreadable(model_path: Path, reason: str) -> ModelError:
    return ModelError(f"{model_path}: its external data cannot be read: {reason}")


def load_external(model_path: Path, model: ModelProto) -> None:
    """Read every external tensor into the model, in place; large weights are left outside.

    Raises:
        ModelError: a place leads out of the folder, a file is missing or too short, or many tensors
            claim the same bytes.
    """
    waiting = [t for t in protos.stored_tensors(model) if uses_external_data(t)]
    for tensor in waiting:
        tensors.forget_marks(tensor)
    ranges = _checked_ranges(model_path, waiting)
    n_bytes = sum(length for held in ranges.values() for _, _, length in held)
    if n_bytes > KEPT_OUTSIDE_ABOVE and _can_be_mapped(model, waiting):
        for location, held in ranges.items():
            digest = digest_of_file(safe_path(model_path, location))
            for tensor, _, _ in held:
                tensors.keep_outside(tensor, model_path.parent, digest)
        return
    try:
        for location in sorted(ranges):
            with safe_path(model_path, location).open("rb") as file:
                for tensor, offset, length in ranges[location]:
                    file.seek(offset)
                    tensor.raw_data = file.read(length)
                    tensor.ClearField("data_location")
                    tensor.ClearField("external_data")
    except OSError as error:
        raise ModelError(
            f"{model_path}: its external data cannot be read ({error.strerror}); check the files"
        ) from error


def _checked_ranges(
    model_path: Path, waiting: list[TensorProto]
) -> dict[str, list[tuple[TensorProto, int, int]]]:
    """Each file's tensors, with the offset and length of their bytes."""
    ranges: dict[str, list[tuple[TensorProto, int, int]]] = {}
    sizes: dict[str, int] = {}
    for tensor in waiting:
        location = tensors.external_entry(tensor, "location")
        if location not in sizes:
            path = safe_path(model_path, location)
            if not path.is_file():
                raise _unreadable(
                    model_path,
                    f"there is no file {location!r} beside it; put the data file into the model's "
                    "own folder",
                )
            sizes[location] = path.stat().st_size
        offset, length = _range(model_path, tensor, sizes[location])
        ranges.setdefault(location, []).append((tensor, offset, length))
    asked = sum(length for held in ranges.values() for _, _, length in held)
    if asked > _MOST_TIMES * sum(sizes.values()) + _SLACK_BYTES:
        raise _unreadable(
            model_path,
            f"its tensors ask for {asked} bytes of files of {sum(sizes.values())} bytes; the same "
            "bytes are claimed too often",
        )
    return ranges


def _can_be_mapped(model: ModelProto, waiting: list[TensorProto]) -> bool:
    """Whether no tensor is part of a sparse one, or holds several numbers in a byte."""
    plain = sum(map(uses_external_data, protos.plain_tensors(model)))
    return plain == len(waiting) and all(t.data_type not in tensors.PACKED_BITS for t in waiting)


def _range(model_path: Path, tensor: TensorProto, size: int) -> tuple[int, int]:
    """Offset and length of a tensor's bytes in a file of `size` bytes."""
    needed = tensors.tensor_bytes(tensor)
    try:
        offset = int(tensors.external_entry(tensor, "offset") or 0)
        length = int(tensors.external_entry(tensor, "length") or needed)
    except ValueError:
        offset = length = -1
    if offset < 0 or length != needed or offset + length > size:
        raise _unreadable(
            model_path,
            f"the tensor {tensor.name!r} needs {needed} bytes and does not find them in its data "
            f"file of {size} bytes; get both files again from where they came from",
        )
    return offset, length


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place_beside(model: ModelProto, out: Path, drafts: Drafts) -> None:
    """Add the data files that a model keeps outside, wherever they lie, to the files beside `out`.

    Raises:
        RunFolderError: another file is in the way, or nothing can be written.
    """
    folder = tensors.folder_of(model)
    if folder is None:
        return
    for location, digest in sorted(tensors.outside_digests(model).items()):
        source, target = folder / location, out.parent / location
        if target.exists():
            if not (target.samefile(source) or digest_of_file(target) == digest):
                raise RunFolderError(
                    f"{target}: is in the way of the model's weights and holds other data; choose "
                    "another folder with -o"
                )
            continue
        try:
            drafts.copy(source, target)  # onnx.checker would refuse a link
        except OSError as error:
            raise RunFolderError(
                f"{target}: the model's weights cannot be put there ({error.strerror or error}); "
                "free space or choose another place with -o"
            ) from error


# Comparing


def same_model(one: ModelProto, other: ModelProto) -> bool:
    """Whether two models are equal to the byte in their canonical form."""
    a, b = (tensors.wherever_it_lies(m).SerializeToString(deterministic=True) for m in (one, other))
    return a == b


def first_difference(one: ModelProto, other: ModelProto) -> str:
    """Where two models differ, in words; empty where they do not."""
    for name, a, b in (
        ("opset", one.opset_import, other.opset_import),
        ("metadata", one.metadata_props, other.metadata_props),
        ("inputs", one.graph.input, other.graph.input),
        ("outputs", one.graph.output, other.graph.output),
        ("functions", one.functions, other.functions),
    ):
        if list(a) != list(b):
            return f"the {name} differ"
    ours, theirs = protos.GraphIndex(one), protos.GraphIndex(other)
    for name in sorted(set(ours.initializers) | set(theirs.initializers)):
        if ours.initializers.get(name) != theirs.initializers.get(name):
            return f"the tensor {name!r} differs"
    if len(ours.nodes) != len(theirs.nodes):
        return "the number of nodes differs"
    for ours_node, their_node in zip(ours.nodes, theirs.nodes, strict=True):
        if ours_node != their_node:
            return f"the node {ours_node.name or ours_node.output[0]!r} differs"
    return "" if same_model(one, other) else "the models differ outside the graph's nodes"
