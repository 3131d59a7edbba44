"""Repairs that a compiled model can take as new weights alone: what they leave out, and why.

Which filters need more is known before anything is chosen: those of a site are all frozen in the
same tensors. A search tries no filter of such a site. Where filters are named, they are refused.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from repairkit.core import errors, filters
from repairkit.core.suite import Indices
from repairkit.graph.baking import head_changes
from repairkit.graph.kinds.class_head import find_head
from repairkit.graph.new_weights import Need, facts_of, needs_of_changes, needs_of_sites
from repairkit.jobs.repair.repair_settings import FREEZE, PatchSettings, wanted_repair
from repairkit.jobs.setup.workbench import Bench

_OPTION, _MOST_NAMED = "--refit-safe", 6
_REMEDY = f"leave out {_OPTION}, and compile the patched model again"


def narrowed(bench: Bench, asked: PatchSettings) -> Bench:
    """The bench without the filters that need more than new weights, where these are not wanted.

    Raises:
        SettingsError: no filter is left, and only the last layer is not asked for.
    """
    if not asked.refit_safe:
        return bench
    needs = needs_of_sites(bench.original)
    left = tuple(site for site in bench.roster.sites if site.name not in needs)
    if left:
        return replace(bench, working=replace(bench.working, roster=filters.Roster(left)))
    if wanted_repair(asked) in get_args(filters.HeadKind):
        return bench
    first = bench.roster.sites[0].name
    raise errors.SettingsError(
        f"{_OPTION} leaves no filter to freeze: each needs more than new weights; freezing one of "
        f"{first!r} {needs[first].reason}; {_REMEDY}, or let the last layer alone change (--repair "
        "last-layer)"
    )


def check_named(bench: Bench, asked: PatchSettings, named: Indices) -> None:
    """Refuse named players that need more than new weights, where these are not wanted.

    Raises:
        SettingsError: some do; they are named.
    """
    needs = needs_of_sites(bench.original) if asked.refit_safe else {}
    refused = [f for f in (bench.roster.filters[player] for player in named) if f.site in needs]
    if not refused:
        return
    shown = ", ".join(each.id for each in refused[:_MOST_NAMED])
    more = f" and {len(refused) - _MOST_NAMED} more" if len(refused) > _MOST_NAMED else ""
    raise errors.SettingsError(
        f"{_OPTION} refuses {shown}{more}: freezing {refused[0].id} "
        f"{needs[refused[0].site].reason}; name others, or {_REMEDY}"
    )


def check_cure(bench: Bench, asked: PatchSettings, name: str) -> None:
    """Refuse a cure that changes the last layer, where that needs more than new weights.

    Args:
        bench: the workbench.
        asked: the settings.
        name: of the cure.

    Raises:
        ModelError: it does; or the last layer cannot be changed at all.
    """
    if not asked.refit_safe or name == FREEZE:
        return
    index = bench.original.index
    head = find_head(index, bench.subject.output)
    if name == "bias" and head.place is None:
        return  # the cure itself says why there are no class biases
    bias = None if head.place is None else head.biases + 1
    change = filters.HeadChange("last-layer", head.name, bias, head.weight + 1)
    if name == "bias":
        change = filters.HeadChange("bias", head.name, bias)
    needs = needs_of_changes(index, head_changes(bench.original.constants, head, change))
    if needs:
        raise errors.ModelError(f"{_OPTION} rules it out, since it {needs[0].reason}")


def check_edits(asked: PatchSettings, edits: Sequence[filters.TensorEdit]) -> None:
    """Refuse what was baked all the same: a last look before anything is written.

    Raises:
        ModelError: an edit needs more than new weights.
    """
    needs: Sequence[Need] = facts_of(edits, lambda _: None).needs if asked.refit_safe else ()
    if needs:
        raise errors.ModelError(f"{_OPTION} refuses a patch that {needs[0].reason}; {_REMEDY}")
