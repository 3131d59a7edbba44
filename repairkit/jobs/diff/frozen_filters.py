"""Which filters of one model are frozen and not in the other, and whether a patch says it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repairkit.core import filters, framework, results
from repairkit.graph import metadata
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import survey
from repairkit.graph.protos import layer_names
from repairkit.graph.stored.model_files import ModelFile
from repairkit.jobs.diff.graph_changes import GraphChanges


@dataclass(frozen=True, kw_only=True)
class FrozenFilters:
    """Filters that hold a constant in one model and not, or another one, in the other.

    Attributes:
        in_a: frozen in A alone; of a filter that holds two constants, that of A.
        in_b: the same of B.
        n_sites: sites of both models that are the same layer.
        layers: where the filters of each model come from, if it says so.
    """

    in_a: tuple[filters.FrozenFilter, ...]
    in_b: tuple[filters.FrozenFilter, ...]
    n_sites: int
    layers: tuple[framework.LayerMap | None, framework.LayerMap | None]

    def to_json(self) -> dict[str, Any]:
        return {
            "sites_compared": self.n_sites,
            **{
                key: [_entry(f, layers) for f in frozen]
                for key, frozen, layers in zip(
                    ("frozen_in_a", "frozen_in_b"), (self.in_a, self.in_b), self.layers, strict=True
                )
            },
        }


def _entry(frozen: filters.FrozenFilter, layers: framework.LayerMap | None) -> dict[str, Any]:
    return {
        **results.frozen_entry(frozen),
        **({} if layers is None else {"layer": str(layers.origin(frozen.filter) or "")}),
    }


def frozen_filters(a: ModelFile, b: ModelFile, changes: GraphChanges) -> FrozenFilters:
    """The filters that are frozen in one model alone, seen in the tensors of paired layers.

    A filter that is frozen partly holds no constant and is not seen here.

    Args:
        a: the one model.
        b: the other.
        changes: of their graphs.
    """
    ours, theirs = (survey(file.model, include=["dense"]) for file in (a, b))
    places = [view.positions for view in changes.views]
    forth = {places[0][x]: places[1][y] for x, y in changes.pairing.forth.items()}
    sites = _paired_sites(ours, theirs, forth)
    frozen: tuple[list[filters.FrozenFilter], list[filters.FrozenFilter]] = ([], [])
    for name, other in sites.items():
        one, two = ours.layers[name], theirs.layers[other]
        frozen[0].extend(one.frozen_since(two))
        frozen[1].extend(two.frozen_since(one))
    return FrozenFilters(
        in_a=tuple(frozen[0]),
        in_b=tuple(frozen[1]),
        n_sites=len(sites),
        layers=(metadata.read_layer_map(a.model), metadata.read_layer_map(b.model)),
    )


def _paired_sites(a: Survey, b: Survey, forth: Mapping[int, int]) -> dict[str, str]:
    """Sites of A to those of B that are the same layer, of the same kind and size."""
    names = layer_names(b.index)
    pairs = {}
    for position, name in enumerate(layer_names(a.index)):
        other = names[forth[position]] if position in forth else ""
        if name not in a.layers or other not in b.layers:
            continue
        ours, theirs = a.layers[name], b.layers[other]
        shapes = [(s.site.kind, s.site.level_shape) for s in (ours, theirs)]
        if type(ours) is type(theirs) and shapes[0] == shapes[1]:
            pairs[name] = other
    return pairs


@dataclass(frozen=True, kw_only=True)
class PatchVerdict:
    """Whether two models differ by exactly one patch, or a stack of them.

    Attributes:
        file: the patch file; None where the model's own claims were looked at.
        turned: whether A is the patched model.
        exactly: whether the patched model is the other with just these changes.
        reason: why not; empty where it is.
        frozen: the filters that the patch freezes.
        head: the kind of change of the last layer; empty where there is none.
    """

    file: Path | None
    turned: bool
    exactly: bool
    reason: str
    frozen: tuple[filters.FrozenFilter, ...] = ()
    head: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "file": None if self.file is None else str(self.file),
            "patched": "a" if self.turned else "b",
            "exactly": self.exactly,
            "reason": self.reason,
            "frozen": [results.frozen_entry(f) for f in self.frozen],
            "head": self.head or None,
        }
