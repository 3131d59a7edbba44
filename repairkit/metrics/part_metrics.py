"""Metrics of some of the images, and of all others: what `--fix` and `--forget` repair and keep.

The images to fix are those whose column `to_fix` is 1. A class to forget is to be found no longer,
so less of its recall is better. For each there is the accuracy of the images that it leaves out,
which a repair may hardly lower, and losses whose values tell which filters to freeze.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from repairkit.core import marked, suite
from repairkit.core.metric import Measure
from repairkit.core.outputs import LOG_FLOOR, OutputForm
from repairkit.metrics import definition


def _share(words: str, *, more_is_better: bool = True) -> Measure:
    return Measure(words=words, unit="share", ends=(0.0, 1.0), greater_is_better=more_is_better)


def _loss(words: str) -> Measure:
    return Measure(words=words, greater_is_better=False)


def _weigh_marked(wanted: bool, annotations: suite.Annotations) -> definition.Weights:
    """Images to fix, or all others, share everything; DataError where there is none of them."""
    missing = "to be fixed; mark some" if wanted else "one to keep; leave some unmarked"
    members = marked.to_fix(annotations) == wanted
    return definition.weigh_members(members, f"{missing}, or give this part of the data more")


def _weigh_other_classes(number: int, annotations: suite.Annotations) -> definition.Weights:
    """Images of all classes but one share everything; DataError where there is none of them."""
    return definition.weigh_members(
        annotations.labels != number,
        f"of a class other than {definition.class_name(annotations, number)}; give this part of "
        "the data some",
    )


@dataclass(frozen=True)
class Recognition:
    """How unlikely an image makes all classes but its own: -log(1 - p) for probability p."""

    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        return 0.0 - definition.log_likelihoods_of_others(self.form, outputs, annotations.labels)


def _recall_left(case: definition.Case) -> definition.ImageMetric:
    weigh = partial(definition.weigh_class, case.number)
    smooth = Recognition(case.form)
    return definition.ImageMetric.of(
        case, definition.Hits(case.form), weigh, (0.0, 1.0), smooth=smooth
    )


ACCURACY_TO_FIX = definition.Definition(
    name="accuracy_to_fix",
    measure=_share("accuracy on the images to fix"),
    make=lambda case: definition.share_of_hits(case, partial(_weigh_marked, True)),
    needs=frozenset({"classes", "marks"}),
    searched_by=("loss_to_fix", "loss_elsewhere"),
    beside="accuracy_elsewhere",
)
"""The share of right answers among the images to fix."""

ACCURACY_ELSEWHERE = definition.Definition(
    name="accuracy_elsewhere",
    measure=_share("accuracy on all other images"),
    make=lambda case: definition.share_of_hits(case, partial(_weigh_marked, False)),
    needs=frozenset({"classes", "marks"}),
)
"""The share of right answers among the images that are not to be fixed."""

LOSS_TO_FIX = definition.Definition(
    name="loss_to_fix",
    measure=_loss("loss on the images to fix"),
    make=lambda case: definition.mean_surprise(case, partial(_weigh_marked, True)),
    needs=frozenset({"classes", "marks"}),
)
"""The loss on the images to fix."""

LOSS_ELSEWHERE = definition.Definition(
    name="loss_elsewhere",
    measure=_loss("loss on all other images"),
    make=lambda case: definition.mean_surprise(case, partial(_weigh_marked, False)),
    needs=frozenset({"classes", "marks"}),
)
"""The loss on the images that are not to be fixed."""

RECALL_LEFT = definition.Definition(
    name="recall_left",
    takes="CLASS",
    measure=_share("recall of {} that is left", more_is_better=False),
    make=_recall_left,
    searched_by=("forgetting_loss:{}", "loss_of_others:{}"),
    beside="accuracy_of_others:{}",
    gives_up=True,
)
"""The recall of a class that is to be forgotten: the less, the better."""

FORGETTING_LOSS = definition.Definition(
    name="forgetting_loss",
    takes="CLASS",
    measure=_loss("how surely {} is recognised"),
    make=lambda case: definition.ImageMetric.of(
        case,
        Recognition(case.form),
        partial(definition.weigh_class, case.number),
        (0.0, -LOG_FLOOR),
    ),
)
"""`recall_left` on a smooth scale: less the mean log-likelihood that an image is not of its class.

It is steep where the class is recognised surely and flat where it is not, so that nothing more is
gained once a class is missed.
"""

ACCURACY_OF_OTHERS = definition.Definition(
    name="accuracy_of_others",
    takes="CLASS",
    measure=_share("accuracy on the classes beside {}"),
    make=lambda case: definition.share_of_hits(case, partial(_weigh_other_classes, case.number)),
)
"""The share of right answers among the images of all classes but one."""

LOSS_OF_OTHERS = definition.Definition(
    name="loss_of_others",
    takes="CLASS",
    measure=_loss("loss on the classes beside {}"),
    make=lambda case: definition.mean_surprise(case, partial(_weigh_other_classes, case.number)),
)
"""The loss on the images of all classes but one."""
