"""The names that the pickles in a file would import, read without running them."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_MOST_BYTES = 1 << 28
_MOST_NESTED = 3
_TEXT_BYTES = 1 << 24
# What tensors and state dicts are made of.
_TENSORS = ("torch._utils", "torch.storage", "torch._tensor", "torch.nn.parameter")
_PLAIN = {"collections:OrderedDict", "torch:Size", "torch:device", "torch:dtype"}


def foreign_names(path: Path) -> tuple[str, ...]:
    """The names in a file's pickles, as `module:name`, that no plain state dict needs, sorted."""
    names = {name for content in pickles_in(path) for name in names_in(content)}
    return tuple(sorted(name for name in names if not _is_plain(name)))


def pickles_in(path: Path) -> Iterator[bytes]:
    """Every member of a zip that may be a pickle, also in zips inside it; or the file itself."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            yield from _members(file, _MOST_NESTED)
            return
        file.seek(0)
        yield file.read(_TEXT_BYTES)


def _members(file: IO[bytes], depth: int) -> Iterator[bytes]:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError):
        return
    with archive:
        for member in archive.infolist():
            if member.file_size > _MOST_BYTES or not member.file_size:
                continue
            try:
                content = archive.read(member)
            except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError):
                continue
            if content[:2] == b"PK" and depth:
                yield from _members(io.BytesIO(content), depth - 1)
            elif content[:1] == b"\x80" or member.filename.endswith((".pkl", ".pickle")):
                yield content


def names_in(content: bytes) -> set[str]:
    """The names, as `module:name`, that a pickle imports; an old file may hold several pickles."""
    names: set[str] = set()
    stream = io.BytesIO(content)
    try:
        while stream.tell() < len(content):
            _read_one(stream, names)
    except Exception:  # noqa: BLE001 - nothing reads what follows the pickles
        pass
    return names


def _read_one(stream: io.BytesIO, names: set[str]) -> None:
    texts: list[str] = []
    memo: dict[int, str | None] = {}
    top: str | None = None  # the text that was put on the stack last, if nothing else was
    for code, argument, _ in pickletools.genops(stream):
        if code.name == "MEMOIZE" or code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else int(argument)] = top
            continue
        if code.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            names.add(f"{module}:{name}")
        elif code.name == "STACK_GLOBAL":
            names.add(":".join(texts[-2:]) if len(texts) > 1 else "a name made at run time")
        top = None
        if code.name in ("GET", "BINGET", "LONG_BINGET"):
            top = memo.get(int(str(argument)))
        elif isinstance(argument, str) and code.name not in ("GLOBAL", "INST", "PERSID"):
            top = argument
        if top is not None:
            texts.append(top)


def _is_plain(name: str) -> bool:
    module, _, attribute = name.partition(":")
    storage = module == "torch" and attribute.endswith(("Storage", "Tensor"))
    numbers = module == "torch" and attribute.rstrip("0123456789") in ("float", "int", "bfloat")
    return name in _PLAIN or module in _TENSORS or storage or numbers
