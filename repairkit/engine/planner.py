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
from repairkit.engine.routes import Routes, Row
from repairkit.graph.cones import Tensors

_GAIN = 0.9  # the state follows where that makes the next row cheaper than this share


@dataclass(frozen=True)
class Start:
    """A state as the planner sees it."""

    coalition: Row
    cached: Tensors


@dataclass(frozen=True)
class Plan:
    """Rows in order, and after which of them the state follows.

    `base` is a coalition to bring the state to first, None where it stays as it is.
    """

    base: Row | None
    follow: tuple[bool, ...]
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
        now = _cost(routes, start, rows[0])
        before = now if last is None else _cost(routes, Start(last, keep), rows[0])
        return Plan(None, (min(now, before) < _GAIN * routes.full.cost,), now)
    plans = [_follow(routes, rows, start, keep, None)]
    union: Row = np.logical_or.reduce(rows)
    majority: Row = 2 * rows.sum(axis=0) > len(rows)
    bases = [union] if np.array_equal(union, majority) else [union, majority]
    plans += [_follow(routes, rows, start, keep, base) for base in bases]
    return min(plans, key=lambda plan: plan.cost)


def _follow(
    routes: Routes, rows: Coalitions, start: Start | None, keep: Tensors, base: Row | None
) -> Plan:
    """Row by row, following where that makes the next row cheaper."""
    total = 0.0
    if base is not None:
        total += _cost(routes, start, base)
        start = Start(base, keep)
    now = _cost(routes, start, rows[0])
    follow: list[bool] = []
    for i, row in enumerate(rows):
        total += now
        if i + 1 == len(rows):
            follow.append(follow[-1])  # a walk goes on in the next round
            break
        there = Start(row, keep)
        stay, go = _cost(routes, start, rows[i + 1]), _cost(routes, there, rows[i + 1])
        follow.append(go < _GAIN * stay)
        start, now = (there, go) if follow[-1] else (start, stay)
    return Plan(base, tuple(follow), total)


def _cost(routes: Routes, start: Start | None, row: Row) -> float:
    if start is None:
        return routes.full.cost
    difference = routes.difference(start.coalition, row)
    return routes.route(difference, start.cached, 0).cost
