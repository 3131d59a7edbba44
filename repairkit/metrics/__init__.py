"""Model outputs and annotations to figures; pure."""

from repairkit.metrics.catalogue import METRIC_NAMES, is_user_metric, make_metric
from repairkit.metrics.intervals import difference, evaluate, wilson
from repairkit.metrics.outputs import LOG_FLOOR, OutputForm

__all__ = [
    "LOG_FLOOR",
    "METRIC_NAMES",
    "OutputForm",
    "difference",
    "evaluate",
    "is_user_metric",
    "make_metric",
    "wilson",
]
