"""Which filters serve two classes or groups: both, one of them, or neither.

A filter is *of* a set of images where its value for the accuracy on them is surely above zero. All
statements are made together: two tests for each filter, one for each set, corrected for their
number by Holm's step-down (Holm 1979, Scandinavian Journal of Statistics 6). The paper calls
filters of one class alone class-specific.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors
from repairkit.core.process.text import did_you_mean
from repairkit.formats.looks import atlas_file as file
from repairkit.jobs.atlas.values_by import ValueColumn, ValuesBy

LEVEL = 0.05
_ROUNDING = 1e-9
RULE = (
    "a filter is of a class or group where its value for the accuracy on these images is surely "
    "above zero: a two-sided normal test of value by standard error, two for each filter, all "
    "together at 5 % by Holm's correction. Not surely above zero is not the same as surely not "
    "above: with more images or a larger budget more filters are sure"
)


def shared_filters(known: ValuesBy, between: Sequence[str]) -> file.SharedFilters | None:
    """The filters of two classes or groups; None where fewer than two are known.

    Args:
        known: values by class and group.
        between: names of two classes or groups; the two whose values differ most if empty.

    Raises:
        SettingsError: one of them is not known.
    """
    pair = _named(known, between) if between else _furthest(known)
    if pair is None:
        return None
    signs = sure_signs(
        np.stack([column.values for column in pair]), np.stack([column.errors for column in pair])
    )
    above = signs > 0
    words = {
        (True, True): "both",
        (True, False): "a",
        (False, True): "b",
        (False, False): "neither",
    }
    of = [words[bool(a), bool(b)] for a, b in above.T]
    filters: list[file.SharedFilter] = [
        {
            "filter": name,
            "a": pair[0].figure(number),
            "b": pair[1].figure(number),
            "sign_a": int(signs[0, number]),
            "sign_b": int(signs[1, number]),
            "of": of[number],  # type: ignore[typeddict-item]
        }
        for number, name in enumerate(known.filters)
    ]
    return {
        "a": pair[0].images,
        "b": pair[1].images,
        "confidence": 1 - LEVEL,
        "rule": RULE,
        "counts": {name: of.count(name) for name in ("both", "a", "b", "neither")},
        "below_a": int((signs[0] < 0).sum()),
        "below_b": int((signs[1] < 0).sum()),
        "filters": filters,
    }


def sure_signs(values: NDArray[np.float64], errors_: NDArray[np.float64]) -> NDArray[np.int64]:
    """1, -1 or 0 for each value: surely above zero, surely below, or neither.

    Holm's step-down over all of them at 5 %. A value without an error (of an exact method) is sure
    unless it is zero but for rounding; one whose error is not known is never sure.

    Args:
        values: of any shape.
        errors_: standard errors, of the same shape.
    """
    nothing = np.abs(values) <= _ROUNDING * np.abs(values).max(initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(nothing, 0.0, np.abs(values) / errors_)
    ratios = np.where(np.isfinite(errors_) & np.isfinite(values), ratios, 0.0)
    chances = np.array([math.erfc(ratio / math.sqrt(2)) for ratio in ratios.ravel()])
    order = np.argsort(chances, kind="stable")
    limits = LEVEL / (len(chances) - np.arange(len(chances)))
    passed = np.logical_and.accumulate(chances[order] <= limits)
    sure = np.zeros(len(chances), bool)
    sure[order] = passed
    return np.where(sure.reshape(values.shape), np.sign(values), 0).astype(np.int64)


def _named(known: ValuesBy, between: Sequence[str]) -> tuple[ValueColumn, ValueColumn]:
    by_name = {column.name: column for column in known.columns}
    for name in between:
        if name not in by_name:
            raise errors.SettingsError(
                f"--between {name!r}: no values are known for it"
                f"{did_you_mean(name, list(by_name)) if by_name else ''}; known are "
                f"{', '.join(map(repr, by_name)) or 'none'}"
            )
    if len(set(between)) != 2:
        raise errors.SettingsError(
            f"--between names {len(set(between))} classes or groups; name two, such as "
            f"{','.join(list(by_name)[:2])}"
        )
    return by_name[between[0]], by_name[between[1]]


def _furthest(known: ValuesBy) -> tuple[ValueColumn, ValueColumn] | None:
    """The two groups, or else classes, whose values differ most beyond their errors."""
    for kind in ("group", "class"):
        columns = [column for column in known.columns if column.kind == kind]
        if len(columns) > 1:
            return max(combinations(columns, 2), key=lambda pair: _distance(*pair))
    return None


def _distance(a: ValueColumn, b: ValueColumn) -> float:
    noise = np.where(np.isfinite(a.errors + b.errors), a.errors**2 + b.errors**2, 0.0)
    return float(((a.values - b.values) ** 2 - noise).sum())
