"""How a model lay on disk where its bytes are not the canonical ones: as pieces of those.

Other programs write the same model in another order of fields, or keep its weights in files beside
it. What tells such files from the canonical bytes is kept in the patch file, so that undoing the
patch gives back every byte of every file.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto

from repairkit.core.errors import RunFolderError, VerificationError
from repairkit.core.process.writing import Drafts
from repairkit.formats.stored_files import StoredFile, describe, restore
from repairkit.graph.stored import model_files
from repairkit.graph.stored.tensors import outside_digests

_SLACK_BYTES = 64 << 20


def layout_of(file: model_files.ModelFile) -> tuple[StoredFile, ...]:
    """How the files of a model differ from its canonical bytes; nothing where they do not."""
    content = file.path.read_bytes()
    canonical = model_files.canonical_bytes(file.model)
    if content == canonical:
        return ()
    names = model_files.external_locations(ModelProto.FromString(content))
    kept = outside_digests(file.model)  # these are never written, so nothing need be told of them
    read = [name for name in names if name not in kept]
    contents = {"": content} | {n: model_files.safe_path(file.path, n).read_bytes() for n in read}
    return tuple(
        StoredFile(name, tuple(describe(data, canonical))) for name, data in contents.items()
    )


def restored_files(model: ModelProto, layout: Sequence[StoredFile]) -> dict[str, bytes]:
    """The bytes of every file of a model, by name; "" is the model itself.

    Raises:
        VerificationError: the layout is not one of this model.
    """
    canonical = model_files.canonical_bytes(model)
    if not layout:
        return {"": canonical}
    names = [stored.name for stored in layout]
    most = 2 * len(canonical) + _SLACK_BYTES
    if len(set(names)) != len(names) or "" not in names or sum(s.size for s in layout) > most:
        raise VerificationError("the patch file's layout of the original is not one of this model")
    try:
        return {stored.name: restore(stored.pieces, canonical) for stored in layout}
    except ValueError as error:
        raise VerificationError(
            f"the patch file's layout of the original does not fit the model ({error})"
        ) from error


def digest_of_files(contents: Mapping[str, bytes], outside: Mapping[str, str]) -> str:
    """The digest that `read_model` gives to a model in these files.

    Args:
        contents: from `restored_files`.
        outside: digests of the data files that were never read, by name.
    """
    hasher = hashlib.sha256(contents[""])
    digests = {n: hashlib.sha256(data).hexdigest() for n, data in contents.items() if n}
    for _, digest in sorted((digests | dict(outside)).items()):
        hasher.update(bytes.fromhex(digest))
    return hasher.hexdigest()


def add_files(drafts: Drafts, contents: Mapping[str, bytes], out: Path) -> None:
    """Add a model's files to those that appear together; those beside it first, itself last.

    Raises:
        RunFolderError: a file beside it holds other data.
        ModelError: a file's name leads out of the folder.
        OSError: a draft cannot be written.
    """
    beside = {model_files.safe_path(out, name): data for name, data in contents.items() if name}
    for path, data in beside.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise RunFolderError(
                f"{path}: is in the way of the model's weights and holds other data; choose "
                "another folder with -o"
            )
    for path, data in beside.items():
        if not path.exists():
            drafts.write(path, data)
    drafts.write(out, contents[""])
