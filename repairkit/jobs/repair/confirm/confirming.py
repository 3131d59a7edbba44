"""What images that chose nothing may say against a cure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from repairkit.core.patch import Figure
from repairkit.jobs.repair.objective import Limit, Objective, Target
from repairkit.metrics import falls_beyond, measure_of, told_beyond


def not_sure(objective: Objective, changes: Mapping[str, Figure]) -> str:
    """Why the gain may be chance, by its interval; empty where it is sure."""
    name, sign, promise = objective.metric, objective.sign, changes[objective.metric]
    if min(sign * promise.ci_low, sign * promise.ci_high) > 0:  # NaN is no gain
        return ""
    measure = objective.measure
    low, high = (measure.number(end, signed=True) for end in (promise.ci_low, promise.ci_high))
    change = measure.change(promise.value)
    return f"{name} changes by {change}, which may be chance (95 % interval {low} to {high})"


def broken(
    limits: tuple[Limit, ...],
    targets: tuple[Target, ...],
    changes: Mapping[str, Figure],
    reached: Mapping[str, Figure],
    *,
    max_group_drop: float = 1.0,
) -> Iterator[tuple[str, bool]]:
    """Limits and targets that are not kept: the reason, and whether it is that it costs too much.

    Args:
        limits: what metrics may lose.
        targets: figures to be reached.
        changes: of every metric, with intervals.
        reached: the metrics' figures with the cure.
        max_group_drop: what the accuracy of a group may lose, in [0, 1].
    """
    for limit in limits:
        change = changes[limit.metric]
        if not limit.kept_by(change):
            reason = (
                f"{limit.metric} changes by {measure_of(limit.metric).change(change.value)}, which "
                f"with its standard error is not surely within the {limit.most:g} that it may lose"
            )
            yield reason, True
    beyond = falls_beyond(changes, max_group_drop)
    if beyond:
        yield told_beyond(beyond, max_group_drop), True
    for target in targets:
        figure = reached[target.metric]
        if not target.met_with_caution(figure):
            reason = (
                f"{target.metric} is {measure_of(target.metric).figure(figure.value)}, which with "
                f"its standard error does not surely reach the target {target}"
            )
            yield reason, False
