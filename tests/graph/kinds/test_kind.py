"""A new kind of site is a module and an entry in the list of kinds: tried with a kind made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.core.filters import Change, Constant, Filter, FrozenFilter, Patch, Site, TensorChange
from repairkit.core.suite import Array
from repairkit.graph.baking import bake, infer_patch, is_idle, representable, revert
from repairkit.graph.coalitions.masking import mask_channels, mask_name
from repairkit.graph.kinds import sites
from repairkit.graph.kinds.kind import Kind, SiteLayer, SiteSearch
from repairkit.graph.stored.model_files import same_model
from tests.running import run

OPERATOR = "InstanceNormalization"


@dataclass(frozen=True)
class NormLayer:
    """An instance normalisation: a filter is frozen by a scale of zero and its bias."""

    site: Site
    position: int
    scale: Array
    bias: Array

    @property
    def tensors(self) -> set[str]:
        return {"scale", "bias"}

    def bias_levels(self) -> Array:
        return self.bias

    def nearest(self, levels: Array) -> Array:
        return levels.astype(np.float32)

    def norms(self) -> Array:
        return np.abs(self.scale).astype(np.float64)

    def why_not_partly(self) -> str:
        return "they are normalised"

    def freeze(self, frozen: Sequence[FrozenFilter]) -> list[Change]:
        channels = np.array([f.filter.channel for f in frozen])
        levels = np.array([f.constant for f in frozen], np.float64)
        return [
            TensorChange(
                node=self.position,
                slot=slot,
                positions=channels,
                values=values,
                clone=f"clone{slot}",
            )
            for slot, values in ((1, np.zeros(len(frozen))), (2, levels))
        ]

    def holds(self, channel: int, constant: Constant, /) -> bool | None:
        return bool(self.scale[channel] == 0 and self.bias[channel] == constant)

    def frozen_since(self, before: SiteLayer) -> list[FrozenFilter]:
        gone = [c for c in range(self.site.n_channels) if not self.scale[c]]
        constants = [(c, float(self.bias[c])) for c in gone]
        return [
            FrozenFilter(Filter(self.site.name, c), level)
            for c, level in constants
            if not before.holds(c, level)
        ]

    def arithmetic(self) -> None:
        return None

    def folded(self) -> None:
        return None


def find(search: SiteSearch, position: int) -> NormLayer | str:
    node = search.index.nodes[position]
    scale, bias = (search.constants.numbers(node, slot) for slot in (1, 2))
    if scale is None or bias is None:
        return "its scale is computed at run time"
    site = Site(
        name=search.names[position],
        kind=node.op_type,
        tensor=node.output[0],
        node=node.name,
        channel_axis=1,
        n_channels=len(scale),
        rank=4,
    )
    return NormLayer(site, position, scale, bias)


NORMS = Kind(operators=frozenset({OPERATOR}), find=find, mask=mask_channels)


@pytest.fixture
def with_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the entry in the list of kinds does."""
    monkeypatch.setattr(sites, "KINDS", (*sites.KINDS, NORMS))
    monkeypatch.setitem(sites._KIND_OF, OPERATOR, NORMS)


def normalised() -> ModelProto:
    """A normalisation of three channels, and their means."""
    stored = {"scale": [1.0, 0.5, 2.0], "bias": [0.1, -0.2, 0.3]}
    graph = helper.make_graph(
        [
            helper.make_node(OPERATOR, ["image", "scale", "bias"], ["made"], "norm"),
            helper.make_node("Exp", ["made"], ["raised"]),
            helper.make_node("GlobalAveragePool", ["raised"], ["output"]),
        ],
        "normalised",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3, 1, 1])],
        [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.usefixtures("with_norms")
def test_a_new_kind_is_found_masked_frozen_and_undone() -> None:
    model = normalised()
    surveyed = sites.survey(model)
    site = surveyed.sites[0]
    assert (site.name, site.kind, site.n_channels) == ("norm", OPERATOR, 3)
    levels = representable(surveyed, {"norm": np.array([0.25, 0.5, -1.0])})
    frozen = [FrozenFilter(Filter("norm", c), float(levels["norm"][c])) for c in (0, 2)]
    images = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)
    mask = np.array([False, True, False]).reshape(1, 3, 1, 1)
    instrumented = sites.instrument(model, surveyed.sites, levels)
    masked = run(instrumented, {"image": images, mask_name(site): mask})[0]
    baked = bake(surveyed, Patch(tuple(frozen)))
    np.testing.assert_array_equal(run(baked.model, {"image": images})[0], masked)
    after = sites.survey(baked.model)
    assert infer_patch(surveyed, after) == Patch(tuple(frozen))
    assert not is_idle(surveyed, frozen[0])
    assert is_idle(after, frozen[0])
    assert same_model(revert(baked.model, baked.edits), model)


def test_without_its_entry_a_kind_is_not_found() -> None:
    assert sites.survey(normalised()).sites == ()


def test_each_operator_belongs_to_one_kind() -> None:
    named = [operator for kind in sites.KINDS for operator in kind.operators]
    assert len(named) == len(set(named))
