"""Masks define what an absent filter is; every other way to remove filters is checked against them.

Behind the tensor of every site stands `Where(mask, x, means)`. The mask is a run-time input, so
that one session answers any coalition. `Where`, and not arithmetic, so that the infinities and NaNs
of an absent filter vanish. Trees are masked inside their ensemble instead (see `kinds.trees`).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from onnx_graphsurgeon.logger.logger import G_LOGGER, Logger

from repairkit.core import errors, filters
from repairkit.graph import protos

_WHERE_SINCE = 9
# graphsurgeon's notes would go to standard output, where only results belong.
G_LOGGER.severity = Logger.CRITICAL


def mask_name(site: filters.Site) -> str:
    """The name of a site's mask input."""
    return f"{site.name}/mask"


def mask_shape(site: filters.Site, rows: int) -> tuple[int, ...]:
    """The shape of a site's mask for that many rows: channels on the channel axis, else 1."""
    shape = [1] * site.rank
    shape[0] = rows
    shape[site.channel_axis] = site.n_channels
    return tuple(shape)


def _levels_shape(site: filters.Site) -> list[int]:
    """The shape in which the levels of a site meet its tensor."""
    shape = list(mask_shape(site, 1))
    if site.value_axis is not None and site.n_values is not None:
        shape[site.value_axis] = site.n_values
    return shape


def mask_channels(
    model: ModelProto, sites: Sequence[filters.Site], means: filters.FilterMeans
) -> ModelProto:
    """A copy with a mask behind the tensor of each of some sites; see `instrument`.

    Below opset 9, which has no `Where`, the result is converted to it. The model must not have
    sparse tensors.
    """
    # A copy: graphsurgeon writes into what it imports. It also loses sparse tensors.
    graph = gs.import_onnx(protos.copied(with_where(model)))
    positions = {o.name: i for i, node in enumerate(graph.nodes) for o in node.outputs}
    tensors = graph.tensors()
    inserted: list[tuple[int, gs.Node]] = []
    for site in sites:
        original = tensors[site.tensor]
        producer = original.inputs[0]
        raw = gs.Variable(
            protos.fresh_name(f"{site.name}/unmasked", tensors),
            dtype=np.dtype(site.dtype),
            shape=original.shape,
        )
        producer.outputs[[o is original for o in producer.outputs].index(True)] = raw
        mask_dims: list[int | str] = list(mask_shape(site, 1))
        mask_dims[0] = "mask_rows"
        mask = gs.Variable(mask_name(site), dtype=np.bool_, shape=mask_dims)
        level = site.stored(means[site.name]).reshape(_levels_shape(site))
        frozen = gs.Constant(protos.fresh_name(f"{site.name}/means", tensors), level)
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
    return _exported(graph, model)


def _exported(graph: gs.Graph, model: ModelProto) -> ModelProto:
    """A masked graph as a model, with the types and inputs that graphsurgeon leaves out."""
    try:
        result: ModelProto = gs.export_onnx(graph, do_type_check=False)
    except (TypeError, ValueError) as error:  # of attributes that do not tell their type
        raise errors.ModelError(
            f"the graph cannot be written back ({error}); export it anew"
        ) from error
    result.ir_version = max(model.ir_version, protos.DEFAULTS_SINCE)
    known = {v.name: v.type for v in (*model.graph.input, *model.graph.output)}
    for value in (*result.graph.input, *result.graph.output):
        # Types that are no tensors: sequences, maps.
        if value.name in known and not known[value.name].HasField("tensor_type"):
            value.type.CopyFrom(known[value.name])
    if model.ir_version >= protos.DEFAULTS_SINCE:
        # The runtime does not treat a listed initializer as a constant: a matrix product then uses
        # other kernels, which round differently.
        stored = {tensor.name for tensor in result.graph.initializer}
        listed = {value.name for value in result.graph.input}
        fresh = stored - listed
        result.graph.input.extend(v for v in model.graph.input if v.name in fresh)
    return result


def tapped(model: ModelProto, tensors: Iterable[str]) -> ModelProto:
    """A copy that gives some of its tensors as further outputs."""
    result = protos.copied(model)
    known = {o.name for o in result.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in known:
            result.graph.output.append(helper.make_empty_tensor_value_info(name))
    return result


def with_gains(
    instrumented: ModelProto,
    sites: tuple[filters.Site, ...],
    gains: Mapping[str, NDArray[np.float64]],
) -> ModelProto:
    """A copy in which an absent filter yields `mean + gain * (its output - mean)`.

    Args:
        instrumented: see `instrument`.
        sites: the sites that were instrumented.
        gains: (n_channels,) of some sites, by name; of channels, not of trees.
    """
    result = protos.copied(instrumented)
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


def with_where(model: ModelProto, *, at_least: int = _WHERE_SINCE) -> ModelProto:
    """The model itself, or a copy raised to the first opset that knows `Where`.

    A model of opset `at_least` or later stays as it is, and one that names no opset.
    """
    version = protos.opset_of(model, default=at_least)
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
        raise errors.ModelError(
            f"the model has opset {version} and cannot be raised to {_WHERE_SINCE}, which masks "
            f"need ({str(error).splitlines()[0]}); export it again with a newer opset"
        ) from error
    return raised


# Masks as one multiplication and addition


SCALE, OFFSET, ZEROS, ONES = "scale", "offset", "zeros", "ones"


def affine_input(site: filters.Site, what: str) -> str:
    """The name of an input of `with_affine_masks`, shape (n_images * n_channels,)."""
    return f"{mask_name(site)}/{what}"


def with_affine_masks(model: ModelProto, sites: tuple[filters.Site, ...]) -> ModelProto | None:
    """A copy of a model with four inputs per site in place of the mask that `instrument` gave it.

    `ZEROS` and `ONES` are what the normalisation subtracts and divides by.

    Returns:
        None where a site is not masked by a `Where`, or is no tensor of 32-bit floats with its
        channels along axis 1, each with one number per position.
    """
    masked = {mask_name(site): site for site in sites}
    by_where = {node.input[0] for node in model.graph.node if node.op_type == "Where"}
    plain = all(
        site.dtype == "float32" and site.channel_axis == 1 and site.yields_one_number
        for site in sites
    )
    if not plain or not masked.keys() <= by_where:
        return None
    result = protos.copied(model)
    graph = result.graph
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        site = masked.get(node.input[0]) if node.op_type == "Where" else None
        nodes += [node] if site is None else _affine(node, site)
    inputs = [i for i in model.graph.input if i.name not in masked]
    for site in sites:
        for what in (SCALE, OFFSET, ZEROS, ONES):
            name = affine_input(site, what)
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]))
        for shape, numbers in _shapes(site).items():
            graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), shape))
    protos.refill(graph.node, nodes)
    protos.refill(graph.input, inputs)
    del graph.value_info[:]
    return result


def _shapes(site: filters.Site) -> dict[str, list[int]]:
    """Target shapes of the two `Reshape`s, by name; 0 keeps an axis."""
    name, rest = mask_name(site), [0] * (site.rank - 2)
    return {f"{name}/together": [1, -1, *rest], f"{name}/apart": [-1, site.n_channels, *rest]}


def _affine(node: NodeProto, site: filters.Site) -> list[NodeProto]:
    together, apart = _shapes(site)
    joined, masked = (f"{mask_name(site)}/{what}" for what in ("joined", "masked"))
    facts = [affine_input(site, what) for what in (SCALE, OFFSET, ZEROS, ONES)]
    return [
        helper.make_node("Reshape", [node.input[1], together], [joined], f"{joined}/Reshape"),
        helper.make_node(
            "BatchNormalization", [joined, *facts], [masked], f"{masked}/Affine", epsilon=0.0
        ),
        helper.make_node("Reshape", [masked, apart], [node.output[0]], node.name),
    ]
