"""What differs around two graphs: inputs, outputs, header, metadata, and where tensors lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto, ValueInfoProto

from repairkit.graph.stored.model_files import tensors_outside
from repairkit.jobs.diff.graph_view import opsets_of, type_name

_LONGEST = 500  # characters of a text in the metadata


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Inputs and outputs of A to those of B that are the same, and what differs."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    changed_inputs: list[dict[str, Any]]
    changed_outputs: list[dict[str, Any]]
    alike: bool

    @classmethod
    def of(cls, a: ModelProto, b: ModelProto) -> Ports:
        sides = [
            [{v.name: v for v in values} for values in (_fed(m), m.graph.output)] for m in (a, b)
        ]
        inputs, outputs = (_paired(sides[0][place], sides[1][place]) for place in (0, 1))
        changed = [
            list(_changed_ports(pairs, sides[0][place], sides[1][place]))
            for place, pairs in enumerate((inputs, outputs))
        ]
        return cls(
            inputs=inputs,
            outputs=outputs,
            changed_inputs=changed[0],
            changed_outputs=changed[1],
            alike=not any(row["computes"] for row in (*changed[0], *changed[1])),
        )


def _fed(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs without a default."""
    stored = {t.name for t in model.graph.initializer}
    stored |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _paired(a: Mapping[str, ValueInfoProto], b: Mapping[str, ValueInfoProto]) -> dict[str, str]:
    """By names; the others in their order, where they are of one type and rank."""
    pairs = {name: name for name in a if name in b}
    left, right = ([n for n in each if n not in pairs] for each in (a, b))
    others = zip(left, right, strict=False)
    pairs |= {ours: theirs for ours, theirs in others if _kind(a[ours])[:2] == _kind(b[theirs])[:2]}
    return {name: pairs[name] for name in a if name in pairs}


def _changed_ports(
    pairs: Mapping[str, str], a: Mapping[str, ValueInfoProto], b: Mapping[str, ValueInfoProto]
) -> Iterator[dict[str, Any]]:
    for name in a:
        other = pairs.get(name)
        types = [_type(a[name]), None if other is None else _type(b[other])]
        if other == name and types[0] == types[1]:
            continue
        computes = other is None or _kind(a[name]) != _kind(b[other])
        yield {"a": name, "b": other, "type": types, "computes": computes}
    for name in b:
        if name not in pairs.values():
            yield {"a": None, "b": name, "type": [None, _type(b[name])], "computes": True}
    kept = [n for n in b if n in pairs.values()]
    if kept != list(pairs.values()):
        order = [", ".join(pairs), ", ".join(kept)]
        yield {"a": "order", "b": "order", "type": order, "computes": False}


def _kind(value: ValueInfoProto) -> tuple[object, ...]:
    """Element type, rank and fixed sizes; names of open sizes do not count."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return value.type.SerializeToString(deterministic=True), -1
    known = tensor.HasField("shape")
    sizes = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
    return tensor.elem_type, len(sizes) if known else -1, sizes


def _type(value: ValueInfoProto) -> str:
    """The type of a value in words, such as `float32, batch x 3 x 224 x 224`."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value") or "no type").removesuffix("_type")
    name = type_name(tensor.elem_type)
    if not tensor.HasField("shape"):
        return f"{name}, any shape"
    sizes = [
        d.dim_param or (str(d.dim_value) if d.dim_value > 0 else "?") for d in tensor.shape.dim
    ]
    return f"{name}, {' x '.join(sizes) or 'a single number'}"


def header_changes(a: ModelProto, b: ModelProto) -> Iterator[dict[str, Any]]:
    """Versions, producers, names and remarks that differ."""
    yield from _rows("IR version", a.ir_version, b.ir_version)
    versions = opsets_of(a.opset_import), opsets_of(b.opset_import)
    for domain in sorted({*versions[0], *versions[1]}):
        name = f"opset {domain}".strip()
        yield from _rows(name, versions[0].get(domain), versions[1].get(domain))
    for what in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        yield from _rows(what.replace("_", " "), getattr(a, what), getattr(b, what))
    yield from _rows("graph name", a.graph.name, b.graph.name)
    yield from _rows("graph doc string", a.graph.doc_string, b.graph.doc_string)


def metadata_changes(a: ModelProto, b: ModelProto) -> Iterator[dict[str, Any]]:
    """Entries of the metadata that differ, shortened."""
    ours, theirs = ({p.key: p.value for p in m.metadata_props} for m in (a, b))
    for key in sorted({*ours, *theirs}):
        yield from _rows(key, ours.get(key), theirs.get(key))


def storage_changes(a: Path, b: Path) -> Iterator[dict[str, Any]]:
    """How many tensors lie in which file beside the models."""
    ours, theirs = tensors_outside(a), tensors_outside(b)
    for name in sorted({*ours, *theirs}):
        yield from _rows(name, ours.get(name, 0), theirs.get(name, 0))


def _rows(what: str, a: object, b: object) -> Iterator[dict[str, Any]]:
    if a != b:
        yield {"what": what, "a": _short(a), "b": _short(b)}


def _short(value: object) -> object:
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]}… ({len(value):,} characters)"
    return value
