"""`docs/formats.md` suffices to read patch files: these readers use nothing of repairkit."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

import repairkit
from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.graph.baking import representable
from repairkit.graph.kinds.sites import survey
from tests import class_heads, models
from tests.conftest import write_project
from tests.jobs.repair.test_head_patches import KINDS, write_patched
from tests.jobs.repair.test_head_patches import _patches as head_patches
from tests.running import random_levels

KEY = "repairkit.patches"


# The readers


def canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def claim_of(patch: dict[str, Any]) -> dict[str, Any]:
    sites = patch["sites"]
    claim = {
        "source": patch["source"]["digest"],
        "sites_at": sites["at"],
        "include": sites["include"],
        "output": sites["output"],
        "frozen": [[f["filter"], f["constant"]] for f in patch["frozen"]],
    }
    gains = {f["filter"]: f["gain"] for f in patch["frozen"] if "gain" in f}
    if gains:
        claim["gains"] = gains
    if "head" in patch:
        claim["head"] = head = dict(patch["head"])
        if head["weight"] is not None:
            shape = tuple(head["weight"]["shape"])
            numbers = base64.b64decode(head["weight"]["numbers"])
            head["weight"] = sha256(f"{shape}".encode() + numbers)
    return claim


def check(patch: dict[str, Any]) -> None:
    assert patch["kind"] == "repairkit patch"
    assert patch["schema"] in (1, 2)
    body = {name: value for name, value in patch.items() if name != "seal"}
    assert patch["seal"] == sha256(canonical(body))
    assert patch["digest"] == sha256(canonical(claim_of(patch)))


def put(holder: Any, runs: list[list[int]], old: bytes) -> None:
    """Put old numbers into a tensor, or into an attribute that is a list of floats."""
    if isinstance(holder, onnx.AttributeProto):
        numbers = np.array(holder.floats, "<f4")
    else:
        numbers = numpy_helper.to_array(holder).copy()
    positions = [p for start, stop in runs for p in range(start, stop)]
    numbers.reshape(-1)[positions] = np.frombuffer(old, numbers.dtype)
    if isinstance(holder, onnx.AttributeProto):
        holder.floats[:] = numbers.tolist()
    elif holder.HasField("raw_data"):
        holder.raw_data = numbers.tobytes()
    else:
        name = helper.tensor_dtype_to_field(holder.data_type)
        fresh = helper.make_tensor("", holder.data_type, holder.dims, numbers.reshape(-1))
        del getattr(holder, name)[:]
        getattr(holder, name).extend(getattr(fresh, name))


def undo(model: ModelProto, patch: dict[str, Any]) -> dict[str, bytes]:
    """The files of the source, by name."""
    graph = model.graph
    for edit in reversed(patch["edits"]):
        name, old = edit["tensor"], base64.b64decode(edit["old"])
        if edit["kind"] == "initializer":
            put(next(t for t in graph.initializer if t.name == name), edit["runs"], old)
        elif edit["kind"] == "constant":
            node = next(n for n in graph.node if name in n.output)
            put(node.attribute[0].t, edit["runs"], old)
        elif edit["kind"] == "attribute":
            node = next(n for n in graph.node if edit["node"] in n.output)
            held = next(a for a in node.attribute if a.name == name)
            is_list = held.type == onnx.AttributeProto.FLOATS
            put(held if is_list else held.t, edit["runs"], old)
        else:
            node = next(n for n in graph.node if n.output[0] == edit["node"])
            if edit["replaces"] is None:
                del node.input[edit["slot"]]
            else:
                node.input[edit["slot"]] = edit["replaces"]
            for values in (graph.initializer, graph.input):
                for held in [v for v in values if v.name == name]:
                    values.remove(held)
    entry = next(p for p in model.metadata_props if p.key == KEY)
    claims = json.loads(entry.value)[:-1]
    entry.value = canonical(claims).decode()
    if not claims:
        model.metadata_props.remove(entry)
    whole = model.SerializeToString(deterministic=True)
    if "layout" not in patch["source"]:
        return {"": whole}
    return {
        file["name"]: b"".join(
            base64.b64decode(piece)
            if isinstance(piece, str)
            else whole[piece[0] : piece[0] + piece[1]]
            for piece in file["pieces"]
        )
        for file in patch["source"]["layout"]
    }


def apply(model: ModelProto, patch: dict[str, Any]) -> bytes:
    """The patched model's bytes; for layers of floats whose tensors nothing else reads."""
    graph = model.graph
    stored = {t.name: t for t in graph.initializer}

    def readers(tensor: str) -> list[Any]:
        return [node for node in graph.node if tensor in node.input]

    def write(name: str, where: Any, number: float) -> None:
        numbers = numpy_helper.to_array(stored[name]).copy()
        numbers[where] = number
        stored[name].CopyFrom(numpy_helper.from_array(numbers, name))

    for site in dict.fromkeys(f["site"] for f in patch["frozen"]):
        constants = {f["channel"]: f["constant"] for f in patch["frozen"] if f["site"] == site}
        node = next(n for n in graph.node if site in (n.name, n.output[0]))
        add = norm = None
        tensor = node.output[0]
        while len(readers(tensor)) == 1:
            after = readers(tensor)[0]
            if after.op_type == "Add" and add is None and any(i in stored for i in after.input):
                add = after
            elif after.op_type == "BatchNormalization":
                norm = after
            else:
                break
            tensor = after.output[0]
        own = node.input[2] if len(node.input) > 2 and node.input[2] else None
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for channel, constant in constants.items():
            kernel = numpy_helper.to_array(stored[node.input[1]])
            where: Any = (..., channel)
            if node.op_type == "Conv" or settings.get("transB"):
                where = channel
            elif node.op_type == "ConvTranspose":
                of_group, rows = kernel.shape[1], kernel.shape[0] // settings.get("group", 1)
                group, within = divmod(channel, of_group)
                where = (slice(group * rows, (group + 1) * rows), within)
            write(node.input[1], where, 0.0)
            if norm is not None:
                write(norm.input[1], channel, 0.0)
                write(norm.input[2], channel, constant)
                continue
            if add is not None:
                name = next(name for name in add.input if name in stored)
                shape = numpy_helper.to_array(stored[name]).shape
                write(name, np.unravel_index(channel, shape), constant)
            if own is not None:
                write(own, channel, 0.0 if add is not None else constant)
        if norm is None and add is None and own is None:
            kernel = numpy_helper.to_array(stored[node.input[1]])
            groups = settings.get("group", 1)
            n = kernel.shape[1] * groups if node.op_type == "ConvTranspose" else len(kernel)
            bias = np.zeros(n, kernel.dtype)
            bias[list(constants)] = list(constants.values())
            graph.initializer.append(numpy_helper.from_array(bias, f"{site}/bias"))
            node.input[2:] = [f"{site}/bias"]
    claim = claim_of(patch)
    claims = [{**claim, "digest": sha256(canonical(claim))}]
    entry = model.metadata_props.add(key=KEY)
    entry.value = canonical(claims).decode()
    return model.SerializeToString(deterministic=True)


# What they give


# Whose new numbers the page tells; of the others it tells how they are undone.
APPLICABLE = {
    "own_bias",
    "no_bias",
    "empty_bias",
    "bias_add",
    "both_biases",
    "normalised",
    "depthwise",
    "transposed",
    "transposed_grouped",
    "half_precision",
    "unnamed_nodes",
    "fixed_batch",
}


def made(source: Path, patch: Patch) -> tuple[Path, dict[str, Any]]:
    """A patched model and its patch file, which is checked."""
    out = source.with_name("patched.onnx")
    write_patched(source, patch, out)
    return out, checked(source, out)


def checked(source: Path, out: Path) -> dict[str, Any]:
    patch = json.loads(out.with_suffix(".patch.json").read_text(encoding="utf-8"))
    check(patch)
    assert patch["source"]["digest"] == sha256(source.read_bytes())
    assert patch["result"]["digest"] == sha256(out.read_bytes())
    return cast("dict[str, Any]", patch)


def frozen(model: ModelProto, *channels: int) -> Patch:
    """Filters of the first site at levels that its layer can hold."""
    surveyed = survey(model)
    site = surveyed.sites[0].name
    levels = representable(surveyed, random_levels(surveyed.sites))[site]
    return Patch(tuple(FrozenFilter(Filter(site, c), float(levels[c])) for c in channels))


@pytest.mark.parametrize("layer", sorted(models.LAYERS))
def test_readers_of_the_page_make_the_bytes_of_both_models(layer: str, tmp_path: Path) -> None:
    model, source = models.LAYERS[layer](), tmp_path / "model.onnx"
    source.write_bytes(model.SerializeToString(deterministic=True))
    out, patch = made(source, frozen(model, 1, 0))
    assert undo(onnx.load(out), patch)[""] == source.read_bytes()
    if layer in APPLICABLE:
        assert apply(onnx.load(source), patch) == out.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_changes_of_the_last_layer_are_undone_by_the_page(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(class_heads.softmax(), source)
    out, patch = made(source, head_patches(class_heads.softmax())[kind])
    assert patch["schema"] == 2
    assert undo(onnx.load(out), patch)[""] == source.read_bytes()


def test_the_packaged_sample_goes_there_and_back_by_the_page(tmp_path: Path) -> None:
    model = repairkit.api.copy_sample(tmp_path)
    out, ids = tmp_path / "patched.onnx", ["conv2:5", "conv1:3", "conv2:0"]
    repairkit.patch(model, tmp_path / "digits.npz", out=out, remove=ids)
    patch = checked(model, out)
    assert apply(onnx.load(model), patch) == out.read_bytes()
    assert undo(onnx.load(out), patch)[""] == model.read_bytes()


def test_files_of_the_source_come_back_as_they_were_laid_out(tmp_path: Path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "patched.onnx"
    model = models.own_bias()
    onnx.save(model, source, save_as_external_data=True, size_threshold=0, location="w.bin")
    content, weights = source.read_bytes(), (tmp_path / "w.bin").read_bytes()
    write_patched(source, frozen(models.own_bias(), 1), out)
    patch = json.loads(out.with_suffix(".patch.json").read_text(encoding="utf-8"))
    assert patch["source"]["digest"] == sha256(content + hashlib.sha256(weights).digest())
    assert undo(onnx.load(out), patch) == {"": content, "w.bin": weights}


def test_the_digest_of_means_is_computed_as_the_page_says(tmp_path: Path) -> None:
    project = write_project(tmp_path, n=60)
    place = tmp_path / "means.json"
    repairkit.means(project.model, project.data, out=place)
    document = json.loads(place.read_text(encoding="utf-8"))
    text = f"{document['model']['digest']} {document['sites_at']}"
    for name, site in sorted(document["sites"].items()):
        text += json.dumps([name, [total / site["count"] for total in site["sums"]]])
    assert document["digest"] == sha256(text.encode())
