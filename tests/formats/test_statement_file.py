"""A statement says what was made from what as in-toto does, and shows every changed byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.errors import VerificationError
from repairkit.formats.patch_file import claim_digest
from repairkit.formats.provenance.statement_file import Making, read_statement, statement_text

DIGESTS = st.binary(max_size=8).map(lambda content: hashlib.sha256(content).hexdigest())
NAMES = st.text(min_size=1, max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def files(n_least: int = 1, n_most: int = 3) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(NAMES, DIGESTS, min_size=n_least, max_size=n_most)


CLAIMS = st.fixed_dictionaries(
    {
        "source": DIGESTS,
        "frozen": st.lists(st.tuples(NAMES, NUMBERS).map(list), max_size=3),
        "output": st.none() | NAMES,
        "digest": DIGESTS,
    }
)
MAKINGS = st.builds(
    Making,
    way=st.sampled_from(["apply", "overlay"]),
    version=NAMES,
    made=files(),
    source=files(),
    patch_file=files(1, 1),
    beside=files(0),
    source_digest=DIGESTS,
    result_digest=DIGESTS,
    claim=CLAIMS,
)


@settings(max_examples=30, deadline=None)
@given(making=MAKINGS, data=st.data())
def test_a_statement_is_read_as_written_and_a_changed_byte_is_told(
    tmp_path_factory: pytest.TempPathFactory, making: Making, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("statement") / "model.intoto.json"
    content = bytearray(statement_text(making).encode())
    path.write_bytes(content)
    assert read_statement(path) == making
    for _ in range(8):
        spoilt = bytearray(content)
        spoilt[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(spoilt)
        with pytest.raises(VerificationError, match="was altered"):
            read_statement(path)


@settings(max_examples=20, deadline=None)
@given(making=MAKINGS)
def test_the_library_of_in_toto_reads_a_statement(making: Making) -> None:
    protobuf = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    statements = pytest.importorskip("in_toto_attestation.v1.statement")
    from google.protobuf import json_format

    read = json_format.Parse(statement_text(making), protobuf.Statement())
    statement = statements.Statement.copy_from_pb(read)
    statement.validate()
    subject = {one.name: one.digest["sha256"] for one in statement.pb.subject}
    assert subject == making.made
    predicate = json_format.MessageToDict(statement.pb.predicate)
    assert predicate["patchFile"]["digest"]["sha256"] in making.patch_file.values()
    assert predicate["result"] == {"digest": making.result_digest}


MAKING = Making(
    way="apply",
    version="1",
    made={"b.onnx": "b" * 64},
    source={"a.onnx": "a" * 64},
    patch_file={"b.patch.json": "c" * 64},
    beside={"b.report.json": "d" * 64},
    source_digest="a" * 64,
    result_digest="b" * 64,
    claim={"frozen": [["conv:1", 0.5]], "digest": "e" * 64},
)


def further(statement: dict[str, Any]) -> None:
    statement["predicate"]["further"] = 1


def of_another_type(statement: dict[str, Any]) -> None:
    statement["predicateType"] = "https://slsa.dev/provenance/v1"


def without_subject(statement: dict[str, Any]) -> None:
    statement["subject"] = []


def another_command(statement: dict[str, Any]) -> None:
    statement["predicate"]["recompute"][1] = "revert"


def digest_of_numbers(statement: dict[str, Any]) -> None:
    statement["subject"][0]["digest"]["sha256"] = 5


def no_statement(statement: dict[str, Any]) -> None:
    statement["predicate"] = ["recompute"]


CHANGES = [
    further, of_another_type, without_subject, another_command, digest_of_numbers, no_statement
]  # fmt: skip


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"predicate": 1}', "[" * 5000])
def test_what_is_no_statement_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.intoto.json"
    path.write_text(content)
    with pytest.raises(VerificationError, match="no statement of repairkit") as told:
        read_statement(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_forger_seals_anew_is_still_written_in_one_way_alone(
    tmp_path: Path, change: Any
) -> None:
    path = tmp_path / "model.intoto.json"
    statement = json.loads(statement_text(MAKING))
    del statement["predicate"]["seal"]
    change(statement)
    seal = claim_digest(statement)
    if isinstance(statement["predicate"], dict):
        statement["predicate"]["seal"] = seal
    path.write_text(json.dumps(statement, indent=2) + "\n", encoding="utf-8")
    with pytest.raises(VerificationError) as told:
        read_statement(path)
    assert "\n" not in str(told.value)


def test_the_seal_is_the_digest_of_all_else() -> None:
    statement = json.loads(statement_text(MAKING))
    seal = statement["predicate"].pop("seal")
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert seal == hashlib.sha256(text.encode()).hexdigest()
