"""Who helps and who harms: the driver and the algorithms that it drives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from repairkit.core.scores import Estimator
from repairkit.estimators import loading
from repairkit.estimators.auto import Auto
from repairkit.estimators.checks import unknown
from repairkit.estimators.driving.checkpoint import CheckpointStore
from repairkit.estimators.driving.driver import Estimation, estimate, scores_on, undecided
from repairkit.estimators.exact import Exact
from repairkit.estimators.leave_one_out import LeaveOneOut
from repairkit.estimators.linear.regression import FEW_PLAYERS, Regression
from repairkit.estimators.linear.repair import RepairRegression
from repairkit.estimators.linear.ridge import LEAST_ROWS
from repairkit.estimators.random_scores import RandomScores
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import PAPER, Tmab

__all__ = [
    "ESTIMATORS",
    "FEW_PLAYERS",
    "LEAST_ROWS",
    "PAPER",
    "Auto",
    "CheckpointStore",
    "Estimation",
    "Exact",
    "LeaveOneOut",
    "Marginals",
    "Permutation",
    "RandomScores",
    "Regression",
    "RepairRegression",
    "Tmab",
    "estimate",
    "make_estimator",
    "scores_on",
    "undecided",
]

ESTIMATORS: Mapping[str, type] = MappingProxyType(
    {
        "auto": Auto,
        "exact": Exact,
        "permutation": Permutation,
        "tmab": Tmab,
        "regression": Regression,
        "repair": RepairRegression,
        "marginals": Marginals,
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
