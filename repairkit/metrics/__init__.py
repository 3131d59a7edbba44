"""Model outputs and annotations to figures; pure."""

from repairkit.core.attacked import ADVERSARIAL, TARGET, adversarial, is_attacked
from repairkit.core.outputs import LOG_FLOOR, OutputForm
from repairkit.metrics.catalogue import (
    METRIC_NAMES,
    METRICS,
    definition_of,
    is_user_metric,
    make_metric,
    measure_of,
    spell_out,
)
from repairkit.metrics.chance import Discordant, binomial_tail
from repairkit.metrics.evaluation import (
    difference,
    evaluate,
    falls_beyond,
    groups_beyond,
    told_beyond,
    wilson,
)
from repairkit.metrics.figures import (
    Change,
    FigureOfImages,
    FigureOfOutputs,
    figure_of,
    paired_change,
    smooth_figure,
)
from repairkit.metrics.group_metrics import check_defined

__all__ = [
    "ADVERSARIAL",
    "LOG_FLOOR",
    "METRICS",
    "METRIC_NAMES",
    "TARGET",
    "Change",
    "Discordant",
    "FigureOfImages",
    "FigureOfOutputs",
    "OutputForm",
    "adversarial",
    "binomial_tail",
    "check_defined",
    "definition_of",
    "difference",
    "evaluate",
    "falls_beyond",
    "figure_of",
    "groups_beyond",
    "is_attacked",
    "is_user_metric",
    "make_metric",
    "measure_of",
    "paired_change",
    "smooth_figure",
    "spell_out",
    "told_beyond",
    "wilson",
]
