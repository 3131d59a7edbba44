"""Model outputs and annotations to figures; pure."""

from repairkit.core.attacked import ADVERSARIAL, TARGET, is_attacked
from repairkit.metrics.catalogue import (
    EVERY_RECALL,
    METRIC_NAMES,
    is_user_metric,
    make_metric,
    spell_out,
)
from repairkit.metrics.groups import check_defined
from repairkit.metrics.outputs import LOG_FLOOR, OutputForm
from repairkit.metrics.robustness import (
    ATTACK_SUCCESS,
    CLEAN_ACCURACY,
    ROBUSTNESS,
    ROBUSTNESS_LOSS,
    adversarial,
)
from repairkit.metrics.smooth import FigureOfImages, FigureOfOutputs, figure_of, smooth_figure
from repairkit.metrics.statistics.intervals import difference, evaluate, wilson
from repairkit.metrics.statistics.limits import falls_beyond, groups_beyond, told_beyond
from repairkit.metrics.statistics.paired import Change, Discordant, binomial_tail, paired_change

__all__ = [
    "ADVERSARIAL",
    "ATTACK_SUCCESS",
    "CLEAN_ACCURACY",
    "EVERY_RECALL",
    "LOG_FLOOR",
    "METRIC_NAMES",
    "ROBUSTNESS",
    "ROBUSTNESS_LOSS",
    "TARGET",
    "Change",
    "Discordant",
    "FigureOfImages",
    "FigureOfOutputs",
    "OutputForm",
    "adversarial",
    "binomial_tail",
    "check_defined",
    "difference",
    "evaluate",
    "falls_beyond",
    "figure_of",
    "groups_beyond",
    "is_attacked",
    "is_user_metric",
    "make_metric",
    "paired_change",
    "smooth_figure",
    "spell_out",
    "told_beyond",
    "wilson",
]
