"""Patches that change the last layer or freeze filters partly: patch file, proof and way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

from repairkit import apply, revert, verify
from repairkit.core.errors import RunFolderError, VerificationError
from repairkit.core.filters import FrozenFilter, HeadChange, Patch, Roster
from repairkit.formats.documents import write_text
from repairkit.formats.patch_file import PatchFile, claim_digest, patch_file_text, read_patch_file
from repairkit.graph.baking import bake, biased, held, refitted, representable
from repairkit.graph.kinds.class_head import find_head
from repairkit.graph.kinds.sites import survey
from repairkit.graph.metadata import read_claims, write_claims
from repairkit.graph.protos import GraphIndex
from repairkit.graph.stored.model_files import read_model, write_model
from repairkit.jobs.proof.verifying import layout_of, sign_claim
from tests import class_heads, models
from tests.running import random_levels, run

SCHEMA = json.loads((files("repairkit.formats") / "patch.schema.json").read_text())
FROZEN = ("frozen", "edits", "head", "schema")


def _head_change(model: onnx.ModelProto, kind: str, seed: int = 0) -> HeadChange:
    index = GraphIndex(model)
    head = find_head(index, model.graph.output[0].name)
    rng = np.random.default_rng(seed)
    shift = rng.normal(size=head.n_classes)
    if kind == "bias":
        return biased(index, head, shift)
    return refitted(index, head, rng.normal(size=head.weight.shape), shift)


def _frozen(model: onnx.ModelProto, channels: dict[int, float]) -> tuple[FrozenFilter, ...]:
    """Filters by their numbers and how much of each is left."""
    found = survey(model)
    levels = representable(found, random_levels(found.sites))
    filters = Roster(found.sites).filters
    return tuple(
        FrozenFilter(filters[c], float(levels[filters[c].site][filters[c].channel]), gain)
        for c, gain in channels.items()
    )


def write_patched(source: Path, patch: Patch, out: Path) -> PatchFile:
    """Bake a patch and write it with its patch file, as the command does."""
    read = read_model(source)
    baked = bake(survey(read.model), patch)
    output = read.model.graph.output[0].name
    draft = PatchFile(
        patch=patch,
        edits=baked.edits,
        source_digest=read.digest,
        result_digest="",
        sites_at="pre-activation",
        include=(),
        output=output,
        layout=layout_of(read),
    )
    write_claims(baked.model, [*read_claims(read.model), sign_claim(draft.claim())])
    file = replace(draft, result_digest=write_model(baked.model, out))
    write_text(out.with_suffix(".patch.json"), patch_file_text(file))
    return file


def _patches(model: onnx.ModelProto) -> dict[str, Patch]:
    bias, weights = _head_change(model, "bias"), _head_change(model, "last-layer")
    return {
        "biases": Patch((), bias),
        "last layer": Patch((), weights),
        "filters and last layer": Patch(_frozen(model, {1: 0.0, 3: 0.0}), weights),
        "partly": Patch(_frozen(model, {0: 0.5, 2: 0.0, 4: 0.25})),
        "partly and biases": Patch(_frozen(model, {1: 0.3}), bias),
    }


KINDS = list(_patches(class_heads.softmax()))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(class_heads.softmax(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_is_proven_applied_and_undone_to_the_byte(kind: str, source: Path) -> None:
    patch = _patches(class_heads.softmax())[kind]
    out = source.with_name("patched.onnx")
    file = write_patched(source, patch, out)
    beside = out.with_suffix(".patch.json")
    assert read_patch_file(beside).patch == patch
    for patch_file in (None, beside):
        found = verify(source, out, patch_file=patch_file)
        assert found.patch == patch
        assert found.proof.holds
        assert found.proof.changed
        assert found.proof.relative < 1e-5
    again = source.with_name("again.onnx")
    applied = apply(source, beside, out=again)
    assert applied.digest == file.result_digest
    assert again.read_bytes() == out.read_bytes()
    back = source.with_name("back.onnx")
    revert(out, beside, out=back)
    assert back.read_bytes() == source.read_bytes()
    document = json.loads(beside.read_text())
    known = {k: v for k, v in document.items() if k in FROZEN}
    for name, part in known.items():
        jsonschema.validate(part, SCHEMA["properties"][name] | {"$defs": SCHEMA["$defs"]})
    assert document["schema"] == 2


def test_a_filter_of_which_nothing_is_left_is_frozen_bit_for_bit(source: Path) -> None:
    model = onnx.load(source)
    wholly = _frozen(model, {1: 0.0, 2: 0.0})
    named = tuple(FrozenFilter(f.filter, f.constant, 0.0) for f in wholly)
    ours, theirs = bake(survey(model), Patch(wholly)), bake(survey(model), Patch(named))
    assert ours.model.SerializeToString() == theirs.model.SerializeToString()
    beside_another = bake(survey(model), Patch(_frozen(model, {1: 0.0, 2: 0.0, 3: 0.5})))
    alone, both = (_filters(m.model) for m in (ours, beside_another))
    assert np.array_equal(alone[:, [1, 2]], both[:, [1, 2]])


def _filters(model: onnx.ModelProto) -> np.ndarray:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_empty_tensor_value_info("conv_out"))
    return run(copy, {"image": models.images(4)})[1]


@pytest.mark.parametrize("name", [n for n in models.LAYERS if n not in ("quantised", "half")])
def test_a_partly_frozen_filter_yields_the_constant_and_a_share_of_what_it_was(name: str) -> None:
    model = models.LAYERS[name]()
    found = survey(model)
    site = found.sites[0]
    if site.dtype != "float32":
        pytest.skip("half precision rounds too far for this comparison")
    levels = representable(found, random_levels(found.sites))
    gains = np.linspace(0.0, 0.75, site.n_channels)
    filters = Roster((site,)).filters
    frozen = tuple(
        FrozenFilter(f, float(levels[site.name][f.channel]), float(g))
        for f, g in zip(filters, gains, strict=True)
    )
    baked = bake(survey(model), Patch(frozen)).model
    onnx.checker.check_model(baked)
    before, after = (_at(m, site.tensor) for m in (model, baked))
    shape = [1] * before.ndim
    shape[site.channel_axis] = site.n_channels
    mean, gain = levels[site.name].reshape(shape), gains.reshape(shape)
    assert np.allclose(after, mean + gain * (before - mean), rtol=1e-5, atol=1e-5)


def _at(model: onnx.ModelProto, tensor: str) -> np.ndarray:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    n = 1 if model.graph.input[0].type.tensor_type.shape.dim[0].dim_value else 4
    return run(copy, {"image": models.images(n)})[-1].astype(np.float64)


def test_filters_on_codes_cannot_be_frozen_partly() -> None:
    model = models.quantised()
    with pytest.raises(Exception, match="cannot be frozen partly: their numbers are integer codes"):
        bake(survey(model), Patch(_frozen(model, {0: 0.5})))


def test_patches_of_filters_alone_are_written_as_before(source: Path) -> None:
    patch = Patch(_frozen(class_heads.softmax(), {1: 0.0}))
    out = source.with_name("patched.onnx")
    file = write_patched(source, patch, out)
    document = json.loads(out.with_suffix(".patch.json").read_text())
    assert document["schema"] == 1
    assert set(document["frozen"][0]) == {"filter", "site", "channel", "constant"}
    assert "head" not in document
    assert set(file.claim()) == {"source", "sites_at", "include", "output", "frozen"}


def test_repairs_stack_and_a_claim_whose_weights_are_gone_says_so(source: Path) -> None:
    one, two, three = (source.with_name(f"{i}.onnx") for i in (1, 2, 3))
    write_patched(source, Patch((), _head_change(onnx.load(source), "last-layer")), one)
    write_patched(one, Patch(_frozen(onnx.load(one), {2: 0.0})), two)
    found = verify(source, two)
    assert found.patch.head is not None
    assert len(found.patch) == 1
    write_patched(two, Patch((), _head_change(onnx.load(two), "last-layer", seed=5)), three)
    assert verify(two, three).patch.head is not None
    with pytest.raises(VerificationError, match="refitted again later"):
        verify(source, three)


def test_what_was_changed_is_seen_without_any_claim(source: Path) -> None:
    model = onnx.load(source)
    for kind in ("bias", "last-layer"):
        patch = Patch(_frozen(model, {1: 0.0}), _head_change(model, kind))
        onnx.save(bake(survey(model), patch).model, source.with_name("patched.onnx"))
        found = verify(source, source.with_name("patched.onnx"))
        assert found.inferred
        assert found.patch == patch


def _other_bias(document: dict[str, Any]) -> None:
    document["head"]["bias"][0] += 0.5


def _other_weight(document: dict[str, Any]) -> None:
    numbers = document["head"]["weight"]["numbers"]
    document["head"]["weight"]["numbers"] = numbers[::-1].strip("=") + "=" * numbers.count("=")


def _other_shape(document: dict[str, Any]) -> None:
    document["head"]["weight"]["shape"].reverse()


def _no_weight(document: dict[str, Any]) -> None:
    document["head"]["weight"] = None


def _old_schema(document: dict[str, Any]) -> None:
    document["schema"] = 1


@pytest.mark.parametrize(
    "alter", [_other_bias, _other_weight, _other_shape, _no_weight, _old_schema]
)
def test_an_altered_change_of_the_last_layer_is_refused(
    alter: Callable[[dict[str, Any]], None], source: Path
) -> None:
    out = source.with_name("patched.onnx")
    write_patched(source, _patches(class_heads.softmax())["last layer"], out)
    beside = out.with_suffix(".patch.json")
    document = json.loads(beside.read_text())
    alter(document)
    document.pop("seal")
    document["seal"] = claim_digest(document)
    beside.write_text(json.dumps(document))
    with pytest.raises((VerificationError, RunFolderError)):
        read_patch_file(beside)


def test_a_model_whose_last_layer_is_not_the_claimed_one_is_refused(source: Path) -> None:
    out = source.with_name("patched.onnx")
    write_patched(source, _patches(class_heads.softmax())["last layer"], out)
    model = onnx.load(out)
    weights = next(t for t in model.graph.initializer if t.name == "w")
    array = onnx.numpy_helper.to_array(weights).copy()
    array[0, 0] += 1e-3
    weights.CopyFrom(onnx.numpy_helper.from_array(array, "w"))
    onnx.save(model, out)
    with pytest.raises(VerificationError, match="are not those that a claim"):
        verify(source, out)


def test_numbers_that_the_last_layer_has_already_are_no_patch(source: Path) -> None:
    model = onnx.load(source)
    index = GraphIndex(model)
    head = find_head(index, "scores")
    same = held(index, head, HeadChange("bias", head.name, head.bias))
    out = source.with_name("patched.onnx")
    write_patched(source, Patch((), same), out)
    with pytest.raises(VerificationError, match="that it has already"):
        verify(source, out)


def _both_outputs() -> onnx.ModelProto:
    """Probabilities and, as a second output, the scores that they are made of."""
    model = class_heads.softmax()
    logits = onnx.helper.make_tensor_value_info("logits", 1, ["batch", 3])
    model.graph.output.append(logits)
    return model


@pytest.mark.parametrize("kind", ["bias", "last-layer"])
@pytest.mark.parametrize(
    "model",
    [
        _both_outputs,
        models.half_precision,
        models.old_opset,
        models.fixed_batch,
        models.stuck_batch,
        models.unnamed_nodes,
    ],
)
def test_the_last_layer_of_an_odd_model_is_proven_and_undone(
    model: Callable[[], onnx.ModelProto], kind: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "patched.onnx"
    onnx.save(model(), source)
    write_patched(source, Patch((), _head_change(onnx.load(source), kind)), out)
    proof = verify(source, out).proof
    assert proof.changed
    assert proof.relative < (1e-2 if model is models.half_precision else 1e-5)
    revert(out, out.with_suffix(".patch.json"), out=tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == source.read_bytes()
