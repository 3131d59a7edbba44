"""Filters that hold already the constant at which they are to be frozen: freezing does nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import ModelProto

from repairkit.core.errors import SettingsError
from repairkit.core.patch import FrozenFilter, Patch
from repairkit.graph.kinds.layers import kernel_mask
from repairkit.graph.kinds.sites import Survey
from repairkit.graph.kinds.trees import constant_of_tree
from repairkit.graph.patch.bake import bake
from repairkit.graph.patch.revert import changes_nothing
from repairkit.jobs.repair.deciding import Made
from repairkit.jobs.setup.bench import Bench

_NAMED = 8


def without_idle(bench: Bench, made: Made) -> Made:
    """The patch without its idle filters, each of them named in a note.

    Raises:
        SettingsError: no filter is left.
    """
    model, found = bench.subject.model, bench.original
    idle = [f for f in made.patch.frozen if is_idle(model, found, f)]
    if not idle:
        return made
    left = tuple(f for f in made.patch.frozen if f not in idle)
    if not left:
        shown = ", ".join(f"{f.filter.id} at {constant_text(f)}" for f in idle[:_NAMED])
        more = f" and {len(idle) - _NAMED} more" if len(idle) > _NAMED else ""
        what = "the filter holds its" if len(idle) == 1 else f"all {len(idle)} filters hold their"
        raise SettingsError(
            f"nothing to freeze: {what} constant already ({shown}{more}); nothing was written"
        )
    notes = [
        f"{f.filter.id} holds the constant {constant_text(f)} already; it was left as it is"
        for f in idle
    ]
    return replace(made, patch=Patch(left), notes=(*made.notes, *notes))


def is_idle(model: ModelProto, found: Survey, frozen: FrozenFilter) -> bool:
    """Whether freezing a filter of a model would change no tensor.

    Args:
        model: with the filter.
        found: its survey.
        frozen: the filter and its constant.
    """
    site, channel = frozen.filter.site, frozen.filter.channel
    trees = found.ensembles.get(site)
    if trees is not None:
        held = constant_of_tree(trees, channel)
        return held is not None and held == frozen.constant
    layer = found.layers[site]
    kernel = found.constants.array(layer.kernel)
    if kernel[kernel_mask(found.index.nodes[layer.node], kernel.shape, channel)].any():
        return False
    alone = bake(model, Patch((frozen,)), found=found)
    return all(changes_nothing(edit, model, alone.model) for edit in alone.edits)


def constant_text(frozen: FrozenFilter) -> str:
    """The constant of a frozen filter in as many digits as 32-bit floats have."""
    return " ".join(f"{number:.9g}" for number in np.atleast_1d(frozen.constant))
