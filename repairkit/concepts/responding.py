"""How well responses tell images of a concept from others: the area under the ROC curve.

For concepts that belong to whole images, such as a class: no masks are needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Responses = NDArray[np.floating]
_FEW = 3.0  # events that no trial in n shows, with 95 %: at most 3 in n


def midranks(values: Responses) -> Values:
    """The ranks from 1 on of each row's values, (n_rows, n); equal values share their mean rank."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    n = values.shape[1]
    starts = np.ones(values.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.ones(values.shape, bool)
    ends[:, :-1] = starts[:, 1:]
    places = np.arange(n)
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, places, n - 1)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks


def areas(responses: Responses, members: NDArray[np.bool_]) -> Values:
    """The AUC of each row of responses for each concept, (n_units, n_concepts).

    It is the share of pairs of a member and a non-member in which the member's response is greater,
    ties counted half (Mann & Whitney 1947). NaN for a concept of all images or of none.

    Args:
        responses: (n_units, n_images).
        members: (n_concepts, n_images).
    """
    n_in = members.sum(axis=1)
    n_out = members.shape[1] - n_in
    sums = midranks(responses) @ members.T.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums - n_in * (n_in + 1) / 2) / (n_in * n_out))


def area_interval(
    responses: Responses, member: NDArray[np.bool_], z: float = 1.959964
) -> tuple[float, float]:
    """The ends of an interval for the AUC of one unit and one concept.

    The variance is that of DeLong, DeLong & Clarke-Pearson (1988), on the logit of the AUC, which
    keeps the ends within 0 and 1. Where all pairs agree, the far end is that of no error among the
    smaller number of images ("rule of three").
    """
    inside, outside = responses[member], responses[~member]
    n_in, n_out = len(inside), len(outside)
    if not n_in or not n_out:
        return 0.0, 1.0
    whole = midranks(np.concatenate([inside, outside])[None])[0]
    above = (whole[:n_in] - midranks(inside[None])[0]) / n_out
    below = 1 - (whole[n_in:] - midranks(outside[None])[0]) / n_in
    area = float(above.mean())
    margin = min(1.0, _FEW / min(n_in, n_out))
    if area in (0.0, 1.0):
        return max(0.0, area - margin), min(1.0, area + margin)
    if n_in < 2 or n_out < 2:
        return 0.0, 1.0
    variance = above.var(ddof=1) / n_in + below.var(ddof=1) / n_out
    reach = z * np.sqrt(variance) / (area * (1 - area))
    middle = np.log(area / (1 - area))
    low, high = (1 / (1 + np.exp(-(middle + side * reach))) for side in (-1, 1))
    return float(low), float(high)
