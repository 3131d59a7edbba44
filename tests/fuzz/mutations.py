"""Ways to spoil a file: blind ones on bytes, and ones that know protobuf, JSON and tables.

Every function draws from the generator that it is handed, so a seed names its result.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from onnx import ModelProto

INTEGERS = (0, 1, -1, 2, 3, 127, 255, 2**16, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))
TEXTS = (
    "",
    "x" * 5000,
    "../../../etc/passwd",
    "/etc/passwd",
    "\x1b[31mred\x1b[0m",
    "[bold]markup[/bold]",
    "[/]",
    "a\nb\rc",
    "=1+1",
    "\u202eright to left",
    "\ud7ff\U0010ffff",
    "a:b:0",
    "%s%n{0}",
)
_MOST_REPEATS = 400


def spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few blind changes: flipped bits, cuts, copies of pieces, odd numbers."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not spoilt:
            return bytes(rng.randbytes(8))
        place = rng.randrange(len(spoilt))
        kind = rng.randrange(6)
        if kind == 0:
            spoilt[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            spoilt[place] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del spoilt[place:]
        elif kind == 3:
            del spoilt[place : place + rng.choice((1, 4, 64))]
        elif kind == 4:
            start = rng.randrange(len(spoilt))
            spoilt[place:place] = spoilt[start : start + rng.choice((1, 8, 256))]
        else:
            spoilt[place : place + 9] = rng.choice((b"\xff" * 9 + b"\x01", b"\x80" * 9, b"\0" * 9))
    return bytes(spoilt)


def spoil_model(data: bytes, rng: random.Random) -> bytes:
    """A model with a few fields changed, each to what its type can hold."""
    model = ModelProto.FromString(data)
    names = _names(model)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        places = list(_messages(model))
        _spoil_message(places[rng.randrange(len(places))], places, names, rng)
    return model.SerializeToString()


def _names(model: ModelProto) -> list[str]:
    names = {n for node in model.graph.node for n in (*node.input, *node.output, node.name)}
    kinds = {node.op_type for node in model.graph.node}
    return sorted(names | kinds | {t.name for t in model.graph.initializer})


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else (value,):
            yield from _messages(inner)


def _spoil_message(
    message: Message, others: list[Message], names: list[str], rng: random.Random
) -> None:
    fields = [field for field, _ in message.ListFields()]
    if not fields or rng.random() < 0.1:
        fields = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = rng.choice(fields)
    if field.is_repeated:
        _spoil_list(getattr(message, field.name), field, others, names, rng)
    elif field.message_type is not None:
        alike = [o for o in others if o.DESCRIPTOR is field.message_type]
        if alike and rng.random() < 0.7:
            taken = copy.deepcopy(rng.choice(alike))
            getattr(message, field.name).CopyFrom(taken)
        else:
            message.ClearField(field.name)
    else:
        _set(message, field, getattr(message, field.name), names, rng)


def _spoil_list(
    values: Any, field: Any, others: list[Message], names: list[str], rng: random.Random
) -> None:
    kind = rng.randrange(5)
    if not len(values) or kind == 0:
        _append(values, field, others, names, rng)
        return
    place = rng.randrange(len(values))
    if kind == 1:
        del values[place]
    elif kind == 2:
        for _ in range(rng.choice((1, 2, _MOST_REPEATS))):
            values.append(values[place])
    elif kind == 3 and field.message_type is not None:
        moved = copy.deepcopy(values[place])
        del values[place]
        values.append(moved)
    elif field.message_type is None:
        values[place] = _value(field, values[place], names, rng)
    else:
        del values[place:]


def _append(
    values: Any, field: Any, others: list[Message], names: list[str], rng: random.Random
) -> None:
    if field.message_type is None:
        values.append(_value(field, None, names, rng))
        return
    alike = [o for o in others if o.DESCRIPTOR is field.message_type]
    values.append(copy.deepcopy(rng.choice(alike)) if alike else values.add())


def _set(message: Message, field: Any, old: Any, names: list[str], rng: random.Random) -> None:
    value = _value(field, old, names, rng)
    setattr(message, field.name, value)


def _value(field: Any, old: Any, names: list[str], rng: random.Random) -> Any:
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return spoil_bytes(old or b"", rng)
        return rng.choice(names) if names and rng.random() < 0.6 else rng.choice(TEXTS)
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    number = rng.choice(INTEGERS) if rng.random() < 0.6 else int(old or 0) + rng.choice((-1, 1))
    narrow = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32)
    low, high = (-(2**31), 2**31 - 1) if narrow else (-(2**63), 2**63 - 1)
    if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
        low, high = 0, high * 2 + 1
    return min(max(number, low), high)


def spoil_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON document with a few values swapped, dropped or replaced by odd ones."""
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        holders = [h for h in _holders(document) if len(h)]
        if not holders:
            break
        holder = rng.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = rng.choice(keys)
        if rng.random() < 0.2:
            del holder[key]
        else:
            other = rng.choice(holders)
            holder[key] = rng.choice(
                (*INTEGERS, *FLOATS, *TEXTS, None, True, [], {}, copy.deepcopy(other))
            )
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _holders(inner)
    elif isinstance(value, list):
        yield value
        for inner in value:
            yield from _holders(inner)


def spoil_text(data: bytes, rng: random.Random) -> bytes:
    """A text file with lines and words moved, doubled or replaced by odd ones."""
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            del lines[place]
            lines = lines or [""]
        elif kind == 1:
            lines[place:place] = [lines[place]] * rng.choice((1, 2, _MOST_REPEATS))
        elif kind == 2:
            odd = rng.choice((*TEXTS, *map(str, INTEGERS), *map(str, FLOATS), "[" * 3000, '"'))
            cut = rng.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:cut] + odd + lines[place][cut:]
        elif kind == 3:
            words = lines[place].replace("=", ",").split(",")
            rng.shuffle(words)
            lines[place] = ",".join(words)
        else:
            lines[place] = lines[place][: rng.randrange(len(lines[place]) + 1)]
    return "\n".join(lines).encode("utf-8", "surrogatepass")
