"""The records of files and the schemas that the package ships say the same."""

from __future__ import annotations

import json
import types
from importlib.resources import files
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from repairkit.formats.patch_file import KIND, READ, SCHEMAS
from repairkit.formats.run_file import RunDocument

SCHEMA = json.loads((files("repairkit.formats") / "run.schema.json").read_text())
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
LATER = {
    "auxiliary",
    "less_is_better",
    "read",
    "scored_on",
    "taken",
    "again",
    "statistics",
    "layers",
}
"""What the schema leaves open, so that it fits the files of every version."""


def kinds_of(hint: Any) -> set[str]:
    """The types of JSON that a declaration allows."""
    origin = get_origin(hint)
    if hint is Any:
        return set(TYPES.values()) | {"array", "object"}
    if origin in (Union, types.UnionType):
        return set().union(*map(kinds_of, get_args(hint)))
    if origin is Literal:
        return {TYPES[type(one)] for one in get_args(hint)}
    if is_typeddict(hint) or origin is dict:
        return {"object"}
    return {"array"} if origin is list else {TYPES[hint]}


def schema_kinds(schema: dict[str, Any]) -> set[str]:
    """The types of JSON that a schema allows."""
    if "$ref" in schema:
        return schema_kinds(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if "const" in schema or "enum" in schema:
        return {TYPES[type(one)] for one in schema.get("enum", [schema.get("const")])}
    kinds = schema["type"]
    return {kinds} if isinstance(kinds, str) else set(kinds)


def disagreements(record: Any, schema: dict[str, Any], place: str) -> list[str]:
    faults = []
    known = schema.get("properties", {})
    hints = get_type_hints(record, include_extras=True)
    faults += [f"{place}{name} is no entry" for name in set(known) - set(hints)]
    for name, hint in hints.items():
        optional = get_origin(hint) is NotRequired
        declared = get_args(hint)[0] if optional else hint
        if not optional and name not in schema.get("required", []):
            faults.append(f"{place}{name} may be missing")
        if name not in known:
            continue
        if kinds_of(declared) != schema_kinds(known[name]):
            faults.append(f"{place}{name} is {kinds_of(declared)}, not {schema_kinds(known[name])}")
        if is_typeddict(declared):
            faults += disagreements(declared, known[name], f"{place}{name}.")
    return faults


def test_the_schema_of_runs_declares_what_the_record_does() -> None:
    settings = {"settings"}  # an object of any settings: each version has its own
    hints = get_type_hints(RunDocument)
    assert set(hints) - set(SCHEMA["properties"]) == LATER
    faults = disagreements(RunDocument, SCHEMA, "")
    assert [fault for fault in faults if fault.partition(".")[0] not in settings] == []


def test_the_check_of_a_schema_sees_another_type_and_a_missing_entry() -> None:
    other = {**SCHEMA, "properties": {**SCHEMA["properties"], "batching": {"type": "integer"}}}
    assert any(fault.startswith("batching is") for fault in disagreements(RunDocument, other, ""))
    other = {**SCHEMA, "required": [name for name in SCHEMA["required"] if name != "key"]}
    assert "key may be missing" in disagreements(RunDocument, other, "")


def test_the_schema_of_patch_files_declares_what_is_read_of_them() -> None:
    schema = json.loads((files("repairkit.formats") / "patch.schema.json").read_text())
    parts = schema["properties"]
    assert parts["schema"]["enum"] == list(SCHEMAS)
    assert parts["kind"]["const"] == KIND
    for name, read in READ.items():
        part = parts[name].get("items", parts[name])
        known = set(part.get("properties", {}))
        for reference in part.get("allOf", []):
            known |= set(schema["$defs"][reference["$ref"].rpartition("/")[2]]["properties"])
        if "$ref" in part:
            known |= set(schema["$defs"][part["$ref"].rpartition("/")[2]]["properties"])
        assert known == read, name
