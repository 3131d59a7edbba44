"""Metrics of clean images and the adversarial ones made of them, told apart by two columns.

`adversarial` is 1 for an image that an attack made, and `target` the class that the attack wants it
to be taken for. Scores are shifted so that clean and adversarial images have the same range: the
shifts cancel, for either kind weighs one half.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, errors, metric, suite
from repairkit.core.outputs import LOG_FLOOR, OutputForm
from repairkit.metrics import definition

_ATTACKED: frozenset[definition.Need] = frozenset({"classes", "attack"})


def check_targets(annotations: suite.Annotations, n_classes: int) -> None:
    """Refuse targets that are no class of the model.

    Raises:
        SettingsError: the data has no targets.
        DataError: there is one.
    """
    made = attacked.adversarial(annotations)
    targets = annotations.attributes[attacked.TARGET][made]
    if ((targets < 0) | (targets >= n_classes)).any():
        raise errors.DataError(
            f"the column {attacked.TARGET} names classes from {targets.min()} to {targets.max()} "
            f"and the model has those from 0 to {n_classes - 1}; attack this model with "
            "repairkit attack"
        )


@dataclass(frozen=True)
class TargetHits:
    """1 for an image whose likeliest class is the attack's target, else 0."""

    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        hits = self.form.predictions(outputs) == annotations.attributes[attacked.TARGET]
        return np.asarray(hits, np.float64)


@dataclass(frozen=True)
class SuccessLessAccuracy:
    """1 where an attack succeeds or a clean image is missed, else -1."""

    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        predictions = self.form.predictions(outputs)
        made = attacked.adversarial(annotations)
        hits_target = predictions == annotations.attributes[attacked.TARGET]
        good_for_adversary = np.where(made, hits_target, predictions != annotations.labels)
        return np.where(good_for_adversary, 1.0, -1.0)


@dataclass(frozen=True)
class Persuasion:
    """How unlikely a clean image's class is, or any but an adversarial one's target; logarithms."""

    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        rows = np.arange(len(outputs))
        of_class = self.form.log_probabilities(outputs)[rows, annotations.labels]
        made = attacked.adversarial(annotations)
        targets = np.where(made, annotations.attributes[attacked.TARGET], 0)
        of_others = definition.log_likelihoods_of_others(self.form, outputs, targets)
        likely: NDArray[np.float64] = np.where(made, of_others, of_class)
        return 0.0 - likely


@dataclass(frozen=True, kw_only=True)
class SuccessAboveFloor:
    """The attack's success while clean accuracy keeps a floor; range [0, 2].

    V = A where C >= f, else 2 - C / f. A is the success on adversarial images, C the accuracy on
    clean ones, f the floor. So below the floor V is above 1, worse than an attack that always
    succeeds, and the worse, the less of the model is left. It is no mean over images: what an image
    adds depends on all others.
    """

    name: str
    measure: metric.Measure
    form: OutputForm
    floor: float
    smooth: metric.ScoreImages | None = None
    per_image: ClassVar[bool] = False
    score_range: ClassVar[tuple[float, float]] = (0.0, 2.0)

    @property
    def scorer(self) -> object:
        return self

    def weights(self, annotations: suite.Annotations) -> definition.Weights:
        """Shape (n_images,); DataError where no image is clean, or none adversarial."""
        return _both_kinds(annotations)

    def score(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        """Shape ()."""
        made = attacked.adversarial(annotations)
        predictions = self.form.predictions(outputs)
        hits_target = predictions[made] == annotations.attributes[attacked.TARGET][made]
        clean = float((predictions == annotations.labels)[~made].mean())
        above = clean >= self.floor
        return np.asarray(hits_target.mean() if above else 2.0 - clean / self.floor)


def read_floor(name: str) -> float:
    """The floor that the name of a metric ends with, such as `robustness_above:0.7`.

    Raises:
        SettingsError: it is no number above 0 and at most 1.
    """
    text = name.partition(":")[2]
    try:
        floor = float(text)
    except ValueError:
        floor = math.nan
    if not 0 < floor <= 1:
        raise errors.SettingsError(
            f"{name}: the floor of clean accuracy is {text!r}; give a number above 0 and at most "
            f"1, such as {ROBUSTNESS_ABOVE.name}:0.7"
        )
    return floor


def _both_kinds(annotations: suite.Annotations) -> definition.Weights:
    """Clean images share one half, adversarial ones the other; DataError where one is missing."""
    made = attacked.adversarial(annotations)
    halves = _one_kind(False, annotations), _one_kind(True, annotations)
    return np.where(made, halves[1], halves[0]) / 2


def _one_kind(wanted: bool, annotations: suite.Annotations) -> definition.Weights:
    """Images of one kind share everything; DataError where there is none."""
    kind = "adversarial" if wanted else "clean"
    return definition.weigh_members(
        attacked.adversarial(annotations) == wanted,
        f"{kind}; give this part of the data clean and adversarial images, as repairkit attack "
        "makes them",
    )


def _robustness(case: definition.Case) -> definition.ImageMetric:
    scores, smooth = SuccessLessAccuracy(case.form), Persuasion(case.form)
    return definition.ImageMetric.of(case, scores, _both_kinds, (-1.0, 1.0), smooth=smooth)


def _robustness_loss(case: definition.Case) -> definition.ImageMetric:
    return definition.ImageMetric.of(case, Persuasion(case.form), _both_kinds, (0.0, -LOG_FLOOR))


def _attack_success(case: definition.Case) -> definition.ImageMetric:
    return definition.ImageMetric.of(
        case, TargetHits(case.form), partial(_one_kind, True), (0.0, 1.0)
    )


ROBUSTNESS = definition.Definition(
    name="robustness",
    measure=metric.Measure(
        words="adversary's success less clean accuracy",
        greater_is_better=False,
        unit="share",
        ends=(-1.0, 1.0),
    ),
    make=_robustness,
    needs=_ATTACKED,
    searched_by=("robustness_loss", "robustness"),
)
"""The adversary's success less the accuracy on clean images; range [-1, 1].

The more, the worse: filters of the most positive value are those to freeze. With one or the other
filter, it moves by 2 at the most in either direction, so a marginal's range is 4 wide (Ghorbani &
Zou, "Neuron Shapley", NeurIPS 2020, section 4.3).
"""

ROBUSTNESS_LOSS = definition.Definition(
    name="robustness_loss",
    measure=metric.Measure(words="loss of robustness", greater_is_better=False),
    make=_robustness_loss,
    needs=_ATTACKED,
)
"""`robustness` on a smooth scale; range [0, -LOG_FLOOR], and the more, the worse.

Less the mean of two log-likelihoods: that a clean image is of its class, and that an adversarial
one is not of the attack's target.
"""

ROBUSTNESS_ABOVE = definition.Definition(
    name="robustness_above",
    measure=metric.Measure(
        words="attack success, with a floor of {} on clean accuracy",
        greater_is_better=False,
        ends=(0.0, 2.0),
    ),
    make=lambda case: SuccessAboveFloor(
        name=case.name, measure=case.measure, form=case.form, floor=read_floor(case.name)
    ),
    needs=_ATTACKED,
    takes="FLOOR",
    searched_by=(ROBUSTNESS_LOSS.name,),
)
"""The attack's success while clean accuracy keeps a floor; see `SuccessAboveFloor`.

The more, the worse. A model that answers nothing right has V = 2, so that breaking it gains
nothing, and accuracy beyond the floor earns nothing.
"""

CLEAN_ACCURACY = definition.Definition(
    name="clean_accuracy",
    measure=metric.Measure(words="clean accuracy", unit="share", ends=(0.0, 1.0)),
    make=lambda case: definition.share_of_hits(case, partial(_one_kind, False)),
    needs=_ATTACKED,
)
"""The accuracy on the images that no attack made."""

ATTACK_SUCCESS = definition.Definition(
    name="attack_success",
    measure=metric.Measure(
        words="attack success", greater_is_better=False, unit="share", ends=(0.0, 1.0)
    ),
    make=_attack_success,
    needs=_ATTACKED,
)
"""The share of adversarial images that are taken for their target."""
