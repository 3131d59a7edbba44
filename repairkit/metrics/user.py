"""Metrics that the user wrote, named `module:function`.

The function is called with the model's raw outputs, the labels and the attributes (name to column,
all of the same images) and returns one number, or one number per image. A function attribute
`score_range = (low, high)` says which numbers it can give. Without it any finite number will do,
and only methods whose intervals follow from such bounds (tmab, marginals) ask for it. More is
better, but where the function has the attribute `greater_is_better = False`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.metric import NUMBER, Measure, ScoreImages
from repairkit.core.process.trust import GivenName, import_named, needed_again, no_exit
from repairkit.metrics.definition import Weights, weigh_evenly

# Rounding may carry a sum of scores this share of the range past its ends.
_ROUNDING = 1e-6
_OPEN = (-math.inf, math.inf)
UserFunction = Callable[..., Any]
"""What the user wrote; nothing is known of it before its results are checked."""


@dataclass(frozen=True, kw_only=True)
class UserMetric:
    """A function of the user's, checked at every call; every image counts the same.

    `worst` is what counts where the model is broken; None where that is not known.
    """

    name: str
    function: UserFunction
    per_image: bool
    score_range: tuple[float, float]
    worst: float | None = None
    measure: Measure = NUMBER

    @property
    def smooth(self) -> ScoreImages | None:
        """Nothing is known of a smooth twin."""
        return None

    def __reduce__(self) -> tuple[object, ...]:
        """A worker on another machine, or in another folder, imports the function anew."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "function"}
        if needed_again(self.name):  # nothing to import
            return _made_of, (type(self), self.function, values)
        return _again, (type(self), Path.cwd(), values)

    @property
    def scorer(self) -> object:
        return self

    def weights(self, annotations: suite.Annotations) -> Weights:
        """Shape (n_images,)."""
        return weigh_evenly(annotations)

    def score(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        """Shape (n_images,) where `per_image` is true, else ().

        A number that is not finite counts as the worst of the range (0, or 1 of a metric of which
        less is better, where no range was given and the first images' numbers lie in [0, 1]) where
        the outputs hold such numbers themselves: a search breaks models on purpose.

        Raises:
            SettingsError: The function failed, or gave another shape, a number that is not
                finite for outputs that are, or one beyond its range.
        """
        scores = call(self.name, self.function, outputs, annotations)
        expected = (len(annotations),) if self.per_image else ()
        if scores.shape != expected:
            raise errors.SettingsError(
                f"metric {self.name} gave shape {scores.shape} and {expected} was expected, as "
                f"at its first call; return one number per image always, or one number always"
            )
        low, high = self.score_range
        broken = ~np.isfinite(scores)
        if broken.any():
            if np.isfinite(outputs).all():
                raise errors.SettingsError(
                    f"metric {self.name} gave {scores[broken].flat[0]} for finite outputs; "
                    f"return a finite number for every image"
                )
            if self.worst is None:
                raise errors.SettingsError(
                    f"metric {self.name} gave {scores[broken].flat[0]} for a model whose outputs "
                    f"are not finite; set {self._short}.score_range = (low, high) beside the "
                    "function, so that such a model counts as the worst of them"
                )
            scores = np.where(broken, self.worst, scores)
        if self.score_range == _OPEN:
            return scores
        slack = _ROUNDING * (high - low)
        if scores.size and not (low - slack <= scores.min() and scores.max() <= high + slack):
            raise errors.SettingsError(
                f"metric {self.name} gave numbers from {scores.min():g} to {scores.max():g} and "
                f"its range is {low:g} to {high:g}; set {self._short}.score_range "
                f"= (low, high) beside the function"
            )
        return np.clip(scores, low, high)

    @property
    def _short(self) -> str:
        return self.name.partition(":")[2]


def user_metric(
    name: str,
    annotations: suite.Annotations,
    sample: suite.Array | None,
    places: NDArray[np.intp] | None = None,
) -> UserMetric:
    """The metric that `module:function` names.

    `sample` holds the raw outputs for the images of `annotations` at `places`, the first ones if
    None; calling the function on them once tells whether it gives one number or one per image.

    Raises:
        SettingsError: There is no such function, or what it gives cannot be used.
    """
    function = _given(name) if isinstance(name, GivenName) else _load(name)
    name = str(name)
    score_range = _score_range(name, function)
    if sample is None or not len(sample):
        raise errors.SettingsError(
            f"metric {name} can only be tried out on outputs and none were given; pass `sample`"
        )
    # One image twice, so that a row of numbers cannot be taken for a single one.
    positions = np.arange(len(sample)) if len(sample) > 1 else np.zeros(2, np.intp)
    outputs = sample[positions % len(sample)]
    some = annotations.take(positions if places is None else places[positions % len(places)])
    shape = call(name, function, outputs, some).shape
    if shape not in {(), (len(some),)}:
        raise errors.SettingsError(
            f"metric {name} gave shape {shape} for {len(some)} images; return one number, or "
            f"one per image: shape ({len(some)},)"
        )
    more = _direction(name, function)
    end = score_range[0 if more else 1]
    worst = end if math.isfinite(end) else None
    metric = UserMetric(
        name=name,
        function=function,
        per_image=shape != (),
        score_range=score_range,
        worst=worst,
        measure=Measure(words=name, greater_is_better=more),
    )
    scores = metric.score(outputs, some)
    if worst is None and scores.size and scores.min() >= 0 and scores.max() <= 1:
        return replace(metric, worst=0.0 if more else 1.0)
    return metric


def call(
    name: str, function: UserFunction, outputs: suite.Array, annotations: suite.Annotations
) -> NDArray[np.float64]:
    """What the function returns, as an array; SettingsError where it fails or is no number."""
    try:
        with no_exit(f"metric {name}", errors.SettingsError):
            result = function(outputs, annotations.labels, dict(annotations.attributes))
        return np.asarray(result, dtype=np.float64)
    except errors.RepairkitError:
        raise
    except Exception as error:
        raise errors.SettingsError(
            f"metric {name} failed on {len(annotations)} images with outputs of shape "
            f"{np.shape(outputs)}: {type(error).__name__}: {error}; it is called with (outputs, "
            f"labels, attributes) and returns numbers"
        ) from error


def _made_of(kind: type[UserMetric], function: UserFunction, values: dict[str, Any]) -> UserMetric:
    return kind(function=function, **values)


def _again(kind: type[UserMetric], folder: Path, values: dict[str, Any]) -> UserMetric:
    return kind(function=_load(values["name"], folder), **values)


def _given(name: GivenName) -> UserFunction:
    if not callable(name.target):
        raise errors.SettingsError(
            f"metric {name} is a {type(name.target).__name__}; give a function of (outputs, "
            "labels, attributes)"
        )
    function: UserFunction = name.target
    return function


def _load(name: str, folder: Path | None = None) -> UserFunction:
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name or module_name.startswith("."):
        raise errors.SettingsError(f"metric {name!r} is incomplete; write module:function")
    try:
        with no_exit(f"metric {name}", errors.SettingsError):
            module = import_named(module_name, folder)
    except errors.RepairkitError:
        raise
    except Exception as error:
        if needed_again(name):
            raise errors.SettingsError(needed_again(name)) from error
        raise errors.SettingsError(
            f"module {module_name!r} of metric {name} cannot be imported ({type(error).__name__}: "
            f"{error}); run where {module_name.partition('.')[0]}.py lies, or install it; the "
            f"metrics that need no module are in `repairkit list metrics`"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        fault = "has no function" if function is None else "holds, but not as a function,"
        raise errors.SettingsError(
            f"module {module_name!r} {fault} {function_name!r}; check the name after the colon"
        )
    loaded: UserFunction = function
    return loaded


def _score_range(name: str, function: UserFunction) -> tuple[float, float]:
    given = getattr(function, "score_range", None)
    if given is None:
        return _OPEN
    try:
        low, high = (float(end) for end in given)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise errors.SettingsError(
            f"score_range of metric {name} is {given!r}; make it two finite numbers, the least "
            f"and the greatest that the function can give"
        )
    return low, high


def _direction(name: str, function: UserFunction) -> bool:
    given = getattr(function, "greater_is_better", True)
    if not isinstance(given, bool | np.bool_):
        raise errors.SettingsError(
            f"greater_is_better of metric {name} is {given!r}; make it True, or False where less "
            f"is better"
        )
    return bool(given)
