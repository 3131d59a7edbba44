"""Freeze filters inside the model's own tensors: kernel zero, bias at the wanted constant.

The argument's names, node order, metadata and every untouched byte survive. A filter behind a
`BatchNormalization` also gets scale zero, so that whatever its convolution yields is ignored; one
with a bias `Add` gets the constant there and zero in the convolution's own bias. A tensor that
something else reads too, or that is computed, is cloned before it is edited. The leaves of a frozen
tree all hold its constant.

An input of infinity or NaN times a kernel of zero is NaN; a patched model keeps that NaN where the
instrumented one would not. Finite inputs give the constant exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.patch import Constant, Patch, TensorEdit
from repairkit.graph.codes import kernel_rest, slots_of
from repairkit.graph.layers import Layer, activation_bounds, addend_slot, kernel_mask
from repairkit.graph.sites import Survey, survey
from repairkit.graph.storage import Constants, constant_tensor, runs_of, store
from repairkit.graph.tree_bake import freeze_trees, representable_trees


@dataclass(frozen=True)
class Baked:
    """A patched model, and every change that was made to its tensors, in order."""

    model: ModelProto
    edits: tuple[TensorEdit, ...]


def bake(model: ModelProto, patch: Patch, *, found: Survey | None = None) -> Baked:
    """A model in which the filters of `patch` hold their constants.

    Args:
        model: never modified.
        patch: its constants must be ones that the model can hold (see `representable`).
        found: the survey in which the patch's sites were found; default sites if not given.

    Raises:
        SettingsError: the patch names a filter that the model does not have.
        ModelError: a constant cannot be stored where the model keeps its numbers.
    """
    found = survey(model) if found is None else found
    roster = Roster(found.sites)
    for frozen in patch.frozen:
        roster.column(frozen.filter)
    result = ModelProto()
    result.CopyFrom(model)
    by_site: dict[str, dict[int, Constant]] = {}
    for frozen in patch.frozen:
        by_site.setdefault(frozen.filter.site, {})[frozen.filter.channel] = frozen.constant
    editor = _Editor(result, found)
    for site, constants in by_site.items():
        if site in found.ensembles:
            trees = found.ensembles[site]
            node = result.graph.node[trees.node]
            editor.edits.append(freeze_trees(node, site, trees, constants))
        else:
            _freeze(editor, site, found.layers[site], constants)
    return Baked(result, tuple(editor.edits))


def _freeze(editor: _Editor, site: str, layer: Layer, constants: dict[int, Constant]) -> None:
    node = editor.found.index.nodes[layer.node]
    channels = np.array(sorted(constants))
    levels = np.array([constants[c] for c in channels.tolist()], np.float64)
    zeros = np.zeros(len(channels))
    shape = editor.found.constants.array(layer.kernel).shape
    mask = np.zeros(shape, bool)
    for channel in channels.tolist():
        mask |= kernel_mask(node, shape, channel)
    positions = np.flatnonzero(mask)
    slots = slots_of(node)
    rest = np.broadcast_to(kernel_rest(node, editor.found.constants), shape)
    editor.write(layer.node, slots.kernel, positions, rest[mask], f"{site}/kernel")
    if layer.codes is not None:
        every = np.zeros(layer.n_channels)
        every[channels] = levels
        levels = layer.codes.bias(every)[channels]
    has_bias = slots.bias is not None and len(node.input) > slots.bias
    has_bias = has_bias and bool(node.input[slots.bias or 0])
    if layer.norm is not None:
        editor.write(layer.norm, 1, channels, zeros, f"{site}/scale")
        editor.write(layer.norm, 2, channels, levels, f"{site}/bias")
    elif layer.add is not None:
        slot = addend_slot(editor.found.index.nodes[layer.add], editor.found.index)
        assert slot is not None
        editor.write(layer.add, slot, channels, levels, f"{site}/bias")
        if has_bias:
            editor.write(layer.node, slots.bias or 0, channels, zeros, f"{site}/own_bias")
    elif has_bias:
        editor.write(layer.node, slots.bias or 0, channels, levels, f"{site}/bias")
    else:
        kernel = editor.found.constants.array(layer.kernel)
        bias = np.zeros(layer.n_channels, kernel.dtype if layer.codes is None else np.int32)
        bias[channels] = levels
        editor.add(layer.node, slots.bias or 0, bias, f"{site}/bias")


@dataclass
class _Editor:
    """Edits a model whose graph is still laid out as `found` says."""

    model: ModelProto
    found: Survey
    edits: list[TensorEdit] = field(default_factory=list)

    def write(
        self,
        node: int,
        slot: int,
        positions: NDArray[Any],
        values: NDArray[np.float64],
        clone: str,
    ) -> None:
        """Put values at flat positions of the tensor that a node reads at `slot`."""
        name = self.found.index.nodes[node].input[slot]
        value = self.found.constants.array(name)
        write = self.found.constants.write(name, positions, values)
        if write is None or write.storage.shared:
            array = value.copy()
            array.reshape(-1)[positions] = values
            self.add(node, slot, array, clone)
            return
        graph = self.model.graph
        if write.storage.kind == "initializer":
            tensor = next(t for t in graph.initializer if t.name == write.storage.name)
        else:
            maker = graph.node[self.found.index.producers[write.storage.name]]
            held = constant_tensor(maker)
            assert held is not None
            tensor = held
        runs = runs_of(write.positions)
        old = store(tensor, write)
        self.edits.append(TensorEdit(write.storage.kind, write.storage.name, tuple(runs), old))

    def add(self, node: int, slot: int, array: NDArray[Any], name: str) -> None:
        """A new initializer, read by a node at `slot` instead of what it read before."""
        fresh, number = name, 1
        taken = self.found.index.names | {edit.tensor for edit in self.edits}
        while fresh in taken:
            number += 1
            fresh = f"{name}_{number}"
        reader = self.model.graph.node[node]
        replaces = reader.input[slot] if len(reader.input) > slot else None
        if len(reader.input) > slot:
            reader.input[slot] = fresh
        else:
            reader.input.append(fresh)
        tensor = numpy_helper.from_array(array, fresh)
        self.model.graph.initializer.append(tensor)
        if self.model.ir_version < 4:  # which demands that an initializer be an input too
            self.model.graph.input.append(
                helper.make_tensor_value_info(fresh, tensor.data_type, array.shape)
            )
        self.edits.append(
            TensorEdit("added", fresh, node=reader.output[0], slot=slot, replaces=replaces)
        )


def representable(found: Survey, means: FilterMeans) -> FilterMeans:
    """The levels nearest to `means` at which baking can freeze each filter exactly.

    A quantised bias holds multiples of its scale, a half-precision one 11 bits, and behind a ReLU
    nothing is negative. Freezing at these levels makes masked and baked models equal.

    Raises:
        ModelError: a mean is not finite.
    """
    nearest: FilterMeans = {}
    for site, level in means.items():
        if site in found.ensembles:
            nearest |= representable_trees(site, found.ensembles[site], level.astype(np.float64))
        else:
            nearest[site] = _nearest(found, site, found.layers[site], level)
    return nearest


def _nearest(found: Survey, site: str, layer: Layer, level: NDArray[np.float32]) -> NDArray[Any]:
    if not np.isfinite(level).all():
        channel = int(np.flatnonzero(~np.isfinite(level))[0])
        raise ModelError(
            f"filter {site}:{channel} yields infinity or NaN on the calibration images; check the "
            "preprocessing (scale, mean, std)"
        )
    index, constants = found.index, found.constants
    wanted = level.astype(np.float64)
    if layer.activation is not None:
        low, high = activation_bounds(index.nodes[layer.activation], constants)
        wanted = np.clip(wanted, low, high)
    if layer.codes is not None:
        return layer.codes.held(wanted).astype(np.float32)
    node, slot = layer.node, 2
    if layer.norm is not None:
        node = layer.norm
    elif layer.add is not None:
        node = layer.add
        slot = addend_slot(index.nodes[node], index) or 0
    inputs = index.nodes[node].input
    if len(inputs) <= slot or not inputs[slot]:
        dtype = constants.array(layer.kernel).dtype
        return wanted.astype(dtype).astype(np.float32)
    return _rounded(constants, inputs[slot], wanted).astype(np.float32) + np.float32(0)


def _rounded(constants: Constants, name: str, wanted: NDArray[np.float64]) -> NDArray[Any]:
    """`wanted` as it reads back once it is stored behind `name`."""
    write = constants.write(name, np.arange(len(wanted)), wanted)
    value = constants.array(name)
    if write is None or write.storage.shared:
        return wanted.astype(value.dtype)
    return constants.read_back(name, write)
