"""All kinds of site: find the sites of a model, and mask them.

A site is a tensor whose channels are filters that can be frozen.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from onnx import ModelProto, NodeProto, shape_inference

from repairkit.core import errors, filters
from repairkit.graph.kinds.attention import attentions
from repairkit.graph.kinds.channels import CHANNELS, layer_at
from repairkit.graph.kinds.heads import head_layers, is_product
from repairkit.graph.kinds.kind import (
    DENSE_UNITS,
    FURTHER,
    HEADS,
    LeftOut,
    SiteLayer,
    SiteSearch,
    Survey,
)
from repairkit.graph.kinds.layers import DENSE_ON_CODES
from repairkit.graph.kinds.trees import TREES
from repairkit.graph.protos import (
    GraphIndex,
    dims_of,
    inner_nodes,
    layer_names,
    with_open_sizes,
)
from repairkit.graph.sizes import Sizes, sizes_of
from repairkit.graph.stored.constants import Constants

KINDS = (TREES, attentions(layer_at, CHANNELS.mask), CHANNELS)
"""All kinds, in the order in which they are asked, and their masks are put into a model."""

_KIND_OF = {
    name: kind for kind in KINDS for name in ([kind.named] if kind.named else kind.operators)
}
_OPERATORS = frozenset[str]().union(*(kind.operators for kind in KINDS))
_SOME_IMAGES = 2
_UNSUPPORTED = {
    "DeformConv": "a deformable convolution cannot be frozen yet",
    "FusedConv": "a convolution fused by a runtime; use the model it was made from",
    "NhwcConv": "a convolution fused by a runtime; use the model it was made from",
    "Attention": "its heads cannot be frozen; export with an opset below 23",
    **dict.fromkeys(DENSE_ON_CODES, "a dense layer on integer codes cannot be frozen"),
}


# Masking


def instrument(
    model: ModelProto, sites: Sequence[filters.Site], means: filters.FilterMeans
) -> ModelProto:
    """A model with one boolean input `SITE/mask` per site; false puts the filter at its mean.

    Args:
        model: never modified; an old opset may be raised in the result.
        sites: of this model, from `find_sites`.
        means: of the `level_shape` of every site.

    Raises:
        ModelError: the model's opset cannot be converted, or the result would not be valid.
    """
    for kind in KINDS:
        masked = tuple(site for site in sites if _KIND_OF[site.kind] is kind)
        if masked:
            model = kind.mask(model, masked, means)
    return model


# Levels


def zero_levels(sites: Sequence[filters.Site]) -> filters.FilterMeans:
    """Levels of zero."""
    return {site.name: np.zeros(site.level_shape, np.float32) for site in sites}


def bias_levels(survey: Survey, sites: Sequence[filters.Site]) -> filters.FilterMeans:
    """What filters yield for a response of zero: BatchNorm's beta, else the bias."""
    return {site.name: survey.layers[site.name].bias_levels() for site in sites}


# Finding


def find_sites(model: ModelProto) -> tuple[filters.Site, ...]:
    """The default sites of a model, in graph order."""
    return survey(model).sites


def survey(
    model: ModelProto,
    *,
    output: str | None = None,
    at: str = "pre-activation",
    include: Sequence[str] = (),
) -> Survey:
    """Find the sites, and the reason why each other layer is none.

    Args:
        model: never modified.
        output: the output that is judged; layers that do not lead to it are left out. None judges
            all outputs.
        at: `pre-activation`, or `activation` to read filters behind the activation that follows.
        include: some of `FURTHER`.

    Raises:
        SettingsError: an unknown output, level or kind.
    """
    index = GraphIndex(model)
    _check_settings(index, output, at, include)
    outputs = index.outputs if output is None else (output,)
    search = SiteSearch(
        constants=Constants(index),
        names=layer_names(index),
        judged=index.leading_to(outputs),
        last_layers=head_layers(index, outputs),
        sizes=_sizes(model, include),
        include=frozenset(include),
        behind_activation=at == "activation",
    )
    layers: dict[str, SiteLayer] = {}
    left_out = _hidden_layers(index)
    for position, node in enumerate(index.nodes):
        layer = _layer_at(search, position)
        if isinstance(layer, str):
            left_out.append(LeftOut(search.names[position], node.op_type, layer))
        elif layer is not None:
            layers[layer.site.name] = layer
    return Survey(search.constants, layers, tuple(left_out))


def _layer_at(search: SiteSearch, position: int) -> SiteLayer | str | None:
    """The layer at a node, a reason why it is no site, or None where the node is no layer."""
    node = search.index.nodes[position]
    for kind in KINDS:
        if node.op_type not in kind.operators:
            continue
        try:
            layer = kind.find(search, position)
        except errors.ModelError as error:
            return str(error)
        if layer is not None:
            return layer
    reason = _UNSUPPORTED.get(node.op_type) or _foreign(node, search.index)
    if reason is not None and position in search.last_layers:
        return "it makes the model's output"
    return reason


def _sizes(model: ModelProto, include: Sequence[str]) -> Sizes:
    """Sizes of tensors, as far as the kinds that are wanted need them."""
    if HEADS in include:
        return sizes_of(model, _SOME_IMAGES)
    if not include:
        return {}
    try:
        inferred = shape_inference.infer_shapes(with_open_sizes(model), data_prop=True)
    except (ValueError, RuntimeError, shape_inference.InferenceError):
        return {}  # a model over 2 GB, or one that contradicts itself
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {v.name: dims for v in values if (dims := dims_of(v)) is not None}


def _check_settings(index: GraphIndex, output: str | None, at: str, include: Sequence[str]) -> None:
    if output is not None and output not in index.outputs:
        raise errors.SettingsError(
            f"the model has no output {output!r}; its outputs are {', '.join(index.outputs)}"
        )
    if at not in ("pre-activation", "activation"):
        raise errors.SettingsError(
            f"sites cannot be at {at!r}; choose pre-activation or activation"
        )
    for kind in include:
        if kind not in FURTHER:
            raise errors.SettingsError(
                f"cannot include {kind!r}; further kinds are {', '.join(FURTHER)}"
            )
    if DENSE_UNITS in include and len(set(include)) > 1:
        raise errors.SettingsError(
            "dense units are those of MLPs and the values of heads, too; include dense alone, or "
            "heads and mlp"
        )


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
    inner = [
        (n, f"it lies inside a {node.op_type}") for node in index.nodes for n in inner_nodes(node)
    ]
    inner += [
        (n, f"it lies inside the function {function.name}")
        for function in index.model.functions
        for n in function.node
    ]
    return [
        LeftOut(n.name or n.output[0], n.op_type, reason)
        for n, reason in inner
        if n.op_type in _OPERATORS or n.op_type in _UNSUPPORTED
    ]


def select_sites(survey: Survey, patterns: Sequence[str]) -> tuple[filters.Site, ...]:
    """The sites whose names match any of the patterns (`*`, `?`, `[...]`), in graph order.

    Raises:
        ModelError: the model has no site at all.
        SettingsError: a pattern matches none.
    """
    if not survey.sites:
        nothing = "it has no convolution and no tree"
        reasons = "; ".join(sorted({x.reason for x in survey.left_out})) or nothing
        raise errors.ModelError(f"the model has no filter that could be frozen: {reasons}")
    for pattern in patterns:
        if not any(_matches(site, pattern) for site in survey.sites):
            reason = [x.reason for x in survey.left_out if x.name == pattern]
            raise errors.SettingsError(
                f"no site matches {pattern!r}"
                + (f" ({reason[0]})" if reason else "")
                + f"; the sites are {', '.join(s.name for s in survey.sites[:6])}"
                + (" and others" if len(survey.sites) > 6 else "")
                + " (`repairkit inspect MODEL` lists them all)"
            )
    if not patterns:
        return survey.sites
    return tuple(s for s in survey.sites if any(_matches(s, p) for p in patterns))


def _matches(site: filters.Site, pattern: str) -> bool:
    return site.name == pattern or fnmatchcase(site.name, pattern)
