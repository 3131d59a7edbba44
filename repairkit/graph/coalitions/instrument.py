"""Insert mask-and-mean nodes: the definition of an absent filter that all else is proven against.

Behind every site stands `Where(mask, x, means)`. The mask is a run-time input, so one session
answers any coalition; `Where` rather than arithmetic, so that an absent filter's infinities and
NaNs vanish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper, version_converter
from onnx_graphsurgeon.logger.logger import G_LOGGER, Logger

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Site
from repairkit.graph.coalitions.tree_masks import mask_trees
from repairkit.graph.stored.sparse import with_dense_tensors

_WHERE_SINCE = 9
_EXPAND_SINCE = 8
_DEFAULTS_SINCE = 4  # IR version in which a listed initializer is a default, and no constant
# Its notes would go to standard output, where only results belong.
G_LOGGER.severity = Logger.CRITICAL


def mask_name(site: Site) -> str:
    """The name of a site's mask input."""
    return f"{site.name}/mask"


def mask_shape(site: Site, rows: int) -> tuple[int, ...]:
    """The shape of a site's mask for that many rows: channels on the channel axis, else 1."""
    shape = [1] * site.rank
    shape[0] = rows
    shape[site.channel_axis] = site.n_channels
    return tuple(shape)


def stored_levels(site: Site, levels: NDArray[np.float32]) -> Array:
    """Levels as the site's tensor holds them: rounded to its type, or integer codes."""
    if site.scale is None:
        return levels.astype(site.dtype)
    limits = np.iinfo(site.dtype)
    codes = np.rint(levels.astype(np.float64) / site.scale) + site.zero
    stored: Array = np.clip(codes, limits.min, limits.max).astype(site.dtype)
    return stored


def instrument(model: ModelProto, sites: tuple[Site, ...], means: FilterMeans) -> ModelProto:
    """A model with one boolean input `SITE/mask` per site; false puts the filter at its mean.

    Trees are masked inside their ensemble (see `tree_masks`), channels behind their layer.

    Args:
        model: never modified. Below opset 9, which has no `Where`, the result is converted to it.
        sites: of this model, from `find_sites`.
        means: of the `level_shape` of every site.

    Raises:
        ModelError: the model's opset cannot be converted, or the result would not be valid.
    """
    trees = {mask_name(site): site for site in sites if site.n_values is not None}
    if trees:
        model = mask_trees(with_where(model, at_least=_EXPAND_SINCE), trees, means)
        sites = tuple(site for site in sites if site.n_values is None)
        if not sites:
            return model
    copy = ModelProto()  # graphsurgeon writes into what it imports
    copy.CopyFrom(with_where(with_dense_tensors(model)))  # and loses sparse tensors
    graph = gs.import_onnx(copy)
    positions = {o.name: i for i, node in enumerate(graph.nodes) for o in node.outputs}
    tensors = graph.tensors()
    inserted: list[tuple[int, gs.Node]] = []
    for site in sites:
        original = tensors[site.tensor]
        producer = original.inputs[0]
        raw = gs.Variable(
            _fresh(f"{site.name}/unmasked", tensors),
            dtype=np.dtype(site.dtype),
            shape=original.shape,
        )
        producer.outputs[[o is original for o in producer.outputs].index(True)] = raw
        mask_dims: list[int | str] = list(mask_shape(site, 1))
        mask_dims[0] = "mask_rows"
        mask = gs.Variable(mask_name(site), dtype=np.bool_, shape=mask_dims)
        level = stored_levels(site, means[site.name]).reshape(mask_shape(site, 1))
        frozen = gs.Constant(_fresh(f"{site.name}/means", tensors), level)
        node = gs.Node(
            "Where",
            name=f"{site.name}/mask_and_mean",
            inputs=[mask, raw, frozen],
            outputs=[original],
        )
        graph.inputs.append(mask)
        inserted.append((positions[site.tensor] + 1, node))
    for position, node in sorted(inserted, key=lambda pair: pair[0], reverse=True):
        graph.nodes.insert(position, node)
    try:
        result: ModelProto = gs.export_onnx(graph, do_type_check=False)
    except (TypeError, ValueError) as error:  # of attributes that say nothing of their type
        raise ModelError(f"the graph cannot be written back ({error}); export it anew") from error
    result.ir_version = max(model.ir_version, 4)
    _restore_types(result, model)
    if model.ir_version >= _DEFAULTS_SINCE:
        _restore_inputs(result, model)
    return result


def tapped(model: ModelProto, tensors: Iterable[str]) -> ModelProto:
    """A copy that gives some of its tensors as further outputs."""
    result = ModelProto()
    result.CopyFrom(model)
    known = {o.name for o in result.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in known:
            result.graph.output.append(helper.make_empty_tensor_value_info(name))
    return result


def with_gains(
    instrumented: ModelProto, sites: tuple[Site, ...], gains: Mapping[str, NDArray[np.float64]]
) -> ModelProto:
    """A copy in which an absent filter yields `mean + gain * (own output - mean)`.

    Args:
        instrumented: see `instrument`.
        sites: those that were instrumented.
        gains: (n_channels,) of some sites, by name; of channels, not of trees.
    """
    result = ModelProto()
    result.CopyFrom(instrumented)
    by_mask = {mask_name(site): site for site in sites if site.name in gains}
    for position in reversed(range(len(result.graph.node))):
        where = result.graph.node[position]
        site = by_mask.get(where.input[0]) if where.op_type == "Where" else None
        if site is None:
            continue
        raw, means = where.input[1:]
        off, scaled, left, gain = (f"{site.name}/{w}" for w in ("off", "scaled", "left", "gain"))
        numbers = gains[site.name].astype(site.dtype).reshape(mask_shape(site, 1))
        result.graph.initializer.append(numpy_helper.from_array(numbers, gain))
        where.input[2] = left
        result.graph.node.insert(position, helper.make_node("Add", [means, scaled], [left], left))
        result.graph.node.insert(position, helper.make_node("Mul", [off, gain], [scaled], scaled))
        result.graph.node.insert(position, helper.make_node("Sub", [raw, means], [off], off))
    return result


def _restore_inputs(result: ModelProto, model: ModelProto) -> None:
    """List initializers as inputs again where the model does.

    From IR version 4 on the runtime does not take these for constants: a matrix product then has
    other kernels, which round differently.
    """
    stored = {tensor.name for tensor in result.graph.initializer}
    listed = {value.name for value in result.graph.input}
    fed = list(result.graph.input)
    kept = [v for v in model.graph.input if v.name in stored and v.name not in listed]
    if kept:
        del result.graph.input[:]
        result.graph.input.extend([*fed, *kept])


def _restore_types(result: ModelProto, model: ModelProto) -> None:
    """Give inputs and outputs that are no tensors (sequences, maps) their types back."""
    known = {v.name: v.type for v in (*model.graph.input, *model.graph.output)}
    for value in (*result.graph.input, *result.graph.output):
        if value.name in known and not known[value.name].HasField("tensor_type"):
            value.type.CopyFrom(known[value.name])


def _fresh(name: str, taken: Mapping[str, gs.Tensor]) -> str:
    number = 1
    wanted = name
    while wanted in taken:
        number += 1
        wanted = f"{name}_{number}"
    return wanted


def with_where(model: ModelProto, *, at_least: int = _WHERE_SINCE) -> ModelProto:
    """The model itself, or a copy raised to the first opset that knows `Where`.

    One that is of `at_least` another opset, or names none, stays as it is.
    """
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    version = max(versions, default=at_least)
    if version >= at_least:
        return model
    try:
        raised: ModelProto = version_converter.convert_version(model, _WHERE_SINCE)
    except (
        RuntimeError,
        version_converter.ConvertError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise ModelError(
            f"the model has opset {version} and cannot be raised to {_WHERE_SINCE}, which masks "
            f"need ({str(error).splitlines()[0]}); export it again with a newer opset"
        ) from error
    return raised
