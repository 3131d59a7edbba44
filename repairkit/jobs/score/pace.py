"""What a pass of an image takes here, and what fits a time limit.

The pace is measured once, by the instrumented model on a few images in one thread: fast ways of
evaluation and further threads only gain. From it follows how many images and rows a first answer
can have, before anything is spent.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from repairkit.core.errors import BudgetError
from repairkit.core.process.stages import Deadline
from repairkit.core.suite import Suite
from repairkit.data.strata import draw_shares
from repairkit.engine.working import Working
from repairkit.estimators.linear.ridge import LEAST_ROWS
from repairkit.graph.coalitions.masking import mask_name, mask_shape

_PROBE_SECONDS = 0.5
_MOST_TRIES = 3
_FEWEST_IMAGES = 16
_ENDS = 2
_SHARE_OF_ENDS = 0.1
_SHARE_OF_WHOLE = 0.5
_MOST_BITS = 60
_PARTS = 4  # how many times as long the whole job takes, where scoring is a part of it
_THIN = 9  # a stream of the seed


def seconds_per_pass(working: Working, suite: Suite) -> float:
    """Seconds that an image takes through the instrumented model; the least of a few tries."""
    images = suite.batch(np.arange(min(8, len(suite))))
    masks = {mask_name(site): np.ones(mask_shape(site, 1), bool) for site in working.roster.sites}
    tries: list[float] = []
    while len(tries) < 2 or (sum(tries) < _PROBE_SECONDS and len(tries) < _MOST_TRIES):
        began = time.monotonic()
        working.judge.run(images, masks)
        tries.append(time.monotonic() - began)
    return max(min(tries) / len(images), 1e-7)


@dataclass(frozen=True)
class Pace:
    """What a time limit allows.

    Attributes:
        deadline: of the command.
        per_pass: seconds that an image takes.
    """

    deadline: Deadline
    per_pass: float

    def passes(self, share: float) -> int:
        """Passes of an image that fit a share of the time that is left."""
        return max(int(share * self.deadline.left / self.per_pass), 0)

    def least_seconds(self, passes: float) -> int:
        """The time limit with which so many passes would fit, with something to spare."""
        parts = 1.0 if self.deadline.whole is None else _PARTS
        return math.ceil(1.25 * (self.deadline.elapsed + parts * passes * self.per_pass) + 1)

    def first_answer(self, n_filters: int, method: str, *, of_sets: bool) -> float:
        """Passes that a first answer takes at the least, on the fewest images."""
        rows = {
            "exact": 2.0 ** min(n_filters, _MOST_BITS),
            "leave-one-out": n_filters + 1.0,
            "permutation": n_filters + 1.0,
            "tmab": 2.0 * (n_filters + 1),
            "marginals": n_filters + 1.0,
        }
        whole = method in ("exact", "leave-one-out") or of_sets
        each = _FEWEST_IMAGES if whole else 1
        return _ENDS * _FEWEST_IMAGES + each * rows.get(method, 2.0 * LEAST_ROWS)

    def told(self, n_filters: int, method: str) -> str:
        """What to say before anything is scored."""
        needed = self.first_answer(n_filters, method, of_sets=False) * self.per_pass
        return (
            f"{max(self.deadline.left, 0):.0f} of {self.deadline.seconds:g} s are left: a pass of "
            f"an image takes {self.per_pass:.2g} s, a first score by {method} about {needed:.2g} s"
        )

    def refuse_hopeless(self, n_filters: int, method: str, *, of_sets: bool) -> None:
        """Say at once that no score can come of it.

        Raises:
            BudgetError: the least time limit is named.
        """
        needed = self.first_answer(n_filters, method, of_sets=of_sets)
        if needed * self.per_pass > self.deadline.left:
            raise BudgetError(
                f"the time limit of {self.deadline.limit:g} s is too short: "
                f"{self.deadline.elapsed:.1f} s went into preparations, a pass of an image takes "
                f"{self.per_pass:.3g} s and a first score of {n_filters} filters by {method} "
                f"needs {needed:,.0f} of them; give at least {self.least_seconds(needed)} s"
            )

    def most_images(self, n_filters: int, method: str, *, of_sets: bool) -> int:
        """Images on which a first answer fits."""
        rows = {"exact": 2.0 ** min(n_filters, _MOST_BITS), "leave-one-out": n_filters + 1.0}.get(
            method
        )
        most = self.passes(_SHARE_OF_ENDS) // _ENDS
        if rows is not None:
            most = min(most, int(self.passes(_SHARE_OF_WHOLE) / rows))
        elif of_sets:
            fewest = LEAST_ROWS if method in ("regression", "repair") else 2 * (n_filters + 1)
            most = min(most, self.passes(_SHARE_OF_WHOLE) // fewest)
        return max(most, _FEWEST_IMAGES)


def thin(images: Suite, most: int, seed: int) -> Suite:
    """All images, or `most` of them drawn evenly over labels and groups."""
    if len(images) <= most:
        return images
    about = images.annotations
    rng = np.random.default_rng([seed, _THIN])
    drawn = draw_shares(about.labels, about.groups, [most / len(images)], rng)
    return images.take(np.flatnonzero(drawn == 0))
