"""Joint forward selection: which filters, frozen together, a criterion gains from.

Filters interact, so each is tried beside those that are frozen already, and those are tried again
once another has joined. Sets of one are all evaluated. Larger sets are evaluated only if they seem
best when the changes of single filters are added up. A step is taken only where its cross-fitted
gain is sure; the search ends at the first step that is not. Screening and ranking are
repeated without the images of each fold, so that a fold's images have no say in what is judged on
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.repairs import crossfit

Frozen = tuple[int, ...]
"""Players, in the order in which they were frozen."""

Answer = Callable[[Sequence[Frozen]], Iterable[suite.Array]]
"""The outputs for all images with each set frozen, in order."""

_MOST_UNFROZEN = 2  # sets with one filter less that are looked at after a step


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        at_most: players frozen together at the most.
        beam: beam width: sets of each size kept for the next step.
        width: sets of each size above 1 that are looked at by the ranking of all images, for each
            set of the beam; by the ranking without a fold, its share of as many, at least one.
        n_folds: of the cross-fitting.
        doubt: the chance of taking a step that gains nothing.
        n_resamples: of the bootstrap behind each step.
    """

    at_most: int = 8
    beam: int = 1
    width: int = 3
    n_folds: int = 5
    doubt: float = 0.5
    n_resamples: int = 400

    def __post_init__(self) -> None:
        if self.at_most < 1 or self.beam < 1 or self.width < 1 or self.n_folds < 2:
            raise errors.SettingsError(
                "a search freezes 1 filter or more, with a beam of 1 or more"
            )
        if not 0 < self.doubt < 1 or self.n_resamples < 1:
            raise errors.SettingsError(
                f"the doubt is {self.doubt}; expected a chance between 0 and 1"
            )


@dataclass(frozen=True)
class Screened:
    """The players to search among.

    `players` are in order of their rank. `without` (n_players_to_search, n_folds) tells whether
    each passes the screening that leaves the images of a fold out.
    """

    players: tuple[int, ...]
    without: NDArray[np.bool_]

    @classmethod
    def of(cls, overall: Sequence[int], by_fold: Sequence[Sequence[int]]) -> Screened:
        """Those that pass with all images, and the first of those that pass without some fold.

        Of each fold the first half joins: all of them cost more passes for few more repairs.
        """
        first = [passing[: -(-len(passing) // 2)] for passing in by_fold]
        players = tuple(dict.fromkeys(chain(overall, *first)))
        passed = [[player in set(passing) for passing in by_fold] for player in players]
        return cls(players, np.array(passed, bool).reshape(len(players), len(by_fold)))

    def allowed(self, player: int) -> NDArray[np.bool_]:
        """For which folds a player was found without the fold's images, (n_folds,)."""
        row: NDArray[np.bool_] = self.without[self.players.index(player)]
        return row


@dataclass(frozen=True, kw_only=True)
class SearchStep:
    """One step of the search: a player frozen or unfrozen, or why none was.

    `figure` is the criterion's after the step, on the images that chose it; `gain` what choosing
    like this is worth on others, None where a player is unfrozen.
    """

    frozen: Frozen
    added: int | None = None
    dropped: int | None = None
    figure: float
    gain: crossfit.Bound | None = None
    kept: bool = False
    reason: str


@dataclass(kw_only=True)
class SetsSeen:
    """Sets that were looked at, each once: their figures, and what speaks against them.

    No set is looked at once `is_over` is true, but for the one that freezes nothing.
    """

    answer: Answer
    criterion: crossfit.Criterion
    folds: crossfit.Folds
    is_over: Callable[[], bool]
    _known: dict[frozenset[int], crossfit.FoldFigures] = field(default_factory=dict)
    _objections: dict[frozenset[int], str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, frozen: Frozen) -> bool:
        return frozenset(frozen) in self._known

    def __getitem__(self, frozen: Frozen) -> crossfit.FoldFigures:
        return self._known[frozenset(frozen)]

    def look(self, sets: Iterable[Frozen], *, object_to: bool = True) -> list[Frozen]:
        """Judge the sets that are new; those that keep to the limits come back."""
        ordered = {frozenset(frozen): frozen for frozen in sets}
        fresh = [key for key in ordered if key not in self._known]
        answers = iter(self.answer([ordered[key] for key in fresh])) if fresh else iter(())
        for key in fresh:
            if object_to and self.is_over():  # what nothing was frozen in is always looked at
                break
            outputs = next(answers)
            everyone = self.folds.everyone
            self._known[key] = crossfit.look(self.criterion, outputs, self.folds)
            self._objections[key] = self.criterion.objection(outputs, everyone) if object_to else ""
        return [f for key, f in ordered.items() if self._objections.get(key) == ""]

    def figure(self, frozen: Frozen) -> float:
        """The criterion on the images that choose, of a set that was looked at."""
        return self[frozen].figure

    def objection(self, frozen: Frozen) -> str:
        """What speaks against a set that was looked at; empty where nothing does."""
        return self._objections[frozenset(frozen)]

    @property
    def best_objected(self) -> tuple[Frozen, str] | None:
        """The best set that does not keep to the limits, and why, if it beats all that do."""
        figures = {key: self._known[key].figure for key in self._objections}
        objected = [key for key, reason in self._objections.items() if reason]
        best = max(objected, key=lambda key: figures[key], default=None)
        if best is None or any(figures[k] >= figures[best] for k in figures.keys() - objected):
            return None
        return tuple(sorted(best)), self._objections[best]

    def predicted(self, frozen: Frozen) -> crossfit.FoldFigures:
        """The set, if the last player changed the outputs as it does alone."""
        plain = self[()].columns
        before = self[frozen[:-1]].columns
        alone = self[frozen[-1:]].columns
        return crossfit.look_at_columns(self.criterion, before + (alone - plain), self.folds)

    def figure_without(self, player: int, frozen: Frozen) -> float:
        """What is predicted once a player of a set computes again."""
        whole, plain = self[frozen].columns, self[()].columns
        columns = whole - (self[(player,)].columns - plain)
        return self.criterion.figure(columns, self.folds.everyone)


@dataclass(kw_only=True)
class Search:
    """A search under way: what was looked at is never looked at twice.

    It ends after `most_steps` steps, and at the first look before which `is_over` is true.
    """

    answer: Answer
    criterion: crossfit.Criterion
    folds: crossfit.Folds
    settings: SearchSettings
    rng: np.random.Generator
    is_over: Callable[[], bool] = lambda: False
    most_steps: float = math.inf
    steps: list[SearchStep] = field(default_factory=list)
    seen: SetsSeen = field(init=False)

    def __post_init__(self) -> None:
        self.seen = SetsSeen(
            answer=self.answer,
            criterion=self.criterion,
            folds=self.folds,
            is_over=self.is_over,
        )

    @property
    def n_taken(self) -> int:
        """Steps that were taken, each of which froze a player."""
        return sum(step.kept and step.dropped is None for step in self.steps)

    @property
    def n_looks(self) -> int:
        """Sets that were looked at, the empty one among them."""
        return len(self.seen)

    def run(self, screened: Screened) -> tuple[Frozen, ...]:
        """The sets that were taken, one after the other; the first freezes nothing."""
        taken: list[Frozen] = [()]
        self.seen.look([()], object_to=False)
        beam: list[Frozen] = [()]
        while len(taken[-1]) < self.settings.at_most:
            if len(taken) > self.most_steps:
                break
            longer = [(*f, p) for f in beam for p in screened.players if p not in f]
            shortlist = self._shortlist(longer, screened)
            ahead = self.seen.look(shortlist)
            step = self._step(taken[-1], ahead, shortlist)
            self.steps.append(step)
            if not step.kept:
                break
            ahead.sort(key=self.seen.figure, reverse=True)
            taken.append(self._revisit(step.frozen))
            beam = [taken[-1], *ahead[1 : self.settings.beam]]
        else:
            reason = f"{self.settings.at_most} are frozen, as many as allowed"
            figure = self.seen.figure(taken[-1])
            self.steps.append(SearchStep(frozen=taken[-1], figure=figure, reason=reason))
        return tuple(taken)

    def _shortlist(
        self, sets: Iterable[Frozen], screened: Screened
    ) -> dict[Frozen, NDArray[np.bool_]]:
        """The sets to look at, each with the folds without whose images it was found.

        Of sets of one that is all of them; of others those that are predicted to be best, by all
        images or without the images of some fold.
        """
        unique = {frozenset(frozen): frozen for frozen in sets}
        allowed = {frozen: screened.allowed(frozen[-1]) for frozen in unique.values()}
        most = self.settings.width * self.settings.beam
        singles = all(len(frozen) == 1 for frozen in allowed)
        if singles or len(allowed) <= most or not self.criterion.additive:
            return allowed
        # A set without its last player, and that player alone, must both be known.
        known = [f for f in allowed if f[:-1] in self.seen and f[-1:] in self.seen]
        predicted = {f: self.seen.predicted(f) for f in known}
        return _best_of_each_ranking(predicted, allowed, self.folds.n_folds, most)

    def _step(
        self, champion: Frozen, ahead: Sequence[Frozen], shortlist: dict[Frozen, NDArray[np.bool_]]
    ) -> SearchStep:
        """The best set ahead, and whether to go there."""
        current = self.seen[champion]
        if not ahead:
            reason = "no candidate is left that keeps to the limits"
            if self.is_over():
                reason = "the time limit was reached"
            return SearchStep(frozen=champion, figure=current.figure, reason=reason)
        gain = crossfit.gain_of_choice(
            self.criterion,
            current,
            [self.seen[frozen] for frozen in ahead],
            self.folds,
            doubt=self.settings.doubt,
            n_resamples=self.settings.n_resamples,
            rng=self.rng,
            allowed=np.stack([shortlist[frozen] for frozen in ahead]),
        )
        best = max(ahead, key=self.seen.figure)
        figure = self.seen.figure(best)
        kept = gain.low > 0 and figure > current.figure
        reason = _gain_in_words(gain, self.settings.doubt, kept)
        return SearchStep(
            frozen=best, added=best[-1], figure=figure, gain=gain, kept=kept, reason=reason
        )

    def _revisit(self, frozen: Frozen) -> Frozen:
        """Unfreeze filters whose removal from the set does not lower the criterion."""
        while len(frozen) > 1:
            sets = {frozen[:i] + frozen[i + 1 :]: frozen[i] for i in range(len(frozen) - 1)}
            if self.criterion.additive:
                figures = {
                    f: self.seen.figure_without(player, frozen) for f, player in sets.items()
                }
                fewer = self.seen.look(_largest(figures, _MOST_UNFROZEN))
            else:
                fewer = self.seen.look(sets)
            best = max(fewer, key=self.seen.figure, default=None)
            if best is None or self.seen.figure(best) < self.seen.figure(frozen):
                break
            (out,) = set(frozen) - set(best)
            reason = "the others do as well without it"
            figure = self.seen.figure(best)
            step = SearchStep(frozen=best, dropped=out, figure=figure, kept=True, reason=reason)
            self.steps.append(step)
            frozen = best
        return frozen


def _largest(figures: dict[Frozen, float], most: int) -> list[Frozen]:
    """The sets of the largest figures, the earlier of equals first."""
    return sorted(figures, key=lambda frozen: figures[frozen], reverse=True)[:most]


def _best_of_each_ranking(
    predicted: Mapping[Frozen, crossfit.FoldFigures],
    allowed: Mapping[Frozen, NDArray[np.bool_]],
    n_folds: int,
    most: int,
) -> dict[Frozen, NDArray[np.bool_]]:
    """The sets that are best by all images or without a fold, each with the folds that rank it."""
    best = set(_largest({f: figures.figure for f, figures in predicted.items()}, most))
    ranked = []
    for fold in range(n_folds):
        figures = {f: p.without[fold] for f, p in predicted.items() if allowed[f][fold]}
        ranked.append(_largest(figures, most))
        best.update(ranked[-1][: max(1, most // n_folds)])
    return {f: np.array([f in sets for sets in ranked]) for f in predicted if f in best}


def _gain_in_words(gain: crossfit.Bound, doubt: float, kept: bool) -> str:
    reason = (
        f"gains {gain.value:+.4f} on images that did not choose it, at least {gain.low:+.4f} "
        f"at {1 - doubt:.0%}"
    )
    return reason if kept else f"{reason}: not sure enough"
