"""How far a scoring is, told now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from repairkit.core.scores import Budget, Progress, Run, Spent
from repairkit.estimators.driving.driver import undecided

_SECONDS = 0.3


OnProgress = Callable[[Progress], None] | None
"""Called now and then while filters are scored."""


def reporter(
    on_progress: OnProgress, budget: Budget, n_filters: int
) -> Callable[[Run, Spent], None] | None:
    """Tells `on_progress` now and then, since reading a run costs time."""
    if on_progress is None:
        return None
    due = [0.0]
    first: list[tuple[float, int]] = []

    def report(run: Run, spent: Spent) -> None:
        now = time.monotonic()
        if not first:
            first.append((now, spent.evaluations))
        if now < due[0]:
            return
        rate = (spent.evaluations - first[0][1]) / max(now - first[0][0], 1e-9)
        left, seconds = None, None
        if budget.max_evaluations is not None:
            left = max(budget.max_evaluations - spent.evaluations, 0)
            seconds = left / rate if rate > 0 else None
        if budget.time_limit_seconds is not None:
            remaining = max(budget.time_limit_seconds - spent.seconds, 0.0)
            seconds = remaining if seconds is None else min(seconds, remaining)
        on_progress(Progress(n_filters, undecided(run), spent, rate, left, seconds))
        due[0] = time.monotonic() + _SECONDS

    return report
