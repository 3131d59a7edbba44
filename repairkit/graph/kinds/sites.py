"""Find the sites of a model: the tensors whose channels are filters that can be frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

from onnx import ModelProto, NodeProto, shape_inference

from repairkit.core.errors import ModelError, SettingsError
from repairkit.core.filters import Site
from repairkit.graph.dims import with_open_sizes
from repairkit.graph.index import GraphIndex, all_nodes, layer_names, subgraphs
from repairkit.graph.kinds.codes import DENSE_ON_CODES, slots_of
from repairkit.graph.kinds.heads import head_layers, is_product
from repairkit.graph.kinds.layers import CONVOLUTIONS, DENSE, Layer, read_layer, with_activation
from repairkit.graph.kinds.trees import (
    ENSEMBLES,
    Ensemble,
    is_ensemble,
    survey_ensemble,
    tree_site,
)
from repairkit.graph.stored.storage import Constants

_UNSUPPORTED = {
    "DeformConv": "a deformable convolution cannot be frozen yet",
    "FusedConv": "a convolution fused by a runtime; use the model it was made from",
    "NhwcConv": "a convolution fused by a runtime; use the model it was made from",
    **dict.fromkeys(DENSE_ON_CODES, "a dense layer on integer codes cannot be frozen"),
}


@dataclass(frozen=True)
class LeftOut:
    """A layer that is no site, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What was found in a model: its sites, and the layers that are none."""

    index: GraphIndex
    sites: tuple[Site, ...]
    left_out: tuple[LeftOut, ...]
    layers: dict[str, Layer]
    ensembles: dict[str, Ensemble] = field(default_factory=dict)

    @cached_property
    def constants(self) -> Constants:
        return Constants(self.index)


def find_sites(model: ModelProto) -> tuple[Site, ...]:
    """The default sites of a model, in graph order."""
    return survey(model).sites


def survey(
    model: ModelProto,
    *,
    output: str | None = None,
    at: str = "pre-activation",
    include: Sequence[str] = (),
) -> Survey:
    """Find sites, and say of every other layer why it is none.

    Args:
        model: never modified.
        output: the output that is judged; layers that do not lead to it are left out. None takes
            them all.
        at: `pre-activation`, or `activation` to read filters behind the activation that follows.
        include: `dense` adds `Gemm` and `MatMul` layers.

    Raises:
        SettingsError: an unknown output, level or kind.
    """
    index = GraphIndex(model)
    _check_settings(index, output, at, include)
    constants = Constants(index)
    outputs = index.outputs if output is None else (output,)
    needed, heads = index.leading_to(outputs), head_layers(index, outputs)
    names = layer_names(index)
    ranks = _ranks(model) if "dense" in include else {}
    sites, left_out, layers = [], _hidden_layers(index), {}
    ensembles: dict[str, Ensemble] = {}
    for position, node in enumerate(index.nodes):
        if is_ensemble(node):
            trees = survey_ensemble(position, index, needed)
            if isinstance(trees, str):
                left_out.append(LeftOut(names[position], node.op_type, trees))
            else:
                sites.append(tree_site(names[position], trees, node))
                ensembles[names[position]] = trees
            continue
        reason = _why_not(node, index, needed, include)
        if reason is None:
            continue
        if position in heads:
            reason = "it makes the model's output"
        try:
            layer: Layer | str = reason or read_layer(position, index, constants, ranks)
        except ModelError as error:
            layer = str(error)
        if isinstance(layer, Layer):
            layer = _contradiction(layer, index, constants) or layer
        if isinstance(layer, str):
            left_out.append(LeftOut(names[position], node.op_type, layer))
            continue
        if at == "activation":
            layer = with_activation(layer, index)
        site = Site(
            name=names[position],
            kind=layer.kind,
            tensor=layer.tensor(index),
            node=node.name,
            channel_axis=layer.channel_axis,
            n_channels=layer.n_channels,
            rank=layer.rank,
            dtype=layer.dtype,
            scale=None if layer.codes is None else layer.codes.scale,
            zero=0 if layer.codes is None else layer.codes.zero,
        )
        sites.append(site)
        layers[site.name] = layer
    return Survey(index, tuple(sites), tuple(left_out), layers, ensembles)


def _contradiction(layer: Layer, index: GraphIndex, constants: Constants) -> str | None:
    """What a layer says that cannot be, which its file's shapes may."""
    if not -layer.rank <= layer.channel_axis < layer.rank:
        return f"its output has {layer.rank} dimensions, too few for channels"
    node = index.nodes[layer.node]
    slot = slots_of(node).bias
    if node.op_type not in CONVOLUTIONS or slot is None or len(node.input) <= slot:
        return None
    if node.input[slot] not in index.constant:
        return None
    n_values = constants.array(node.input[slot]).size
    if n_values == layer.n_channels:
        return None
    return f"its bias has {n_values} values for {layer.n_channels} filters"


def _ranks(model: ModelProto) -> dict[str, int]:
    """The rank of every tensor that shape inference can tell."""
    try:
        inferred = shape_inference.infer_shapes(with_open_sizes(model), data_prop=True)
    except (ValueError, RuntimeError, shape_inference.InferenceError):
        return {}  # a model over 2 GB, or one that contradicts itself
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in values
        if v.type.tensor_type.HasField("shape")
    }


def _check_settings(index: GraphIndex, output: str | None, at: str, include: Sequence[str]) -> None:
    if output is not None and output not in index.outputs:
        raise SettingsError(
            f"the model has no output {output!r}; its outputs are {', '.join(index.outputs)}"
        )
    if at not in ("pre-activation", "activation"):
        raise SettingsError(f"sites cannot be at {at!r}; choose pre-activation or activation")
    for kind in include:
        if kind != "dense":
            raise SettingsError(f"cannot include {kind!r}; the only further kind is dense")


def _why_not(
    node: NodeProto, index: GraphIndex, needed: set[str], include: Sequence[str]
) -> str | None:
    """A reason to leave a layer out, "" where it may be a site, None where it is no layer."""
    if node.op_type in _UNSUPPORTED:
        return _UNSUPPORTED[node.op_type]
    if node.op_type not in CONVOLUTIONS + DENSE:
        return _foreign(node, index)
    if node.domain not in ("", "ai.onnx"):
        return f"{node.domain}.{node.op_type} is not an operator of the ONNX standard"
    if not any(o in index.fed for o in node.output):
        return "it does not depend on the image"
    if not any(o in needed for o in node.output):
        return "it does not lead to the output that is judged"
    if node.op_type in DENSE and "dense" not in include:
        if all(name in index.fed for name in node.input[:2]):
            return "a product of two activations has no filters"
        return "dense units are sites only with --include dense"
    return ""


def _foreign(node: NodeProto, index: GraphIndex) -> str | None:
    """Why a layer of another kind is no site; None where the node is no layer with weights."""
    calls = {(f.domain, f.name) for f in index.model.functions}
    if (node.domain, node.op_type) in calls or not is_product(node):
        return None
    reads = any(name in index.constant for name in node.input)
    if not reads or not any(o in index.fed for o in node.output):
        return None
    return f"units of {node.op_type} layers cannot be frozen"


def _hidden_layers(index: GraphIndex) -> list[LeftOut]:
    """Layers inside `If`, `Loop`, `Scan` and model functions: these stay as they are."""
    kinds = {*CONVOLUTIONS, *DENSE, *_UNSUPPORTED, *ENSEMBLES}
    found = [
        LeftOut(inner.name or inner.output[0], inner.op_type, f"it lies inside a {node.op_type}")
        for node in index.nodes
        for body in subgraphs(node)
        for inner in all_nodes(body)
        if inner.op_type in kinds
    ]
    found += [
        LeftOut(n.name or n.output[0], n.op_type, f"it lies inside the function {function.name}")
        for function in index.model.functions
        for n in function.node
        if n.op_type in kinds
    ]
    return found


def select_sites(found: Survey, patterns: Sequence[str]) -> tuple[Site, ...]:
    """The sites whose names match any of the patterns (`*`, `?`, `[...]`), in graph order.

    Raises:
        ModelError: the model has no site at all.
        SettingsError: a pattern matches none.
    """
    if not found.sites:
        nothing = "it has no convolution and no tree"
        reasons = "; ".join(sorted({x.reason for x in found.left_out})) or nothing
        raise ModelError(f"the model has no filter that could be frozen: {reasons}")
    for pattern in patterns:
        if not any(_matches(site, pattern) for site in found.sites):
            reason = [x.reason for x in found.left_out if x.name == pattern]
            raise SettingsError(
                f"no site matches {pattern!r}"
                + (f" ({reason[0]})" if reason else "")
                + f"; the sites are {', '.join(s.name for s in found.sites[:6])}"
                + (" and others" if len(found.sites) > 6 else "")
                + " (`repairkit inspect MODEL` lists them all)"
            )
    if not patterns:
        return found.sites
    return tuple(s for s in found.sites if any(_matches(s, p) for p in patterns))


def _matches(site: Site, pattern: str) -> bool:
    return site.name == pattern or fnmatchcase(site.name, pattern)
