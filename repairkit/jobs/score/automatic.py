"""Which method `auto` takes: the best that filters, images, evaluations and seconds allow.

All of it is settled before the first round, from the game's facts and the limits alone, so that the
same command takes the same method. A time limit is the exception: what it allows was measured. So
what was taken stands in `run.json`, and a resumed run takes it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repairkit.core.errors import BudgetError
from repairkit.core.game import GameFacts
from repairkit.estimators.linear.regression import FEW_PLAYERS
from repairkit.estimators.linear.ridge import LEAST_ROWS
from repairkit.formats.run_file import TakenMethod

PASSES_PER_EVALUATION = 40
"""What enumeration may cost, in passes of an image per evaluation allowed to a regression."""

_MOST_ENUMERATED = 16
_EVALUATIONS_PER_FILTER = 500
_WALKS = 50
_LEAST_WALKS = 2
_USUAL_PILOT, _LEAST_PILOT = 512, 12
_USUAL_ROUND, _FIRST_ROUND = 4096, 256
_KNOWN_PER_FILTER = 8
_MOST_IMAGES = 32
_ENDS = 2
_PASSES_PER_ROW = 3


@dataclass(frozen=True)
class Taken:
    """A method, settings for it, and in words why it was taken and what its values are."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    def to_json(self) -> TakenMethod:
        return {"method": self.method, "options": dict(self.options), "why": self.why}


@dataclass(frozen=True)
class Allowance:
    """What may be spent at the most; None is no limit.

    `passes` are passes of one image through the model, in the time that is left.
    """

    evaluations: int | None = None
    passes: int | None = None


def take_method(facts: GameFacts, n_images: int, allowed: Allowance) -> Taken:
    """The method that `auto` takes.

    Args:
        facts: of the game.
        n_images: of the game.
        allowed: the limits that were given.

    Raises:
        BudgetError: too little for any score; the least is named.
    """
    if _enumerable(facts, n_images, allowed):
        n_coalitions = 2**facts.n_players
        return Taken("exact", {}, f"all {n_coalitions:,} coalitions fit: values are exact")
    if facts.of_sets:
        return _of_sets(facts, n_images, allowed)
    n, evaluations = facts.n_players, allowed.evaluations
    rows = _least_of(evaluations, _rows_in_time(n, allowed))
    if rows is None or rows >= _ENDS + _USUAL_PILOT + _FIRST_ROUND:
        return Taken("auto")
    few = evaluations is not None and n + 1 <= evaluations < _KNOWN_PER_FILTER * n
    if few and _in_time((n + 1) * n_images, allowed):
        return _left_out(n, f"{evaluations:,} evaluations are few for {n} filters")
    return _small_regression(n, rows, allowed)


def told_of_method(asked: str, taken: Taken, facts: GameFacts) -> list[str]:
    """What to say of the method, beside its name."""
    name = "regression" if taken.method == "auto" else taken.method
    notes = [f"method {asked}: {name} was taken; {taken.why}"] if taken.why else []
    if facts.of_sets:
        notes.append(
            "a metric judges images together: every coalition was tried on all images of the part, "
            "since on fewer it would be another figure; values and intervals are about these images"
        )
    return notes


def small_rounds(n_players: int, rows: int, *, pilot: bool) -> dict[str, int]:
    """Pilot and rounds of a regression that has so few rows; empty where the usual ones fit.

    Args:
        n_players: of the game.
        rows: evaluations allowed.
        pilot: whether there is one where players are many.
    """
    pilot = pilot and n_players > FEW_PLAYERS
    usual = _USUAL_PILOT if pilot else 0
    if rows >= _ENDS + usual + _FIRST_ROUND:
        return {}
    n_pilot = min(max((rows - _ENDS) // 8, _LEAST_PILOT), _USUAL_PILOT) if pilot else 0
    left = max(rows - _ENDS - n_pilot, LEAST_ROWS)
    return {"round_rows": min(left, _FIRST_ROUND)} | ({"pilot_rows": n_pilot} if pilot else {})


def default_evaluations(facts: GameFacts, n_images: int, per_filter: int) -> int:
    """Where a method stops to which no limit was given."""
    n = facts.n_players
    if facts.of_sets:
        # As many passes as walks with batches of 128 take, at a few evaluations per filter.
        per_filter = max(min(_WALKS, _WALKS * 128 // n_images), 2 * _KNOWN_PER_FILTER)
    return max(per_filter * n, 4 * (n + 1), _least_rows(n))


def _enumerable(facts: GameFacts, n_images: int, allowed: Allowance) -> bool:
    n = facts.n_players
    if n > _MOST_ENUMERATED:
        return False
    usual = default_evaluations(facts, n_images, _EVALUATIONS_PER_FILTER)
    evaluations = allowed.evaluations
    if evaluations is not None and 2**n > evaluations:
        return False
    if evaluations is None and facts.of_sets:
        return 2**n <= 4 * usual and _in_time(2**n * n_images, allowed)
    most = PASSES_PER_EVALUATION * max(evaluations or 0, usual)
    return (facts.of_sets or 2**n * n_images <= most) and _in_time(2**n * n_images, allowed)


def _in_time(passes: int, allowed: Allowance) -> bool:
    return allowed.passes is None or passes <= allowed.passes


def _rows_in_time(n: int, allowed: Allowance) -> int | None:
    """Rows of a regression that leave time for more; that a first answer fits is known."""
    if allowed.passes is None:
        return None
    return max(allowed.passes // _PASSES_PER_ROW, _least_rows(n))


def _least_rows(n: int) -> int:
    return _ENDS + LEAST_ROWS + (_LEAST_PILOT if n > FEW_PLAYERS else 0)


def _of_sets(facts: GameFacts, n_images: int, allowed: Allowance) -> Taken:
    """Every coalition is tried on all images, which walks use best."""
    n = facts.n_players
    whole = None if allowed.passes is None else max(allowed.passes // n_images, _least_rows(n))
    rows = _least_of(allowed.evaluations, whole)
    if rows is None or rows >= _LEAST_WALKS * (n + 1):
        why = "the metric judges images together, so that every coalition is tried on all of them"
        return Taken("permutation", {"chunk": min(64, n + 1)}, why)
    if rows >= n + 1:
        return _left_out(n, f"{rows:,} evaluations are few for {n} filters")
    return _small_regression(n, rows, allowed)


def _left_out(n: int, because: str) -> Taken:
    why = (
        f"{because}: values are what the model loses with each filter alone (leave-one-out), which "
        f"is not Shapley's; from {_KNOWN_PER_FILTER * n:,} evaluations on it would be"
    )
    return Taken("leave-one-out", {}, why)


def _small_regression(n: int, rows: int, allowed: Allowance) -> Taken:
    least = _least_rows(n)
    if rows < least:
        raise BudgetError(
            f"{rows} evaluations are too few for any score of {n} filters; raise the limit to at "
            f"least {min(least, n + 1)} evaluations"
        )
    options = small_rounds(n, rows, pilot=True)
    if allowed.passes is None:
        share = _EVALUATIONS_PER_FILTER * n // (4 * rows)
        options["images_per_coalition"] = min(max(share, 1), _MOST_IMAGES)
    few = f"only {rows:,} evaluations are allowed"
    if allowed.passes is not None:
        few = f"about {rows:,} coalitions fit a third of the time that is left"
    why = f"{few}: a smaller pilot and smaller rounds, and errors may be wide"
    return Taken("auto", options, why)


def _least_of(*limits: int | None) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)
