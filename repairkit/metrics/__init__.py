"""Model outputs and annotations to figures; pure."""

from repairkit.metrics.catalogue import (
    EVERY_RECALL,
    METRIC_NAMES,
    is_user_metric,
    make_metric,
    spell_out,
)
from repairkit.metrics.intervals import difference, evaluate, wilson
from repairkit.metrics.outputs import LOG_FLOOR, OutputForm

__all__ = [
    "EVERY_RECALL",
    "LOG_FLOOR",
    "METRIC_NAMES",
    "OutputForm",
    "difference",
    "evaluate",
    "is_user_metric",
    "make_metric",
    "spell_out",
    "wilson",
]
