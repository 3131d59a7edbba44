"""A file of a model as pieces of the model's canonical bytes, so that little is kept to restore it.

A patch file holds such records where the source's files are not just its canonical bytes.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_BLOCK = 64
_MOST_BLOCKS = 1 << 20
_STRIDE = 1 << 20

Piece = tuple[int, int] | bytes
"""A range (offset, length) of the other sequence, or bytes that are not in it."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a model: its name, "" for the model itself, and its pieces."""

    name: str
    pieces: tuple[Piece, ...]

    def to_json(self) -> dict[str, Any]:
        pieces = [
            base64.b64encode(p).decode() if isinstance(p, bytes) else list(p) for p in self.pieces
        ]
        return {"name": self.name, "pieces": pieces}

    @property
    def size(self) -> int:
        return sum(len(p) if isinstance(p, bytes) else p[1] for p in self.pieces)


def stored_file(document: Mapping[str, Any]) -> StoredFile:
    """A file's record as it stands in a patch file.

    Raises:
        ValueError: it is no such record.
    """
    pieces: list[Piece] = []
    for piece in document["pieces"]:
        if isinstance(piece, str):
            pieces.append(base64.b64decode(piece, validate=True))
        elif isinstance(piece, list) and [type(n) for n in piece] == [int, int]:
            pieces.append((piece[0], piece[1]))
        else:
            raise binascii.Error("a piece is neither a range nor bytes")
    return StoredFile(str(document["name"]), tuple(pieces))


def describe(target: bytes, base: bytes) -> list[Piece]:
    """The pieces whose sequence is `target`, long common runs taken from `base`."""
    step = max(_BLOCK, len(base) // _MOST_BLOCKS)
    blocks: dict[bytes, int] = {}
    for offset in range(0, len(base) - _BLOCK + 1, step):
        blocks.setdefault(base[offset : offset + _BLOCK], offset)
    pieces: list[Piece] = []
    position = covered = 0
    while position + _BLOCK <= len(target):
        offset = blocks.get(target[position : position + _BLOCK], -1)
        if offset < 0:
            position += 1
            continue
        while offset and position > covered and base[offset - 1] == target[position - 1]:
            offset, position = offset - 1, position - 1
        if position > covered:
            pieces.append(target[covered:position])
        length = _common(base, offset, target, position)
        pieces.append((offset, length))
        position += length
        covered = position
    if covered < len(target):
        pieces.append(target[covered:])
    return pieces


def _common(one: bytes, start: int, other: bytes, begin: int) -> int:
    """How many bytes agree from `start` in the one and `begin` in the other on."""
    most, length = min(len(one) - start, len(other) - begin), 0
    while length < most:
        step = min(_STRIDE, most - length)
        a = np.frombuffer(one, np.uint8, step, start + length)
        b = np.frombuffer(other, np.uint8, step, begin + length)
        differing = np.flatnonzero(a != b)
        if len(differing):
            return length + int(differing[0])
        length += step
    return length


def restore(pieces: Sequence[Piece], base: bytes) -> bytes:
    """What `describe` gave.

    Raises:
        ValueError: a piece lies outside `base`.
    """
    parts = []
    for piece in pieces:
        if isinstance(piece, bytes):
            parts.append(piece)
            continue
        offset, length = piece
        if offset < 0 or length < 0 or offset + length > len(base):
            raise ValueError("a piece lies outside the model")
        parts.append(base[offset : offset + length])
    return b"".join(parts)
