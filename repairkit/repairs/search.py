"""Joint forward selection: which filters, frozen together, a criterion gains from.

Filters interact, so each is tried beside those that are frozen already, and those are tried again
once another has joined. A step is taken only where its cross-fitted gain is sure; the search ends
at the first step that is not. So the chance that a useless filter is ever let in is that of one
test, however many filters and steps were looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.core.game import Coalitions
from repairkit.repairs.crossfit import Bound, Criterion, Folds, Looked, gain_of_choice, look

Frozen = tuple[int, ...]
"""Players, in the order in which they were frozen."""

Answer = Callable[[Coalitions], Iterable[NDArray[Any]]]
"""The outputs for all images under each coalition, in order."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        at_most: players frozen together at the most.
        beam: sets of each size that are gone on from.
        n_folds: of the cross-fitting.
        doubt: the chance of taking a step that gains nothing.
        n_resamples: of the bootstrap behind each step.
    """

    at_most: int = 16
    beam: int = 1
    n_folds: int = 5
    doubt: float = 0.3
    n_resamples: int = 400

    def __post_init__(self) -> None:
        if self.at_most < 1 or self.beam < 1 or self.n_folds < 2:
            raise SettingsError("a search freezes 1 filter or more, with a beam of 1 or more")
        if not 0 < self.doubt < 1 or self.n_resamples < 1:
            raise SettingsError(f"the doubt is {self.doubt}; expected a chance between 0 and 1")


@dataclass(frozen=True)
class Step:
    """One step of the search: a player frozen or let go, or why none was.

    `figure` is the criterion's after the step, on the images that chose it; `gain` what choosing
    like this is worth on others, None where one is let go.
    """

    frozen: Frozen
    added: int | None
    dropped: int | None
    figure: float
    gain: Bound | None
    kept: bool
    reason: str


@dataclass
class Search:
    """A search under way: what was looked at is never looked at twice.

    `out_of_time` is asked before every look, and told how many steps there were; once it is true,
    the search goes no further than what it has seen.
    """

    answer: Answer
    criterion: Criterion
    n_players: int
    folds: Folds
    settings: SearchSettings
    rng: np.random.Generator
    out_of_time: Callable[[int], bool] = lambda _: False
    steps: list[Step] = field(default_factory=list)
    n_looks: int = 0
    _known: dict[frozenset[int], Looked | str] = field(default_factory=dict)

    def run(self, candidates: Sequence[int]) -> tuple[Frozen, ...]:
        """The sets that were taken, one after the other; the first freezes nothing."""
        taken: list[Frozen] = [()]
        self._look([()], object_to=False)
        beam: list[Frozen] = [()]
        while len(taken[-1]) < self.settings.at_most:
            ahead = self._look(_extensions(beam, candidates))
            step = self._step(taken[-1], ahead)
            self.steps.append(step)
            if not step.kept:
                break
            ahead.sort(key=self._figure, reverse=True)
            taken.append(self._revisit(step.frozen))
            beam = [taken[-1], *ahead[1 : self.settings.beam]]
        else:
            self.steps.append(self._full(taken[-1]))
        return tuple(taken)

    def figure(self, frozen: Frozen) -> float:
        """The criterion on all images that choose, of a set that was looked at."""
        return self._looked(frozen).figure

    def _step(self, champion: Frozen, ahead: Sequence[Frozen]) -> Step:
        """The best set ahead, and whether to go there."""
        current = self._looked(champion)
        if not ahead:
            reason = "no candidate is left that keeps to the limits"
            if self._is_over:
                reason = "the time limit was reached"
            return Step(champion, None, None, current.figure, None, False, reason)
        gain = gain_of_choice(
            self.criterion,
            current,
            [self._looked(frozen) for frozen in ahead],
            self.folds,
            doubt=self.settings.doubt,
            n_resamples=self.settings.n_resamples,
            rng=self.rng,
        )
        best = max(ahead, key=self._figure)
        kept = gain.low > 0 and self._figure(best) > current.figure
        reason = (
            f"gains {gain.value:+.4f} on images that did not choose it, at least {gain.low:+.4f} "
            f"at {1 - self.settings.doubt:.0%}"
        )
        if not kept:
            reason += ": not sure enough"
        return Step(best, best[-1], None, self._figure(best), gain, kept, reason)

    def _revisit(self, frozen: Frozen) -> Frozen:
        """Let go whoever the others do without."""
        while len(frozen) > 1:
            fewer = self._look([tuple(p for p in frozen if p != out) for out in frozen[:-1]])
            best = max(fewer, key=self._figure, default=None)
            if best is None or self._figure(best) < self._figure(frozen):
                break
            (out,) = set(frozen) - set(best)
            reason = "the others do as well without it"
            self.steps.append(Step(best, None, out, self._figure(best), None, True, reason))
            frozen = best
        return frozen

    def _full(self, frozen: Frozen) -> Step:
        reason = f"{self.settings.at_most} are frozen, as many as allowed"
        return Step(frozen, None, None, self._figure(frozen), None, False, reason)

    def _look(self, sets: Iterable[Frozen], *, object_to: bool = True) -> list[Frozen]:
        """Judge the sets that are new; those that keep to the limits come back."""
        ordered = {frozenset(frozen): frozen for frozen in sets}
        fresh = [key for key in ordered if key not in self._known]
        coalitions = np.ones((len(fresh), self.n_players), bool)
        for row, key in enumerate(fresh):
            coalitions[row, list(key)] = False
        answers = iter(self.answer(coalitions)) if fresh else iter(())
        for key in fresh:
            if object_to and self._is_over:  # what nothing was frozen in is always looked at
                break
            outputs = next(answers)
            self.n_looks += 1
            objection = self.criterion.objection(outputs) if object_to else ""
            self._known[key] = objection or look(self.criterion, outputs, self.folds)
        return [f for key, f in ordered.items() if isinstance(self._known.get(key), Looked)]

    @property
    def _is_over(self) -> bool:
        return self.out_of_time(len(self.steps))

    def _looked(self, frozen: Frozen) -> Looked:
        found = self._known[frozenset(frozen)]
        assert isinstance(found, Looked)
        return found

    def _figure(self, frozen: Frozen) -> float:
        return self._looked(frozen).figure


def _extensions(beam: Sequence[Frozen], candidates: Sequence[int]) -> Iterator[Frozen]:
    """Every set of the beam with one candidate more."""
    for frozen in beam:
        for candidate in candidates:
            if candidate not in frozen:
                yield (*frozen, candidate)
