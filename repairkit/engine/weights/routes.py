"""From one coalition to another: which nodes must run again, and what that costs.

A state holds tensors of one coalition. Another coalition that differs in the filters of some sites
invalidates what these sites reach; the rest stands. Where filters only leave a site, their lanes in
the state's own tensor are overwritten and the site's convolution need not run either.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.engine.weights.compiled import Compiled
from repairkit.graph.coalitions.cones import Slice, Tensors

Sites = int
"""A set of sites; bit k is set where the game's site k belongs to it."""

Row = NDArray[np.bool_]
_MOST_ROUTES = 20_000


@dataclass(frozen=True)
class Difference:
    """The sites in which a row differs from a state; in those of `leaving` no filter comes back."""

    changed: Sites
    leaving: Sites


NOTHING_HELD = Difference(-1, 0)
"""Where there is no state."""


@dataclass(frozen=True)
class Route:
    """How a state answers a row.

    `overwritten` are the sites whose lanes are written before `piece` runs; `lost` are the
    tensors that are then no longer the state's, `renewed` those among the outputs of `piece`.
    `by_overwriting`: nothing but overwritten lanes tells the new coalition from the old.
    `reads_switches`: the workspace must hold the row. `cost` is multiplications per image.
    """

    piece: Slice
    overwritten: tuple[int, ...]
    lost: Tensors
    renewed: Tensors
    by_overwriting: bool
    reads_switches: bool
    cost: float


class Routes:
    """Routes of a compiled model, each worked out once.

    Args:
        compiled: the model.
        overwriting: allow overwritten lanes; if false, convolutions always run.
    """

    def __init__(self, compiled: Compiled, *, overwriting: bool = True) -> None:
        self.compiled, anatomy = compiled, compiled.anatomy
        self.anatomy = anatomy
        self.image = anatomy.set_of([anatomy.image])
        n_sites = len(compiled.switches)
        self.overwrites = compiled.overwrites if overwriting else (None,) * n_sites
        self._switch_inputs = {n for s in compiled.switches for n in (s.kernel, s.bias) if n}
        self._site_of = np.repeat(
            np.arange(n_sites), [site.n_channels for site in compiled.roster.sites]
        )
        self._kept: list[Tensors] = []  # where each site's yield can be overwritten
        self._reach: list[Tensors] = []  # what hangs on a site, its own yield included
        for switch, overwrite in zip(compiled.switches, self.overwrites, strict=True):
            start = anatomy.set_of([switch.tensor])
            self._reach.append(start | anatomy.reached(start))
            self._kept.append(0 if overwrite is None else anatomy.set_of([overwrite.tensor]))
        self._known: dict[tuple[Sites, Sites, Tensors, Tensors], Route] = {}
        self._lock = threading.Lock()
        self.full = self.route(NOTHING_HELD, 0, 0)
        self.worth_keeping = self._worth_keeping()

    def difference(self, held: Row, wanted: Row) -> Difference:
        """In which sites a wanted row differs from the coalition that is held."""
        columns = np.flatnonzero(held != wanted)
        coming = set(self._site_of[columns[wanted[columns]]].tolist())
        sites = set(self._site_of[columns].tolist())
        changed = sum(1 << site for site in sites)
        return Difference(changed, changed - sum(1 << site for site in coming))

    def route(self, difference: Difference, cached: Tensors, renew: Tensors) -> Route:
        """The way from a state to a row.

        Args:
            difference: between them.
            cached: what the state holds.
            renew: tensors that are wanted of the new coalition, where they are lost.
        """
        key = difference.changed, difference.leaving, cached, renew
        found = self._known.get(key)
        if found is None:
            found = self._work_out(difference, cached, renew)
            with self._lock:
                if len(self._known) > _MOST_ROUTES:
                    self._known.clear()
                self._known[key] = found
        return found

    def _work_out(self, difference: Difference, cached: Tensors, renew: Tensors) -> Route:
        if difference == NOTHING_HELD:
            sites, lost = [], self.anatomy.everything & ~self.image
        else:
            sites = [k for k in range(len(self._reach)) if difference.changed >> k & 1]
            lost = 0
            for k in sites:
                lost |= self._reach[k]
        overwritten = tuple(
            k for k in sites if difference.leaving >> k & 1 and self._stands(k, sites, cached)
        )
        here = 0
        for k in overwritten:
            here |= self._kept[k]
        available = (cached & ~lost) | here | self.image
        renewed = renew & ~available
        outputs = (self.anatomy.output, *self.anatomy.names_of(renewed & ~self._output))
        piece = self.anatomy.slice(available, outputs)
        cost = sum(self.compiled.costs[position] for position in piece.nodes)
        return Route(
            piece,
            overwritten,
            cached & ~available,
            renewed,
            tuple(sites) == overwritten,
            any(self.anatomy.reads[position] & self._switch_inputs for position in piece.nodes),
            cost,
        )

    @property
    def _output(self) -> Tensors:
        return self.anatomy.set_of([self.anatomy.output])

    def _stands(self, site: int, changed: list[int], cached: Tensors) -> bool:
        """Whether a site's own tensor can be overwritten while those sites change."""
        overwrite = self.overwrites[site]
        if overwrite is None or not self._kept[site] & cached:
            return False
        others = 0
        for k in changed:
            others |= self._reach[k] if k != site else 0
        added = self.anatomy.set_of([overwrite.added])
        return not self._kept[site] & others and added & cached == added and not added & others

    def _worth_keeping(self) -> Tensors:
        """Tensors from which every site's cone starts."""
        found, anatomy = 0, self.anatomy
        for k, overwrite in enumerate(self.overwrites):
            outside = anatomy.everything & ~self._reach[k]
            start = outside | self._kept[k]
            for t in anatomy.slice(start, (anatomy.output,)).fed:
                found |= 1 << t
            if overwrite is not None:
                found |= anatomy.set_of([overwrite.added])
        return found & ~self.image & ~self._output

    def bytes_of(self, tensors: Tensors) -> int:
        """Bytes per image."""
        shapes = self.compiled.shapes
        return sum(shapes[name].n_bytes for name in self.anatomy.names_of(tensors))

    def affordable(self, bytes_per_image: float) -> Tensors:
        """What is worth keeping, less the largest tensors until the rest fits."""
        names = self.anatomy.names_of(self.worth_keeping)
        names.sort(key=lambda name: (self.compiled.shapes[name].n_bytes, name))
        found, used = 0, 0
        for name in names:
            used += self.compiled.shapes[name].n_bytes
            if used > bytes_per_image:
                break
            found |= self.anatomy.set_of([name])
        return found
