"""`inspect PATCH`: what a patch file, or a patched model, says of compiled models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import repairkit as package
from repairkit.core.errors import RunFolderError, VerificationError
from repairkit.formats.patch_file import claim_digest
from tests import ensembles, models
from tests.conftest import Answer

Command = Callable[..., Answer]
SCHEMA = json.loads((files("repairkit.formats") / "patch.schema.json").read_text())


def patched(folder: Path, model: onnx.ModelProto, *filters: str) -> Path:
    """The patch file of a model with some filters frozen at zero."""
    onnx.save(model, folder / "model.onnx")
    words: dict[str, Any] = {"remove": filters, "out": folder / "out.onnx", "absent": "zero"}
    return package.patch(folder / "model.onnx", **words).patch_file


def inspected(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    document: dict[str, Any] = json.loads(answer.out)
    return document


def resealed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a patch file, and give it the seal of its new content."""
    document = json.loads(path.read_text())
    change(document)
    del document["seal"]
    path.write_text(json.dumps({**document, "seal": claim_digest(document)}))


@pytest.mark.parametrize("layer", ["own_bias", "normalised", "no_bias", "constant_nodes"])
def test_a_patch_file_tells_names_sizes_and_digests(
    repairkit: Command, tmp_path: Path, layer: str
) -> None:
    path = patched(tmp_path, models.LAYERS[layer](), "conv:0", "conv:2")
    document = inspected(repairkit("inspect", path, "--json"))
    content = json.loads(path.read_text())
    jsonschema.validate(content, SCHEMA)
    assert document["runtime"] == content["runtime"]
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert report["runtime"] == content["runtime"]
    before, after = (tmp_path / f"{name}.onnx" for name in ("model", "out"))
    digests = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (before, after)]
    assert document["caches"] == {"stale": digests[:1], "current": digests[1]}
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(after).graph.initializer}
    for row in document["runtime"]["tensors"]:
        if row["kind"] != "constant":
            array = held[row["name"]]
            assert (row["shape"], row["bytes"]) == (list(array.shape), array.nbytes)
    told = repairkit("inspect", path)
    enough = layer in ("own_bias", "normalised")
    assert ("New weights are enough" in told.out) == enough == document["runtime"]["refit"]
    assert digests[0][:12] in told.out
    page = (tmp_path / "out.report.html").read_text()
    assert ("New weights are enough" in page) == enough
    assert package.inspect_patch(path).to_json() == document


def test_it_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    facts = package.inspect_patch(patched(tmp_path, models.no_bias(), "conv:0"))
    assert "1 filter frozen; it adds a tensor" in repr(facts)
    frame = facts.to_pandas()
    assert list(frame["name"]) == ["w", "conv/bias"]
    assert "compiled anew" in facts._repr_html_()


def test_a_file_of_an_earlier_version_is_read_with_the_model_beside_it(tmp_path: Path) -> None:
    path = patched(tmp_path, models.normalised(), "conv:1")
    whole = package.inspect_patch(path).to_json()
    resealed(path, lambda document: document.pop("runtime"))
    assert package.inspect_patch(path).to_json() == whole
    (tmp_path / "out.onnx").unlink()
    alone = package.inspect_patch(path).to_json()["runtime"]
    assert alone["refit"] == whole["runtime"]["refit"]
    names = [row["name"] for row in whole["runtime"]["tensors"]]
    assert [row["name"] for row in alone["tensors"]] == names
    assert {row["shape"] for row in alone["tensors"]} == {None} == {alone["bytes"]}


@pytest.mark.parametrize(
    "change",
    [
        {"refit": False},
        {"bytes": 1},
        {"tensors": []},
        {"cache_keys": ["COREML_CACHE_KEY"]},
        {"needs": [{"kind": "bias", "tensor": "b", "reason": "x"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_hold_is_told_by_verify_and_does_not_change_the_verdict(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = patched(tmp_path, models.own_bias(), "conv:1")
    before, after = tmp_path / "model.onnx", tmp_path / "out.onnx"
    proven = package.verify(before, after, patch_file=path)
    assert "runtime" not in proven.unproven
    resealed(path, lambda document: document["runtime"].update(change))
    with pytest.raises(VerificationError, match="under 'runtime' does not hold"):
        package.verify(before, after, patch_file=path)
    assert not package.inspect_patch(path).runtime.needs
    resealed(path, lambda document: document.update(runtime=[None]))
    with pytest.raises(VerificationError, match="under 'runtime' does not hold"):
        package.verify(before, after, patch_file=path)
    assert package.inspect_patch(path).runtime.bytes is not None  # of the model beside it


def test_a_patched_model_tells_of_its_patches_and_sites(repairkit: Command, tmp_path: Path) -> None:
    patched(tmp_path, models.shared_kernel(), "conv:0")
    plain = inspected(repairkit("inspect", tmp_path / "model.onnx", "--json"))
    assert plain["patches"] == plain["caches"]["stale"] == []
    assert "runtime" not in plain
    assert [site["needs"]["kind"] for site in plain["sites"]] == ["copy", "copy"]
    document = inspected(repairkit("inspect", tmp_path / "out.onnx", "--json"))
    assert [row["n_frozen"] for row in document["patches"]] == [1]
    assert document["caches"]["stale"] == [plain["model"]["digest"]]
    assert document["runtime"]["needs"][0]["kind"] == "copy"
    assert "compiled anew" in repairkit("inspect", tmp_path / "out.onnx").out
    (tmp_path / "out.patch.json").unlink()
    alone = inspected(repairkit("inspect", tmp_path / "out.onnx", "--json"))
    assert alone["patches"] == document["patches"]
    assert "runtime" not in alone
    assert "cannot be frozen by new weights" in repairkit("inspect", tmp_path / "model.onnx").out


@pytest.mark.parametrize("claims", ["{", "[1]", '[{"frozen": 3, "head": 4, "source": 5}]'])
def test_claims_that_anyone_wrote_are_no_error(
    repairkit: Command, tmp_path: Path, claims: str
) -> None:
    model = models.own_bias()
    model.metadata_props.add(key="repairkit.patches", value=claims)
    onnx.save(model, tmp_path / "model.onnx")
    document = inspected(repairkit("inspect", tmp_path / "model.onnx", "--json"))
    assert document["caches"]["stale"] == []
    assert bool(document["patches"]) != ("metadata is broken" in document["note"])
    assert repairkit("inspect", tmp_path / "model.onnx").code == 0


def test_a_key_of_a_cache_is_told(repairkit: Command, tmp_path: Path) -> None:
    model = models.own_bias()
    model.metadata_props.add(key="COREML_CACHE_KEY", value="abc")
    path = patched(tmp_path, model, "conv:1")
    assert package.inspect_patch(path).runtime.cache_keys == ("COREML_CACHE_KEY",)
    assert "keeps the metadata entry COREML_CACHE_KEY" in repairkit("inspect", path).out


def answers(session: onnxruntime.InferenceSession) -> bytes:
    made: np.ndarray = session.run(None, {"image": models.images(2)})[0]
    return made.tobytes()


def test_what_onnx_runtime_saved_before_answers_as_before(tmp_path: Path) -> None:
    patched(tmp_path, models.own_bias(), "conv:1")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "saved.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=providers)
    saved, after = (
        onnxruntime.InferenceSession(tmp_path / name, providers=providers)
        for name in ("saved.ort", "out.onnx")
    )
    assert answers(saved) == answers(session) != answers(after)


def test_openvinos_cache_tells_files_apart_by_size_and_time(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = patched(tmp_path, models.own_bias(), "conv:1")
    after, place = tmp_path / "out.onnx", tmp_path / "deployed.onnx"
    padded = models.own_bias()
    entry = padded.metadata_props.add(key="note", value="")
    while padded.ByteSize() < after.stat().st_size:
        entry.value += "x"
    assert padded.ByteSize() == after.stat().st_size

    def ask(model: Path | bytes, cache: Path | None) -> bytes:
        words = {"INFERENCE_PRECISION_HINT": "f32"}
        words |= {} if cache is None else {"CACHE_DIR": str(cache)}
        compiled = openvino.Core().compile_model(model, "CPU", words)
        made: np.ndarray = next(iter(compiled(models.images(2)).values()))
        return made.tobytes()

    onnx.save(padded, place)
    os.utime(place, (1, 1))
    before = ask(place, tmp_path / "cache")
    shutil.copy(after, place)
    os.utime(place, (1, 1))
    assert ask(place, tmp_path / "cache") == before != ask(place, None)  # stale
    os.utime(place, (2, 2))
    assert ask(place, tmp_path / "cache") == ask(place, None)
    digests = package.inspect_patch(path).to_json()["caches"]
    assert digests["current"] == hashlib.sha256(place.read_bytes()).hexdigest()


def test_trees_need_more(repairkit: Command, tmp_path: Path) -> None:
    onnx.save(ensembles.forest(0).model, tmp_path / "model.onnx")
    (site,) = package.inspect(tmp_path / "model.onnx").to_json()["sites"]  # type: ignore[misc]
    path = patched(tmp_path, ensembles.forest(0).model, f"{site['site']}:1")  # type: ignore[index]
    (row,) = inspected(repairkit("inspect", path, "--json"))["runtime"]["tensors"]
    assert row["kind"] == "attribute"
    assert row["type"] == "float32"
    assert row["bytes"] == 4 * row["shape"][0]


def test_what_is_no_patch_file_is_refused_in_one_line(repairkit: Command, tmp_path: Path) -> None:
    path = patched(tmp_path, models.own_bias(), "conv:1")
    answer = repairkit("inspect", path, "--suspect")
    assert answer.code == 1
    assert "--suspect is about models" in answer.err
    with pytest.raises(RunFolderError, match="no such file"):
        package.inspect_patch(tmp_path / "none.patch.json")
    with pytest.raises(RunFolderError, match="is not a patch file"):
        package.inspect_patch(tmp_path / "out.report.json")
