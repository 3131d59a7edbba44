"""Filters that hold already the constant at which they are to be frozen: freezing does nothing."""

from __future__ import annotations

from dataclasses import replace

from repairkit.core.errors import SettingsError
from repairkit.core.patch import Patch, constant_text
from repairkit.graph.patch.infer import is_idle
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
