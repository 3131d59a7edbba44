"""Find out which lanes of an optimised model's tensors turn a filter off.

A runtime may rename, re-order and pad the weights of its convolutions. To learn how, it is given a
model whose kernels and biases hold codes in place of weights: element i of a kernel is i + 1, and
the bias of a filter is its player + 1. Where the codes reappear is where the weights belong. Codes
that do not reappear whole, or not in lanes, are an error; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.core.filters import Roster, Site
from repairkit.graph.coalitions.instrument import mask_name, mask_shape
from repairkit.graph.coalitions.separate import Separated, bias_name, kernel_name

_LARGEST_CODE = 2**24  # the whole numbers up to here are exact in 32 bits
BLOCKED = "com.microsoft.nchwc"
_BLOCKS = (16, 8, 4, 32, 64)


@dataclass(frozen=True)
class Switch:
    """Where the filters of a site are turned off.

    `tensor` is the first to hold the filters' yield; its channels stand in blocks of `block`. In
    weight space `kernel` and `bias` are runtime inputs: channel c is lane
    [c // block, :, c % block] of the kernel, and element c of the bias. Else `kernel` is "" and
    `bias` is the mask input, of shape `mask`.
    """

    site: str
    tensor: str
    kernel: str
    bias: str
    block: int
    mask: tuple[int, ...] = ()


@dataclass(frozen=True)
class Switched:
    """An optimised model whose switches are inputs, and what they hold as trained."""

    model: ModelProto
    switches: tuple[Switch, ...]
    trained: dict[str, NDArray[np.float32]]


def with_codes(separated: Separated, roster: Roster) -> ModelProto:
    """The working copy with codes for weights."""
    model = ModelProto()
    model.CopyFrom(separated.model)
    codes: dict[str, NDArray[np.float32]] = {}
    for site, kernel in separated.kernels.items():
        columns = np.arange(len(roster))[roster.slices[site]]
        if kernel.size >= _LARGEST_CODE or len(roster) >= _LARGEST_CODE:
            raise ModelError(f"site {site!r} has {kernel.size} weights, too many to be told apart")
        numbers = np.arange(1, kernel.size + 1, dtype=np.float32)
        codes[kernel_name(site)] = numbers.reshape(kernel.shape)
        codes[bias_name(site)] = (columns + 1).astype(np.float32)
    for tensor in model.graph.initializer:
        if tensor.name in codes:
            tensor.CopyFrom(numpy_helper.from_array(codes[tensor.name], tensor.name))
    return model


def find_switches(optimised: ModelProto, separated: Separated, roster: Roster) -> Switched:
    """Find every site in an optimised model that was made from `with_codes`.

    Args:
        optimised: as the runtime wrote it; becomes part of the result.
        separated: what `with_codes` was made from.
        roster: the game's filters.

    Raises:
        ModelError: a site was not found, or its weights lie in a way that is not understood.
    """
    stored = {tensor.name: tensor for tensor in optimised.graph.initializer}
    by_code = _convolutions(optimised, stored)
    switches: list[Switch] = []
    trained: dict[str, NDArray[np.float32]] = {}
    for site in roster.sites:
        if site.name not in separated.kernels:
            switches.append(_mask_switch(optimised, site))
            continue
        first = roster.slices[site.name].start + 1
        node = by_code.get(first)
        if node is None:
            raise ModelError(f"site {site.name!r} is not found in the optimised graph")
        kernel, bias = separated.kernels[site.name], separated.biases[site.name]
        codes = numpy_helper.to_array(stored[node.input[1]])
        block = _block(node, codes, kernel.shape, site.name)
        biases = numpy_helper.to_array(stored[node.input[2]]).reshape(-1)
        if not np.array_equal(biases[: len(bias)], first + np.arange(len(bias))):
            raise ModelError(f"the bias of site {site.name!r} lies in an unknown order")
        if {node.input[1], node.input[2]} & trained.keys():
            raise ModelError(f"site {site.name!r} shares a tensor with another one")
        switches.append(Switch(site.name, node.output[0], node.input[1], node.input[2], block))
        trained[node.input[1]] = _arranged(codes, kernel)
        trained[node.input[2]] = np.zeros(biases.shape, np.float32)
        trained[node.input[2]][: len(bias)] = bias
    return Switched(optimised, tuple(switches), trained)


def _mask_switch(optimised: ModelProto, site: Site) -> Switch:
    mask = mask_name(site)
    for node in optimised.graph.node:
        if node.op_type == "Where" and node.input[0] == mask:
            return Switch(site.name, node.output[0], "", mask, 1, mask_shape(site, 1))
    raise ModelError(f"the mask of site {site.name!r} is not found in the optimised graph")


def _convolutions(model: ModelProto, stored: dict[str, TensorProto]) -> dict[int, NodeProto]:
    """Convolutions with a stored kernel and bias, by the first element of the bias."""
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "FusedConv") and len(node.input) > 2:
            bias = stored.get(node.input[2])
            if bias is not None and node.input[1] in stored:
                found[int(numpy_helper.to_array(bias).reshape(-1)[0])] = node
    return found


def _block(node: NodeProto, codes: NDArray[np.float32], shape: tuple[int, ...], site: str) -> int:
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
    raise ModelError(f"the kernel of site {site!r} lies in an unknown order")


def _arranged(codes: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernel where its codes are; padding is zero."""
    arranged = np.zeros(codes.shape, np.float32)
    wanted = codes > 0
    arranged[wanted] = kernel.reshape(-1)[codes[wanted].astype(np.int64) - 1]
    return arranged
