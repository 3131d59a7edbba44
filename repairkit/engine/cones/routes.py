"""From one coalition to another: which nodes must run again, what that costs, and in which order.

A state holds tensors of one coalition. For another coalition, which differs in the filters of some
sites, the tensors that these sites reach are invalid and the rest stays valid. Where filters only
leave a site, their lanes in the state's tensor are overwritten, and the site's convolution need not
run either.

A plan turns rows on the same images into moves. Costs are estimated from arithmetic alone, so that
a plan is the same on every machine; and every plan gives the same answers, bit for bit.

Three shapes of a round are common. In a *walk* each row lacks a few filters of the row before: the
state follows it. In a *star* all rows lack a few filters of one base: the state stays at the base,
which need not be a row itself. Rows at *random* share only what lies before all sites.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core import filters, game, suite
from repairkit.graph.coalitions.cones import Anatomy, Shape, Slice, Switch, Tensors

Sites = int
"""A set of sites; bit k is set where the game's site k belongs to it."""

Row = NDArray[np.bool_]
_MOST_ROUTES = 20_000
_GAIN = 0.9  # the state follows where that makes the next row cheaper than this share


@dataclass(frozen=True)
class Overwrite:
    """How the yield of an absent filter is written into a cached tensor, without its convolution.

    `tensor` holds the yield of the site's filters, as far behind the site as channels stay apart.
    Where nothing was added on the way, `absent` (n_blocks, n_positions, block) is what their lanes
    hold. Else these hold the level plus the lanes of `added`, cut off below zero where `relu`.
    """

    tensor: str
    block: int
    absent: suite.Array | None
    added: str = ""
    relu: bool = False


@dataclass(frozen=True)
class SiteDifference:
    """The sites in which a row differs from a state; in those of `leaving` no filter comes back."""

    changed: Sites
    leaving: Sites


NOTHING_HELD = SiteDifference(-1, 0)
"""Where there is no state."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """How a state answers a row.

    `overwritten` are the sites whose lanes are written before `piece` runs; `lost` are the
    tensors that are then no longer the state's, `renewed` those among the outputs of `piece`.
    `by_overwriting`: overwritten lanes are all that differs between the two coalitions.
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
        anatomy: of the optimised graph.
        roster: the game's filters.
        switches: one for every site of the roster.
        shapes: of the tensors, for one image.
        costs: multiplications of every node.
        overwrites: for every site how absent filters are overwritten; None where the site's
            convolution always runs.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        roster: filters.Roster,
        switches: tuple[Switch, ...],
        *,
        shapes: Mapping[str, Shape],
        costs: Sequence[float],
        overwrites: tuple[Overwrite | None, ...],
    ) -> None:
        self.anatomy, self.overwrites = anatomy, overwrites
        self._shapes, self._costs = shapes, costs
        self.image = anatomy.set_of([anatomy.image])
        self._switch_inputs = {n for s in switches for n in (s.kernel, s.bias) if n}
        self._site_of = np.repeat(
            np.arange(len(switches)), [site.n_channels for site in roster.sites]
        )
        self._kept: list[Tensors] = []  # where each site's yield can be overwritten
        self._reach: list[Tensors] = []  # what depends on a site, its yield included
        for switch, overwrite in zip(switches, overwrites, strict=True):
            start = anatomy.set_of([switch.tensor])
            self._reach.append(start | anatomy.reached(start))
            self._kept.append(0 if overwrite is None else anatomy.set_of([overwrite.tensor]))
        self._known: dict[tuple[Sites, Sites, Tensors, Tensors], Route] = {}
        self._lock = threading.Lock()
        self.full = self.route(NOTHING_HELD, 0, 0)
        self.worth_keeping = self._worth_keeping()

    def difference(self, held: Row, wanted: Row) -> SiteDifference:
        """In which sites a wanted row differs from the coalition that is held."""
        columns = np.flatnonzero(held != wanted)
        coming = set(self._site_of[columns[wanted[columns]]].tolist())
        sites = set(self._site_of[columns].tolist())
        changed = sum(1 << site for site in sites)
        return SiteDifference(changed, changed - sum(1 << site for site in coming))

    def route(self, difference: SiteDifference, cached: Tensors, renew: Tensors) -> Route:
        """The way from a state to a row.

        Args:
            difference: between them.
            cached: what the state holds.
            renew: tensors that are wanted of the new coalition, where they are lost.
        """
        key = difference.changed, difference.leaving, cached, renew
        route = self._known.get(key)
        if route is None:
            route = self._work_out(difference, cached, renew)
            with self._lock:
                if len(self._known) > _MOST_ROUTES:
                    self._known.clear()
                self._known[key] = route
        return route

    def _work_out(self, difference: SiteDifference, cached: Tensors, renew: Tensors) -> Route:
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
        cost = sum(self._costs[position] for position in piece.nodes)
        return Route(
            piece=piece,
            overwritten=overwritten,
            lost=cached & ~available,
            renewed=renewed,
            by_overwriting=tuple(sites) == overwritten,
            reads_switches=any(
                self.anatomy.reads[position] & self._switch_inputs for position in piece.nodes
            ),
            cost=cost,
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
        tensors, anatomy = 0, self.anatomy
        for k, overwrite in enumerate(self.overwrites):
            outside = anatomy.everything & ~self._reach[k]
            start = outside | self._kept[k]
            for t in anatomy.slice(start, (anatomy.output,)).fed:
                tensors |= 1 << t
            if overwrite is not None:
                tensors |= anatomy.set_of([overwrite.added])
        return tensors & ~self.image & ~self._output

    def bytes_of(self, tensors: Tensors) -> int:
        """Bytes per image."""
        return sum(self._shapes[name].n_bytes for name in self.anatomy.names_of(tensors))

    def affordable(self, bytes_per_image: float) -> Tensors:
        """What is worth keeping, less the largest tensors until the rest fits."""
        names = self.anatomy.names_of(self.worth_keeping)
        names.sort(key=lambda name: (self._shapes[name].n_bytes, name))
        tensors, used = 0, 0
        for name in names:
            used += self._shapes[name].n_bytes
            if used > bytes_per_image:
                break
            tensors |= self.anatomy.set_of([name])
        return tensors


@dataclass(frozen=True)
class Start:
    """A state as the planner sees it."""

    coalition: Row
    cached: Tensors


@dataclass(frozen=True)
class Move:
    """A row to be answered by a route; the state then follows it or stays where it is.

    `number` is the row's among those planned for, None where only the state is to get there.
    """

    number: int | None
    row: Row
    route: Route
    follow: bool


@dataclass(frozen=True)
class RoutePlan:
    """Moves in order, and their arithmetic per image."""

    moves: tuple[Move, ...]
    cost: float


def make_plan(
    routes: Routes,
    rows: game.Coalitions,
    start: Start | None,
    keep: Tensors,
    last: Row | None = None,
) -> RoutePlan:
    """The cheapest of three plans: no base, union base, majority base.

    Args:
        routes: of the model.
        rows: in the order in which they are answered.
        start: the state that is there, if any.
        keep: what a state that follows a row holds.
        last: the row that was answered last on the same images, if any. A single row is followed
            if following that one would have made it cheaper.
    """
    if len(rows) == 1:
        now = _direct(routes, start, rows[0]).cost
        helped = now if last is None else _direct(routes, Start(last, keep), rows[0]).cost
        follow = min(now, helped) < _GAIN * routes.full.cost
        move, _ = _move(routes, start, 0, rows[0], keep if follow else None)
        return RoutePlan((move,), move.route.cost)
    union: Row = np.logical_or.reduce(rows)
    majority: Row = 2 * rows.sum(axis=0) > len(rows)
    bases = [None, union] if np.array_equal(union, majority) else [None, union, majority]
    plans = [_row_by_row(routes, rows, start, keep, base) for base in bases]
    return min(plans, key=lambda plan: plan.cost)


def _row_by_row(
    routes: Routes, rows: game.Coalitions, start: Start | None, keep: Tensors, base: Row | None
) -> RoutePlan:
    """Follow a row where that makes the next one cheaper."""
    moves: list[Move] = []
    if base is not None:
        move, start = _move(routes, start, None, base, keep)
        moves.append(move)
    follow = False
    for number, row in enumerate(rows):
        if number + 1 < len(rows):  # where there is no next row, a walk goes on as it was
            stay = _direct(routes, start, rows[number + 1]).cost
            go = _direct(routes, Start(row, keep), rows[number + 1]).cost
            follow = go < _GAIN * stay
        move, start = _move(routes, start, number, row, keep if follow else None)
        moves.append(move)
    return RoutePlan(tuple(moves), sum(move.route.cost for move in moves))


def _move(
    routes: Routes, start: Start | None, number: int | None, row: Row, keep: Tensors | None
) -> tuple[Move, Start | None]:
    """A move, which the state follows where `keep` is given, and the state behind it."""
    cached = 0 if start is None else start.cached
    difference = NOTHING_HELD if start is None else routes.difference(start.coalition, row)
    route = routes.route(difference, cached, 0 if keep is None else keep)
    move = Move(number, row, route, keep is not None)
    return move, start if keep is None else Start(row, cached & ~route.lost | route.renewed)


def _direct(routes: Routes, start: Start | None, row: Row) -> Route:
    """The route to a row that is not followed."""
    if start is None:
        return routes.full
    return routes.route(routes.difference(start.coalition, row), start.cached, 0)
