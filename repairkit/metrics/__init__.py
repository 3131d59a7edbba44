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
from repairkit.metrics.smooth import figure_of, smooth_figure

__all__ = [
    "EVERY_RECALL",
    "LOG_FLOOR",
    "METRIC_NAMES",
    "OutputForm",
    "difference",
    "evaluate",
    "figure_of",
    "is_user_metric",
    "make_metric",
    "smooth_figure",
    "spell_out",
    "wilson",
]
