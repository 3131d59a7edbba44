"""Turn rows on the same images into steps: the cheapest way from coalition to coalition.

Costs are estimated from arithmetic alone, so that a plan is the same on every machine; and every
plan gives the same answers, bit for bit, so that it does not matter which is taken.

Three shapes of a round are common. In a *walk* each row lacks a few filters of the row before: the
state follows it. In a *star* all rows lack a few filters of one base: the state stays at the base,
which need not be a row itself. Rows at *random* share nothing but what lies ahead of all sites.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repairkit.core.game import Coalitions
from repairkit.engine.weights.routes import NOTHING_HELD, Route, Routes, Row
from repairkit.graph.coalitions.cones import Tensors

_GAIN = 0.9  # the state follows where that makes the next row cheaper than this share


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
class Plan:
    """Moves in order, and their arithmetic per image."""

    moves: tuple[Move, ...]
    cost: float


def make_plan(
    routes: Routes, rows: Coalitions, start: Start | None, keep: Tensors, last: Row | None = None
) -> Plan:
    """The cheapest plan among those that come to mind.

    Args:
        routes: of the model.
        rows: in the order in which they are answered.
        start: the state that is there, if any.
        keep: what a state that follows a row holds.
        last: the row that was answered last on the same images, if any. A single row is followed
            where it would have helped to have followed that one.
    """
    if len(rows) == 1:
        now = _direct(routes, start, rows[0]).cost
        helped = now if last is None else _direct(routes, Start(last, keep), rows[0]).cost
        follow = min(now, helped) < _GAIN * routes.full.cost
        move, _ = _move(routes, start, 0, rows[0], keep if follow else None)
        return Plan((move,), move.route.cost)
    union: Row = np.logical_or.reduce(rows)
    majority: Row = 2 * rows.sum(axis=0) > len(rows)
    bases = [None, union] if np.array_equal(union, majority) else [None, union, majority]
    plans = [_row_by_row(routes, rows, start, keep, base) for base in bases]
    return min(plans, key=lambda plan: plan.cost)


def _row_by_row(
    routes: Routes, rows: Coalitions, start: Start | None, keep: Tensors, base: Row | None
) -> Plan:
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
    return Plan(tuple(moves), sum(move.route.cost for move in moves))


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
