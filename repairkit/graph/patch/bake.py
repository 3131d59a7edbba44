"""Freeze filters inside the model's own tensors: kernel zero, bias at the wanted constant.

A filter that is frozen partly keeps a share of its kernel, `gain`, and its bias moves towards the
constant by the rest. A change of the head goes the same way (see `head_bake`).

The argument's names, node order, metadata and every untouched byte survive. A filter behind a
`BatchNormalization` also gets scale zero, so that whatever its convolution yields is ignored; one
with a bias `Add` gets the constant there and zero in the convolution's own bias. A tensor that
something else reads too, or that is computed, is cloned before it is edited. The leaves of a frozen
tree all hold its constant.

An input of infinity or NaN times a kernel of zero is NaN; a patched model keeps that NaN where the
instrumented one would not. Finite inputs give the constant exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.patch import FrozenFilter, Patch, TensorEdit
from repairkit.graph.kinds.class_head import head_named
from repairkit.graph.kinds.codes import kernel_rest, slots_of
from repairkit.graph.kinds.layers import (
    Layer,
    activation_bounds,
    addend_slot,
    is_dequantised,
    kernel_mask,
)
from repairkit.graph.kinds.sites import Survey, survey
from repairkit.graph.patch.head_bake import bake_head
from repairkit.graph.patch.tree_bake import freeze_trees, representable_trees
from repairkit.graph.stored.editing import Editor, as_stored


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
    by_site: dict[str, list[FrozenFilter]] = {}
    for frozen in patch.frozen:
        by_site.setdefault(frozen.filter.site, []).append(frozen)
    editor = Editor(result, found.index, found.constants)
    for site, members in by_site.items():
        if any(f.gain for f in members):
            reason = why_not_partly(found, site)
            if reason:
                raise ModelError(f"filters of {site!r} cannot be frozen partly: {reason}")
        if site in found.ensembles:
            trees = found.ensembles[site]
            node = result.graph.node[trees.node]
            levels = {f.filter.channel: f.constant for f in members}
            editor.edits.append(freeze_trees(node, site, trees, levels))
        else:
            _freeze(editor, site, found.layers[site], members)
    if patch.head is not None:
        bake_head(editor, head_named(found.index, patch.head.layer), patch.head)
    return Baked(result, tuple(editor.edits))


def why_not_partly(found: Survey, site: str) -> str:
    """Why filters of a site can only be frozen wholly; empty where they can be frozen partly."""
    if site in found.ensembles:
        return "they are trees"
    layer = found.layers[site]
    if layer.codes is not None or is_dequantised(found.index, layer.kernel):
        return "their numbers are integer codes, which cannot be scaled exactly"
    if layer.activation is not None:
        return "an activation stands between the layer's numbers and the filters"
    return ""


def _freeze(editor: Editor, site: str, layer: Layer, members: Sequence[FrozenFilter]) -> None:
    node = editor.index.nodes[layer.node]
    members = sorted(members, key=lambda f: f.filter.channel)
    channels = np.array([f.filter.channel for f in members])
    levels = np.array([f.constant for f in members], np.float64)
    gains = np.array([f.gain for f in members])
    _write_kernel(editor, site, layer, channels, gains)
    slots = slots_of(node)
    if layer.codes is not None:
        every = np.zeros(layer.n_channels)
        every[channels] = levels
        levels = layer.codes.bias(every)[channels]

    def left(position: int, slot: int) -> NDArray[np.float64]:
        """What is left of the numbers of these channels at an input of a node."""
        numbers = editor.constants.array(editor.index.nodes[position].input[slot])
        flat = np.broadcast_to(numbers.reshape(-1), (layer.n_channels,))
        kept = gains > 0  # what is not kept may be infinite
        found = np.zeros(len(channels))
        found[kept] = gains[kept] * flat[channels][kept].astype(np.float64)
        return found

    moved = np.where(gains > 0, (1 - gains) * levels, levels)
    has_bias = slots.bias is not None and len(node.input) > slots.bias
    has_bias = has_bias and bool(node.input[slots.bias or 0])
    if layer.norm is not None:
        norm = layer.norm
        editor.write(norm, 1, channels, left(norm, 1), f"{site}/scale")
        editor.write(norm, 2, channels, moved + left(norm, 2), f"{site}/bias")
    elif layer.add is not None:
        slot = addend_slot(editor.index.nodes[layer.add], editor.index)
        assert slot is not None
        editor.write(layer.add, slot, channels, moved + left(layer.add, slot), f"{site}/bias")
        if has_bias:
            own = slots.bias or 0
            editor.write(layer.node, own, channels, left(layer.node, own), f"{site}/own_bias")
    elif has_bias:
        own = slots.bias or 0
        editor.write(layer.node, own, channels, moved + left(layer.node, own), f"{site}/bias")
    else:
        kernel = editor.constants.array(layer.kernel)
        bias = np.zeros(layer.n_channels, kernel.dtype if layer.codes is None else np.int32)
        bias[channels] = moved
        editor.add(layer.node, slots.bias or 0, bias, f"{site}/bias")


def _write_kernel(
    editor: Editor, site: str, layer: Layer, channels: Array, gains: NDArray[np.float64]
) -> None:
    """Leave of the kernel what is kept of each channel; a normalisation scales what it follows."""
    node = editor.index.nodes[layer.node]
    kernel = editor.constants.array(layer.kernel)
    gone, kept = np.zeros(kernel.shape, bool), np.zeros(kernel.shape)
    for channel, gain in zip(channels.tolist(), gains.tolist(), strict=True):
        if gain and layer.norm is not None:
            continue
        mask = kernel_mask(node, kernel.shape, channel)
        gone |= mask
        kept[mask] = gain
    if not gone.any():
        return
    values = np.broadcast_to(kernel_rest(node, editor.constants), kernel.shape)[gone]
    scaled = kept[gone] > 0
    if scaled.any():
        values = np.where(scaled, kept[gone] * kernel[gone].astype(np.float64), values)
    positions = np.flatnonzero(gone)
    editor.write(layer.node, slots_of(node).kernel, positions, values, f"{site}/kernel")


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


def _nearest(found: Survey, site: str, layer: Layer, level: NDArray[np.float32]) -> Array:
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
    return as_stored(constants, inputs[slot], wanted).astype(np.float32) + np.float32(0)
