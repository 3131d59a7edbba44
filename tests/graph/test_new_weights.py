"""What new weights alone can do: told before a patch and after it, and held against the files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.core.filters import Filter, FrozenFilter, HeadChange, Patch
from repairkit.graph.baking import bake, head_changes, representable
from repairkit.graph.kinds.class_head import find_head
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import survey
from repairkit.graph.new_weights import (
    facts_of,
    needs_of_changes,
    needs_of_sites,
    runtime_facts,
)
from repairkit.graph.protos import GraphIndex
from tests import ensembles, models
from tests.running import input_name, only_numbers_differ, random_levels, run

Weights = dict[str, np.ndarray]
BIASES = ("none", "own", "empty", "add", "normalised")
KERNELS = ("plain", "shared", "constant", "computed", "moved")


def refitted(before: ModelProto, after: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model before, with the numbers that some initializers have after."""
    made, fresh = ModelProto(), {t.name: t for t in after.graph.initializer}
    made.CopyFrom(before)
    for tensor in made.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(fresh[tensor.name])
    return made


def layer(number: int, source: str, bias: str, kernel: str, held: Weights) -> list[onnx.NodeProto]:
    """The nodes of a convolution of two channels, from `source` to `out{number}`."""
    rng = np.random.default_rng(number)
    weight, name = f"w{number}", f"conv{number}"
    nodes = []
    if kernel == "shared":
        weight = "common"
        held[weight] = np.random.default_rng(9).standard_normal((2, 2, 3, 3)).astype(np.float32)
    elif kernel == "constant":
        numbers = numpy_helper.from_array(rng.standard_normal((2, 2, 3, 3)).astype(np.float32))
        nodes.append(helper.make_node("Constant", [], [weight], value=numbers))
    elif kernel == "computed":
        held[f"{weight}_a"] = rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
        held[f"{weight}_b"] = np.array(2.0, np.float32)
        nodes.append(helper.make_node("Mul", [f"{weight}_a", f"{weight}_b"], [weight]))
    elif kernel == "moved":
        held[f"{weight}_a"] = rng.standard_normal((3, 3, 2, 2)).astype(np.float32)
        moved = helper.make_node("Transpose", [f"{weight}_a"], [weight], perm=[3, 2, 0, 1])
        nodes.append(moved)
    else:
        held[weight] = rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
    inputs, out = [source, weight], f"out{number}"
    if bias == "own":
        held[f"b{number}"] = rng.standard_normal(2).astype(np.float32)
        inputs.append(f"b{number}")
    elif bias == "empty":
        inputs.append("")
    follows = bias in ("add", "normalised")
    made = f"{out}_raw" if follows else out
    nodes.append(helper.make_node("Conv", inputs, [made], name, pads=[1, 1, 1, 1]))
    if bias == "add":
        held[f"b{number}"] = rng.standard_normal((2, 1, 1)).astype(np.float32)
        nodes.append(helper.make_node("Add", [made, f"b{number}"], [out]))
    elif bias == "normalised":
        statistics = [f"{part}{number}" for part in ("gamma", "beta", "mean", "variance")]
        held |= {each: rng.uniform(0.5, 1.5, 2).astype(np.float32) for each in statistics}
        nodes.append(helper.make_node("BatchNormalization", [made, *statistics], [out]))
    return nodes


def network(kinds: Sequence[tuple[str, str]]) -> ModelProto:
    """Convolutions one behind the other, each of a kind of bias and a kind of kernel."""
    held: Weights = {}
    nodes, source = [], "image"
    for number, (bias, kernel) in enumerate(kinds):
        nodes += layer(number, source, bias, kernel, held)
        source = f"relu{number}"
        nodes.append(helper.make_node("Relu", [f"out{number}"], [source]))
    return models.model_of(nodes + models.head(source, held, 2), held)


NETWORKS = st.lists(
    st.tuples(st.sampled_from(BIASES), st.sampled_from(KERNELS)), min_size=1, max_size=4
).map(network)


def frozen(found: Survey, sites: Sequence[str], seed: int = 0) -> Patch:
    """A patch of the first filter of some sites."""
    levels = representable(found, random_levels(found.sites, seed))
    return Patch(tuple(FrozenFilter(Filter(s, 0), float(levels[s][0])) for s in sites))


def agrees(model: ModelProto, patch: Patch, found: Survey) -> bool:
    """Whether what is told before and after a patch is what the two files show; whether a refit."""
    baked = bake(found, patch)
    facts = runtime_facts(found.index, baked.model, baked.edits)
    refit = only_numbers_differ(model, baked.model)
    assert refit == (not facts.needs) == facts.to_json()["refit"]
    assert refit == (not needs_of_sites(found).keys() & {f.filter.site for f in patch.frozen})
    # From the edits alone, as an older patch file has them, the verdict is the same.
    assert [n.kind for n in facts_of(baked.edits, lambda _: None).needs] == [
        n.kind for n in facts.needs
    ]
    stored = {t.name: t for t in baked.model.graph.initializer}
    old = {t.name: t for t in model.graph.initializer}
    for tensor in facts.tensors:
        if tensor.kind not in ("initializer", "added"):
            continue
        array = numpy_helper.to_array(stored[tensor.name])
        assert (tensor.shape, tensor.type) == (array.shape, array.dtype.name)
        assert tensor.bytes == array.nbytes
        if tensor.kind == "initializer":
            differing = int((array != numpy_helper.to_array(old[tensor.name])).sum())
            assert differing <= (tensor.changed or 0) <= array.size
    changed = {name for name in old if old[name] != stored[name]}
    assert changed <= {t.name for t in facts.tensors}
    assert facts.bytes == sum(t.bytes or 0 for t in facts.tensors)
    return refit


@settings(deadline=None, max_examples=40)
@given(model=NETWORKS, data=st.data())
def test_new_weights_are_enough_where_only_numbers_differ(
    model: ModelProto, data: st.DataObject
) -> None:
    found = survey(model)
    names = [site.name for site in found.sites]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    agrees(model, frozen(found, chosen, data.draw(st.integers(0, 9))), found)


@settings(deadline=None, max_examples=20)
@given(model=NETWORKS, data=st.data())
def test_sites_that_are_kept_give_a_model_that_the_old_one_becomes_by_new_numbers(
    model: ModelProto, data: st.DataObject
) -> None:
    found = survey(model)
    kept = [site.name for site in found.sites if site.name not in needs_of_sites(found)]
    assume(kept)
    patch = frozen(found, kept, data.draw(st.integers(0, 9)))
    assert agrees(model, patch, found)
    baked = bake(found, patch)
    facts = runtime_facts(found.index, baked.model, baked.edits)
    made = refitted(model, baked.model, [t.name for t in facts.tensors])
    feeds = {input_name(model): models.images(2, data.draw(st.integers(0, 9)))}
    for optimise in (False, True):
        answers = (run(each, feeds, optimise=optimise)[0] for each in (made, baked.model))
        assert next(answers).tobytes() == next(answers).tobytes()


@pytest.mark.parametrize("name", sorted(models.LAYERS))
def test_every_way_to_write_a_layer_is_told_rightly(name: str) -> None:
    model = models.LAYERS[name]()
    found = survey(model)
    agrees(model, frozen(found, [site.name for site in found.sites]), found)


@pytest.mark.parametrize(
    ("bias", "kernel", "kind", "words"),
    [
        ("none", "plain", "bias", "has no bias"),
        ("own", "shared", "copy", "'common' is read elsewhere, too"),
        ("own", "computed", "copy", "'w0' is computed by Mul"),
        ("own", "constant", "constant", "a Constant node"),
    ],
)
def test_the_reason_is_named(bias: str, kernel: str, kind: str, words: str) -> None:
    model = network([(bias, kernel), ("own", kernel)])
    found = survey(model)
    need = needs_of_sites(found)["conv0"]
    assert need.kind == kind
    assert words in need.reason
    baked = bake(found, frozen(found, ["conv0"]))
    assert runtime_facts(found.index, baked.model, baked.edits).needs[0] == need


def test_further_reasons_are_named() -> None:
    def need(model: ModelProto) -> str:
        return needs_of_sites(survey(model))["conv0"].reason

    plain = network([("own", "plain")])
    answers = ModelProto()
    answers.CopyFrom(plain)
    answers.graph.output.append(helper.make_tensor_value_info("w0", 1, [2, 2, 3, 3]))
    assert "'w0' is an output of the model" in need(answers)
    sparse = ModelProto()
    sparse.CopyFrom(plain)
    position = next(n for n, t in enumerate(sparse.graph.initializer) if t.name == "b0")
    bias = numpy_helper.to_array(sparse.graph.initializer[position])
    del sparse.graph.initializer[position]
    held = helper.make_sparse_tensor(
        numpy_helper.from_array(bias, "b0"), numpy_helper.from_array(np.arange(2)), [2]
    )
    sparse.graph.sparse_initializer.append(held)
    assert "'b0' is sparse" in need(sparse)
    outside = ModelProto()
    outside.CopyFrom(plain)
    tensor = next(t for t in outside.graph.initializer if t.name == "w0")
    facts = {"location": "w.bin", "repairkit.folder": "/", "repairkit.sha256": "0" * 64}
    found = survey(outside)
    frozen_alone = found.layers["conv0"].freeze(frozen(found, ["conv0"]).frozen)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in facts.items():
        tensor.external_data.add(key=key, value=value)
    (told,) = needs_of_changes(found.index, [c for c in frozen_alone if c.node == 0][:1])
    assert "'w0' lies in a file of its own" in told.reason


def test_trees_stand_in_a_node() -> None:
    model = ensembles.forest(0).model
    found = survey(model)
    (site,) = found.sites
    assert needs_of_sites(found)[site.name].kind == "attribute"


def test_keys_of_caches_are_told() -> None:
    model = models.own_bias()
    model.metadata_props.add(key="COREML_CACHE_KEY", value="abc")
    found = survey(model)
    baked = bake(found, frozen(found, ["conv"]))
    assert runtime_facts(found.index, baked.model, baked.edits).cache_keys == ("COREML_CACHE_KEY",)


@pytest.mark.parametrize("name", ["own_bias", "half_precision", "normalised"])
def test_the_last_layer_is_told_rightly(name: str) -> None:
    model = models.LAYERS[name]()
    found = survey(model)
    head = find_head(found.index, model.graph.output[0].name)
    bias = None if head.place is None else head.biases + 1
    change = HeadChange("last-layer", head.name, bias, head.weight + 1)
    told = needs_of_changes(GraphIndex(model), head_changes(found.constants, head, change))
    baked = bake(found, Patch((), change))
    assert bool(told) != only_numbers_differ(model, baked.model)
    assert [n.kind for n in told] == [
        n.kind for n in runtime_facts(found.index, baked.model, baked.edits).needs
    ]
