"""A copy of a model whose filters are turned off in weight space, before and after optimisation.

In weight space an absent filter is a kernel of zero and a bias at its level, as in baking, so that
the graph stays as fast as the original. For that, the bias `Add` and the `BatchNormalization`
behind a layer are folded into its convolution, under names that belong to one site alone. A site
for which this is not understood keeps its layer and gets the `Where` of `masking`.

A runtime may rename, re-order and pad the weights of its convolutions. To learn how, it is given a
model whose kernels and biases hold codes instead of weights: element i of a kernel is i + 1, and
the bias of a filter is its player + 1. The weights belong where the codes appear in the result.
Codes that do not appear completely, or not in lanes, are an error; nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from repairkit.core import errors, filters
from repairkit.graph.coalitions import products
from repairkit.graph.coalitions.cones import Switch, Switched
from repairkit.graph.coalitions.masking import mask_channels, mask_name, mask_shape
from repairkit.graph.kinds.kind import Folded, Survey
from repairkit.graph.protos import DEFAULTS_SINCE, GraphIndex, copied, opset_of, refill
from repairkit.graph.sizes import sizes_of
from repairkit.graph.stored.constants import with_dense_tensors
from repairkit.graph.stored.tensors import folder_of

_LARGEST_CODE = 2**24  # whole numbers up to here are exact in 32 bits
BLOCKED = "com.microsoft.nchwc"
LEAST_WEIGHTS = 2**18
"""Of a kernel, below which it stays in the processor's cache: to read it again costs little."""
_GEMM_SINCE = 7  # the standard whose Gemm takes a bias of one axis
_BLOCKS = (16, 8, 4, 32, 64)
Floats = NDArray[np.float32]


# Before optimisation


@dataclass(frozen=True)
class Separated:
    """The working copy: its only output is the one that is judged.

    `kernels` and `biases` hold the sites in weight space, by site name, as trained; their
    initializers are `kernel_name` and `bias_name`. The sites of `masked` have mask inputs. `rows`
    are the rows of each filter in the sites that became matrix products; see `products`.
    """

    model: ModelProto
    kernels: dict[str, Floats]
    biases: dict[str, Floats]
    masked: tuple[filters.Site, ...]
    rows: dict[str, int] = field(default_factory=dict)


def kernel_name(site: str) -> str:
    """The initializer that holds the kernel of a site in weight space."""
    return f"{site}/separate_kernel"


def bias_name(site: str) -> str:
    """The initializer that holds the bias of a site in weight space."""
    return f"{site}/separate_bias"


def separate(
    survey: Survey,
    sites: tuple[filters.Site, ...],
    means: filters.FilterMeans,
    *,
    output: str,
    weight_space: bool = True,
) -> Separated:
    """A working copy of a model for the coalitions of `sites`.

    Args:
        survey: of the model.
        sites: the sites of the game, each with its filters in its tensor.
        means: levels of absent filters, for the sites that need a mask.
        output: the output that is judged.
        weight_space: if false, every site gets a mask.

    Raises:
        ModelError: the weights are kept outside of memory.
    """
    if folder_of(survey.model) is not None:
        raise errors.ModelError("the model's weights are too large to be folded and kept in memory")
    model = copied(with_dense_tensors(survey.model))
    wanted = {site.name for site in sites}
    kernels, biases = dict[str, Floats](), dict[str, Floats]()
    gone: set[int] = set()
    for name, layer in survey.layers.items():
        folded = layer.folded() if weight_space else None
        if folded is None or (name in wanted and not folded.makes_site):
            continue
        _rewrite(model, survey.index, folded, name)
        gone.update(folded.tail)
        if name in wanted:
            kernels[name], biases[name] = folded.kernel, folded.bias
    _tidy(model, gone, output)
    masked = tuple(site for site in sites if site.name not in kernels)
    if masked:
        model = mask_channels(model, masked, means)
        assert all(mask_name(site) in {i.name for i in model.graph.input} for site in masked)
    return Separated(model, kernels, biases, masked)


def _rewrite(model: ModelProto, index: GraphIndex, folded: Folded, site: str) -> None:
    """Let the convolution itself make the site's tensor, from weights of its own."""
    node = model.graph.node[folded.node]
    made = index.nodes[folded.tail[-1]].output[0] if folded.tail else node.output[0]
    refill(node.input, [node.input[0], kernel_name(site), bias_name(site)])
    node.output[0] = made
    stored = [(folded.kernel, kernel_name(site)), (folded.bias, bias_name(site))]
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in stored)


def _tidy(model: ModelProto, gone: set[int], output: str) -> None:
    """Drop folded nodes, other outputs, and initializers that nothing reads or that are inputs."""
    graph = model.graph
    outputs = [o for o in graph.output if o.name == output]
    index = GraphIndex(model)
    needed = index.leading_to((output,))
    nodes = [
        node
        for position, node in enumerate(index.nodes)
        if position not in gone and any(o in needed for o in node.output)
    ]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [i for i in graph.input if i.name not in stored]
    read = needed | {output}
    kept = [tensor for name, tensor in stored.items() if name in read]
    # Parts of a graph vanish with it: extend a new graph, which copies them.
    tidy = GraphProto(name=graph.name, value_info=graph.value_info)
    tidy.node.extend(nodes)
    tidy.output.extend(outputs)
    tidy.input.extend(inputs)
    tidy.initializer.extend(kept)
    model.graph.CopyFrom(tidy)
    model.ir_version = max(model.ir_version, DEFAULTS_SINCE)  # so that initializers are constant


def with_products(separated: Separated, *, least_weights: int = LEAST_WEIGHTS) -> Separated:
    """The working copy with matrix products for its sites on few positions, where they pay.

    A site is rewritten where its convolution has one group and written-out padding, the sizes of
    its input follow from the model, the kernel has at least `least_weights` elements, and the
    matrix at most twice as many. All others stay as they are. See `products`.
    """
    large = {kernel_name(s): s for s, k in separated.kernels.items() if k.size >= least_weights}
    if not large or opset_of(separated.model, default=1) < _GEMM_SINCE:
        return separated
    sizes = sizes_of(separated.model, 1)
    kernels, rows = dict(separated.kernels), dict[str, int]()
    nodes, shapes = list[NodeProto](), list[TensorProto]()
    for node in separated.model.graph.node:
        site = large.get(node.input[1]) if node.op_type == "Conv" else None
        product = None
        if site is not None:
            dims, most = sizes.get(node.input[0], ()), _LARGEST_CODE - 1
            product = products.product_of(node, dims, kernels[site], most_elements=most)
        if site is None or product is None:
            nodes.append(node)
            continue
        shape, n_channels = f"{site}/separate_shape", len(kernels[site])
        nodes += products.product_nodes(node, kernel_name(site), bias_name(site), shape)
        sides = np.array([0, n_channels, *product.made], np.int64)
        shapes.append(numpy_helper.from_array(sides, shape))
        kernels[site], rows[site] = product.matrix, len(product.matrix) // n_channels
    if not rows:
        return separated
    biases = {s: np.repeat(b, rows.get(s, 1)) for s, b in separated.biases.items()}
    model = copied(separated.model)
    refill(model.graph.node, nodes)
    model.graph.initializer.extend(shapes)
    _store(model, {kernel_name(s): kernels[s] for s in rows})
    _store(model, {bias_name(s): biases[s] for s in rows})
    return replace(separated, model=model, kernels=kernels, biases=biases, rows=rows)


def _store(model: ModelProto, arrays: Mapping[str, Floats]) -> None:
    """Put other numbers into initializers, by name."""
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))


# After optimisation


def with_codes(separated: Separated, roster: filters.Roster) -> ModelProto:
    """The working copy with codes for weights."""
    model = copied(separated.model)
    codes: dict[str, Floats] = {}
    for site, kernel in separated.kernels.items():
        columns = np.arange(len(roster))[roster.slices[site]]
        if kernel.size >= _LARGEST_CODE or len(roster) >= _LARGEST_CODE:
            raise errors.ModelError(
                f"site {site!r} has {kernel.size} weights, too many to tell apart"
            )
        numbers = np.arange(1, kernel.size + 1, dtype=np.float32)
        codes[kernel_name(site)] = numbers.reshape(kernel.shape)
        rows = separated.rows.get(site, 1)
        codes[bias_name(site)] = np.repeat(columns + 1, rows).astype(np.float32)
    _store(model, codes)
    return model


def find_switches(optimised: ModelProto, separated: Separated, roster: filters.Roster) -> Switched:
    """Find every site in an optimised model that was made from `with_codes`.

    The model, as the runtime wrote it, becomes part of the result.

    Raises:
        ModelError: a site was not found, or the layout of its weights is not understood.
    """
    stored = {tensor.name: tensor for tensor in optimised.graph.initializer}
    by_code = _convolutions(optimised, stored)
    switches: list[Switch] = []
    trained: dict[str, Floats] = {}
    for site in roster.sites:
        if site.name not in separated.kernels:
            switches.append(_mask_switch(optimised, site))
            continue
        if site.name in separated.rows:
            switch = _product_switch(optimised, stored, separated, site)
            switches.append(switch)
            trained[switch.kernel] = separated.kernels[site.name]
            trained[switch.bias] = separated.biases[site.name]
            continue
        first = roster.slices[site.name].start + 1
        if first not in by_code:
            raise errors.ModelError(f"site {site.name!r} is not found in the optimised graph")
        node = by_code[first]
        kernel, bias = separated.kernels[site.name], separated.biases[site.name]
        codes = numpy_helper.to_array(stored[node.input[1]])
        block = _block(node, codes, kernel.shape, site.name)
        biases = numpy_helper.to_array(stored[node.input[2]]).reshape(-1)
        if not np.array_equal(biases[: len(bias)], first + np.arange(len(bias))):
            raise errors.ModelError(f"the bias of site {site.name!r} lies in an unknown order")
        if {node.input[1], node.input[2]} & trained.keys():
            raise errors.ModelError(f"site {site.name!r} shares a tensor with another one")
        switches.append(
            Switch(
                site=site.name,
                tensor=node.output[0],
                kernel=node.input[1],
                bias=node.input[2],
                block=block,
            )
        )
        trained[node.input[1]] = _arranged(codes, kernel)
        trained[node.input[2]] = np.pad(bias, (0, len(biases) - len(bias)))
    return Switched(optimised, tuple(switches), trained)


def _mask_switch(optimised: ModelProto, site: filters.Site) -> Switch:
    mask = mask_name(site)
    for node in optimised.graph.node:
        if node.op_type == "Where" and node.input[0] == mask:
            return Switch(
                site=site.name,
                tensor=node.output[0],
                kernel="",
                bias=mask,
                block=1,
                mask=mask_shape(site, 1),
            )
    raise errors.ModelError(f"the mask of site {site.name!r} is not found in the optimised graph")


def _product_switch(
    optimised: ModelProto,
    stored: Mapping[str, TensorProto],
    separated: Separated,
    site: filters.Site,
) -> Switch:
    """The switch of a site that is a matrix product, whose weights keep their names and order."""
    kernel, bias = kernel_name(site.name), bias_name(site.name)
    readers = {name: node for node in optimised.graph.node for name in node.input}
    node = readers.get(kernel)
    shaped = None if node is None else readers.get(node.output[0])
    if node is None or shaped is None or (node.op_type, shaped.op_type) != ("Gemm", "Reshape"):
        raise errors.ModelError(f"site {site.name!r} is not found in the optimised graph")
    codes = np.arange(1, separated.kernels[site.name].size + 1, dtype=np.float32)
    found = stored.get(kernel)
    kept = found is not None and np.array_equal(numpy_helper.to_array(found).reshape(-1), codes)
    if not kept or list(node.input[1:]) != [kernel, bias]:
        raise errors.ModelError(f"the kernel of site {site.name!r} lies in an unknown order")
    return Switch(
        site=site.name,
        tensor=node.output[0],
        kernel=kernel,
        bias=bias,
        block=1,
        rows=separated.rows[site.name],
        shaped=shaped.output[0],
    )


def _convolutions(model: ModelProto, stored: Mapping[str, TensorProto]) -> dict[int, NodeProto]:
    """Convolutions with a stored kernel and bias, by the first element of the bias."""
    by_code = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "FusedConv") and len(node.input) > 2:
            bias = stored.get(node.input[2])
            if bias is not None and node.input[1] in stored:
                by_code[int(numpy_helper.to_array(bias).reshape(-1)[0])] = node
    return by_code


def _block(node: NodeProto, codes: Floats, shape: tuple[int, ...], site: str) -> int:
    """How many channels lie side by side."""
    n_codes = int(np.prod(shape))
    flat = codes.reshape(-1).astype(np.int64)
    if np.array_equal(np.sort(flat[flat > 0]), np.arange(1, n_codes + 1)):
        per_channel = n_codes // shape[0]
        channels = (flat - 1) // per_channel
        for block in _BLOCKS if node.domain == BLOCKED else (1,):
            if codes.shape[0] % block:
                continue
            rows = codes.shape[0] // block
            lanes = np.arange(rows)[:, None, None] * block + np.arange(block)
            lanes = np.broadcast_to(lanes, (rows, flat.size // codes.shape[0], block)).reshape(-1)
            if np.array_equal(channels[flat > 0], lanes[flat > 0]):
                return block
    raise errors.ModelError(f"the kernel of site {site!r} lies in an unknown order")


def _arranged(codes: Floats, kernel: Floats) -> Floats:
    """The kernel where its codes are; padding is zero."""
    arranged = np.zeros(codes.shape, np.float32)
    wanted = codes > 0
    arranged[wanted] = kernel.reshape(-1)[codes[wanted].astype(np.int64) - 1]
    return arranged
