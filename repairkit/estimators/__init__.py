"""Who helps and who harms: the driver and the algorithms that it drives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from repairkit.core.scores import Estimator
from repairkit.estimators import loading
from repairkit.estimators.checkpoint import CheckpointStore
from repairkit.estimators.checks import unknown
from repairkit.estimators.driver import Estimation, estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.leave_one_out import LeaveOneOut
from repairkit.estimators.permutation import Permutation
from repairkit.estimators.random_scores import RandomScores
from repairkit.estimators.tmab import Tmab

__all__ = [
    "ESTIMATORS",
    "CheckpointStore",
    "Estimation",
    "Exact",
    "LeaveOneOut",
    "Permutation",
    "RandomScores",
    "Tmab",
    "estimate",
    "make_estimator",
]

ESTIMATORS: Mapping[str, type] = MappingProxyType(
    {
        "exact": Exact,
        "permutation": Permutation,
        "tmab": Tmab,
        "leave-one-out": LeaveOneOut,
        "random": RandomScores,
    }
)
"""Every estimator by name; `module:object` is one of the user's own."""


def make_estimator(name: str, **settings: Any) -> Estimator:
    """The estimator called `name`, with settings of its own.

    Raises:
        SettingsError: the name or a setting is unknown, or a value makes no sense.
    """
    if ":" in name:
        return loading.load(name, settings)
    if name not in ESTIMATORS:
        raise unknown("estimator", name, ESTIMATORS, " or module:object")
    return loading.build(name, ESTIMATORS[name], settings)
