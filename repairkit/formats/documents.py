"""JSON documents: read within bounds, checked against a record, written whole or not at all.

A record is a `TypedDict`. The document stays what it is, so that what a record does not know (an
entry of a later version) is kept, and the same document gives the same bytes.
"""

import json
import math
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any

from repairkit.core.errors import RunFolderError
from repairkit.core.process.text import decoded
from repairkit.core.process.writing import Drafts, together

_MOST_VALUES = 4_000_000


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full.
    """
    with outputs(path) as drafts:
        drafts.write(path, content)


@contextmanager
def outputs(path: Path) -> Iterator[Drafts]:
    """Files that appear together at the end of the block, or not at all.

    Args:
        path: the one that the user named, for messages.

    Raises:
        RunFolderError: a folder cannot be written or the disk is full.
    """
    try:
        with together() as drafts:
            yield drafts
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another "
            "place with -o"
        ) from error


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document whole or not at all."""
    write_text(path, to_json(document))


def to_json(document: Any) -> str:
    """JSON as repairkit writes it: readable, keys in the order given, no NaN.

    Characters that do not print are escaped: no terminal obeys them, and the meaning is the same.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def read_json(path: Path, what: str, *, limit: int = 128 * 2**20) -> Any:
    """Read a JSON document of bounded size, and of as few values as need little memory.

    Raises:
        RunFolderError: it is missing, too large, no JSON, names a value twice or holds NaN.
    """
    try:
        if path.stat().st_size > limit:
            raise RunFolderError(f"{path}: too large to be {what} ({limit} bytes at most)")
        content = path.read_bytes()
        if sum(content.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
            raise RunFolderError(f"{path}: holds too many values to be {what}")
        return json.loads(
            decoded(content), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunFolderError(
            f"{path}: cannot be read as {what} (there is no such file); check the path"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: cannot be read as {what} ({_reason(error)})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("it names a value twice")
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON, see line {error.lineno}, column {error.colno}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def fault_of(value: Any, kind: Any, place: str = "") -> str:
    """Where and why a value of JSON does not fit its declaration; empty where it fits.

    A whole number may stand where any number may. A truth value is no number.

    Args:
        value: as it was read.
        kind: a `TypedDict`, or what one of its entries is declared as.
        place: of the value in the document, for the words: names, with dots between.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return ""
    if typing.is_typeddict(kind):
        return _fault_in_record(value, kind, place)
    if origin in (typing.Union, UnionType):
        return "" if any(not fault_of(value, one, place) for one in args) else _no(place, *args)
    if origin is typing.Literal:
        fits = any(type(value) is type(one) and value == one for one in args)
        return "" if fits else f"{place or 'it'} is missing or none of {', '.join(map(str, args))}"
    if origin is list and isinstance(value, list):
        return next(filter(None, (fault_of(one, args[0], place) for one in value)), "")
    if origin is dict and isinstance(value, dict):
        entries = ((one, f"{place}.{name}") for name, one in value.items())
        return next(filter(None, (fault_of(one, args[1], name) for one, name in entries)), "")
    accepted = (int, float) if kind is float else (origin or kind)
    fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    return "" if fits else _no(place, origin or kind)


def _fault_in_record(value: Any, kind: Any, place: str) -> str:
    if not isinstance(value, dict):
        return _no(place, dict)
    for name, (declared, needed) in _entries_of(kind).items():
        if needed or name in value:
            fault = fault_of(value.get(name), declared, f"{place}.{name}" if place else name)
            if fault:
                return fault
    return ""


@cache
def _entries_of(kind: Any) -> dict[str, tuple[Any, bool]]:
    """What each entry of a record is declared as, and whether it must be there."""
    entries = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        optional = typing.get_origin(hint) is typing.NotRequired
        entries[name] = (typing.get_args(hint)[0] if optional else hint, not optional)
    return entries


def _no(place: str, *kinds: Any) -> str:
    bare = (typing.get_origin(kind) or kind for kind in kinds)
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in bare)
    return f"{place or 'it'} is missing or no {names}"


def finite_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows for JSON, which has no infinity: an unbounded interval becomes null."""
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in rows
    ]
