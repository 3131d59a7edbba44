"""Every byte of what lies beside a patched model has a check that tells of its change."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("safetensors")

import repairkit
from repairkit.core.errors import RepairkitError, RunFolderError, VerificationError
from repairkit.formats.provenance.statement_file import read_statement, statement_text
from repairkit.graph.stored.model_files import read_model
from repairkit.jobs.proof.beside import check_beside
from tests import models
from tests.conftest import Answer, write_project

Command = Callable[..., Answer]
TOLD = (
    "out.intoto.json",
    "out.patch.json",
    "out.report.json",
    "out.report.html",
    "out.change.html",
    "out.cdx.json",
)


@dataclass(frozen=True)
class Repaired:
    """A repaired model in a folder, with an overlay of the same patch."""

    folder: Path

    @property
    def pair(self) -> tuple[Path, Path]:
        return self.folder / "model.onnx", self.folder / "out.onnx"

    @property
    def overlay(self) -> Path:
        return self.folder / "out.safetensors"

    def copy(self, folder: Path) -> Repaired:
        return Repaired(Path(shutil.copytree(self.folder, folder / "copy")))

    def beside(self, made: Path | None = None) -> dict[str, str]:
        original, patched = map(read_model, self.pair)
        return check_beside(original, patched, made)


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Repaired:
    folder = tmp_path_factory.mktemp("repaired")
    project = write_project(folder, layer="both_biases")
    done = repairkit.patch(project.model, remove=["conv:1"], out=folder / "out.onnx")
    repairkit.overlay(project.model, done.patch_file, out=folder / "out.safetensors")
    return Repaired(folder)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_statement_names_each_file_by_its_own_digest(repaired: Repaired) -> None:
    model, out = repaired.pair
    statement = json.loads((repaired.folder / "out.intoto.json").read_text())
    predicate = statement["predicate"]
    described = [*statement["subject"], *predicate["source"]["files"], predicate["patchFile"]]
    described += predicate["byproducts"]
    assert {one["name"] for one in described} == {"model.onnx", "out.onnx", *TOLD[1:]}
    for one in described:
        assert one["digest"] == {"sha256": sha(repaired.folder / one["name"])}
    assert statement["subject"][0]["name"] == out.name
    assert predicate["recompute"] == [
        "repairkit", "apply", model.name, "out.patch.json", "-o", out.name
    ]  # fmt: skip


def test_verify_says_what_fits(repaired: Repaired) -> None:
    verified = repairkit.verify(*repaired.pair, noise=True)
    assert verified.beside == dict.fromkeys([*TOLD, "out.model-card.md"], "fits")
    assert verified.to_json()["beside"] == verified.beside
    verified = repairkit.verify(repaired.pair[0], repaired.overlay, noise=True)
    assert verified.beside == {"out.safetensors.intoto.json": "fits", "out.patch.json": "fits"}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_byte_beside_the_model_is_told(
    tmp_path_factory: pytest.TempPathFactory, repaired: Repaired, data: st.DataObject
) -> None:
    copy = repaired.copy(tmp_path_factory.mktemp("changed"))
    name = data.draw(st.sampled_from([*TOLD, "out.model-card.md"]))
    spoil(copy.folder / name, data)
    if name.endswith(".md"):
        assert copy.beside()[name] == "edited"
        return
    with pytest.raises(VerificationError, match=name) as told:
        copy.beside()
    assert "\n" not in str(told.value)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_changed_byte_of_a_model_or_an_overlay_is_told(
    tmp_path_factory: pytest.TempPathFactory, repaired: Repaired, data: st.DataObject
) -> None:
    copy = repaired.copy(tmp_path_factory.mktemp("changed"))
    overlay, statement = copy.overlay, copy.folder / "out.safetensors.intoto.json"
    spoilt = data.draw(st.sampled_from([*copy.pair, overlay, statement]))
    spoil(spoilt, data)
    after = copy.pair[1] if spoilt in copy.pair else overlay
    with pytest.raises(RepairkitError) as told:
        repairkit.verify(copy.pair[0], after, noise=True)
    assert "\n" not in str(told.value)


def spoil(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)


def test_a_forger_of_all_files_can_change_figures_and_no_model(
    repaired: Repaired, tmp_path: Path
) -> None:
    """What the guide says of seals: against this only a signature helps."""
    copy = repaired.copy(tmp_path)
    report, statement = copy.folder / "out.report.json", copy.folder / TOLD[0]
    report.write_text(report.read_text().replace("0.", "0.9", 1))
    making = read_statement(statement)
    forged = replace(making, beside={**making.beside, report.name: sha(report)})
    statement.write_text(statement_text(forged))
    assert copy.beside()[report.name] == "fits"
    model = onnx.load(copy.pair[1])
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, copy.pair[1])
    digest = sha(copy.pair[1])
    forged = replace(forged, made={"out.onnx": digest}, result_digest=digest)
    statement.write_text(statement_text(forged))
    with pytest.raises(VerificationError, match="is not the original with just the claimed"):
        repairkit.verify(*copy.pair, noise=True)


def test_what_is_not_there_is_missing_and_is_no_fault(repaired: Repaired, tmp_path: Path) -> None:
    copy = repaired.copy(tmp_path)
    for name in TOLD[1:]:
        (copy.folder / name).unlink()
    assert copy.beside() == {
        "out.intoto.json": "fits",
        **dict.fromkeys(TOLD[1:], "missing"),
        "out.model-card.md": "fits",
    }
    (copy.folder / "out.intoto.json").unlink()
    assert copy.beside() == {}


def test_without_a_statement_a_bill_is_held_to_its_two_models(
    repaired: Repaired, tmp_path: Path
) -> None:
    copy = repaired.copy(tmp_path)
    place = copy.folder / "out.cdx.json"
    (copy.folder / "out.intoto.json").unlink()
    assert copy.beside() == {"out.cdx.json": "fits"}
    text = place.read_text()
    for path in copy.pair:
        place.write_text(text.replace(sha(path), "0" * 64))
        with pytest.raises(VerificationError, match=rf"is about another file than {path.name}"):
            copy.beside()
    for damaged in (text[:-20], text.replace(f'"{sha(copy.pair[1])}"', "5")):
        place.write_text(damaged)
        with pytest.raises(VerificationError, match="was altered, or is no bill"):
            copy.beside()
    place.write_text("{}")  # of another program
    assert copy.beside() == {}


def test_files_may_be_renamed_and_the_patch_file_lie_elsewhere(
    repaired: Repaired, tmp_path: Path
) -> None:
    for before, after in (("model", "a"), ("out", "b")):
        shutil.copy(repaired.folder / f"{before}.onnx", tmp_path / f"{after}.onnx")
    shutil.copy(repaired.folder / "out.intoto.json", tmp_path / "b.intoto.json")
    pair, patch_file = (tmp_path / "a.onnx", tmp_path / "b.onnx"), repaired.folder / TOLD[1]
    verified = repairkit.verify(*pair, patch_file=patch_file, noise=True)
    assert verified.beside["b.intoto.json"] == verified.beside["out.patch.json"] == "fits"
    assert verified.beside["out.report.json"] == "missing"


def test_applying_makes_the_same_statement_but_for_what_only_patch_writes(
    repaired: Repaired, tmp_path: Path
) -> None:
    model, out = repaired.pair
    repairkit.apply(model, repaired.folder / TOLD[1], out=tmp_path / "out.onnx")
    made, first = (
        json.loads((folder / TOLD[0]).read_text()) for folder in (tmp_path, repaired.folder)
    )
    assert sha(tmp_path / "out.onnx") == sha(out)
    for statement in (made, first):
        del statement["predicate"]["byproducts"], statement["predicate"]["seal"]
    assert made == first


def test_applying_in_place_keeps_a_statement_that_names_more(
    repaired: Repaired, tmp_path: Path
) -> None:
    copy = repaired.copy(tmp_path)
    before = (copy.folder / TOLD[0]).read_bytes()
    repairkit.apply(copy.pair[0], copy.folder / TOLD[1], out=copy.pair[1])
    assert (copy.folder / TOLD[0]).read_bytes() == before
    (copy.folder / TOLD[0]).write_bytes(before.replace(b"model.onnx", b"other.onnx", 1))
    repairkit.apply(copy.pair[0], copy.folder / TOLD[1], out=copy.pair[1])
    assert json.loads((copy.folder / TOLD[0]).read_text())["predicate"]["byproducts"] == []


@pytest.mark.parametrize("command", ["apply", "overlay"])
def test_a_statement_that_repairkit_did_not_write_stays(
    repaired: Repaired, tmp_path: Path, command: str
) -> None:
    copy = repaired.copy(tmp_path)
    out = copy.pair[1] if command == "apply" else copy.overlay
    ending = ".intoto.json" if command == "apply" else ".safetensors.intoto.json"
    mine = out.with_name(f"out{ending}")
    mine.write_text('{"_type": "https://in-toto.io/Statement/v1", "subject": []}')
    before = {path.name: path.read_bytes() for path in copy.folder.iterdir()}
    with pytest.raises(RunFolderError, match=r"intoto\.json: exists"):
        getattr(repairkit, command)(copy.pair[0], copy.folder / TOLD[1], out=out)
    assert {path.name: path.read_bytes() for path in copy.folder.iterdir()} == before
    with pytest.raises(VerificationError, match="no statement of repairkit"):
        repairkit.verify(copy.pair[0], out, noise=True)


def test_of_two_patches_the_statement_is_about_the_last(repaired: Repaired, tmp_path: Path) -> None:
    copy = repaired.copy(tmp_path)
    first, second = copy.pair[1], copy.folder / "twice.onnx"
    repairkit.patch(first, copy.folder / "data.npz", remove=["conv:2"], out=second)
    for original in (copy.pair[0], first):
        verified = repairkit.verify(original, second, noise=True)
        assert verified.beside["twice.intoto.json"] == "fits"
    shutil.copy(copy.folder / "out.intoto.json", copy.folder / "twice.intoto.json")
    with pytest.raises(VerificationError, match="is about another file than"):
        repairkit.verify(first, second, noise=True)


def test_weights_in_files_beside_the_model_are_named(tmp_path: Path) -> None:
    model = models.own_bias()
    onnx.save(
        model, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0,
        location="weights.bin",
    )  # fmt: skip
    np.savez(tmp_path / "data.npz", x=models.images(8), y=np.zeros(8, int))
    repairkit.patch(
        tmp_path / "model.onnx", tmp_path / "data.npz", remove=["conv:1"], out=tmp_path / "out.onnx"
    )
    statement = json.loads((tmp_path / "out.intoto.json").read_text())
    files = {
        one["name"]: one["digest"]["sha256"] for one in statement["predicate"]["source"]["files"]
    }
    assert files == {name: sha(tmp_path / name) for name in ("model.onnx", "weights.bin")}
    pair = tmp_path / "model.onnx", tmp_path / "out.onnx"
    assert repairkit.verify(*pair, noise=True).beside["out.intoto.json"] == "fits"


def test_the_command_line_says_it(repaired: Repaired, tmp_path: Path, repairkit: Command) -> None:
    copy = repaired.copy(tmp_path)
    card = copy.folder / "out.model-card.md"
    card.write_text(card.read_text() + "\nMine.\n")
    (copy.folder / "out.report.html").unlink()
    answer = repairkit("verify", *copy.pair, "--noise")
    assert answer.code == 0, answer.err
    told = " ".join(answer.out.split())
    named = "out.intoto.json, out.patch.json, out.report.json, out.change.html, out.cdx.json"
    assert f"{named} as written" in told
    assert "out.model-card.md edited since" in told
    assert "out.report.html named by the statement and not there" in told
    (copy.folder / "out.report.json").write_text("{}")
    answer = repairkit("verify", *copy.pair, "--noise", "--json")
    assert (answer.code, answer.err.count("\n")) == (3, 1)
    assert "out.report.json: is not the file that out.intoto.json names" in answer.err
