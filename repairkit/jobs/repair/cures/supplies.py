"""What cures are made from, prepared once for all of them, and the cures that a model can take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError, SettingsError
from repairkit.core.suite import Array, Indices
from repairkit.engine.evaluator import Evaluator, keep_all
from repairkit.repairs.crossfit import Folds
from repairkit.repairs.cure import BEST, BestCure, Cure
from repairkit.repairs.search import Frozen, Search

Screen = Callable[[Indices], tuple[int, ...]]
"""Positions of selection images to the players that their values say do harm, most surely first."""

Given = TypeVar("Given")
Shared = TypeVar("Shared")

_ROWS_AT_ONCE = 32
_MOST_BYTES = 2**29


class Looks:
    """What the model answers with sets of filters absent, for all selection images.

    Searches on different images look at the same sets, so each set is run once and they share the
    answers. The oldest are dropped where they take much memory.

    Attributes:
        n_images: in the outputs.
        n_asked: sets for which the model was run, repetitions included.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        n_players: int,
        n_images: int,
        rows_at_once: int | None = None,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._evaluator, self._n_players = evaluator, n_players
        self.n_images = n_images
        self._rows, self._most_bytes = rows_at_once or _ROWS_AT_ONCE, most_bytes
        self._known: dict[frozenset[int], Array] = {}
        self._bytes = 0
        self.n_asked = 0

    def __call__(self, sets: Sequence[Frozen]) -> Iterator[Array]:
        """The outputs for all images with each set frozen, in order."""
        for start in range(0, len(sets), self._rows):
            chunk = [frozenset(frozen) for frozen in sets[start : start + self._rows]]
            fresh = [key for key in dict.fromkeys(chunk) if key not in self._known]
            outputs = {key: self._known[key] for key in chunk if key in self._known}
            outputs |= self._ask(fresh)
            yield from (outputs[key] for key in chunk)

    def of(self, frozen: Frozen) -> Array:
        """The outputs for all images with one set frozen."""
        return next(self([frozen]))

    def _ask(self, keys: list[frozenset[int]]) -> dict[frozenset[int], Array]:
        if not keys:
            return {}
        coalitions = np.ones((len(keys), self._n_players), bool)
        for row, key in enumerate(keys):
            coalitions[row, list(key)] = False
        answers = self._evaluator.answer(coalitions, None, keep_all)
        self.n_asked += len(keys)
        fresh = {key: np.array(answer) for key, answer in zip(keys, answers, strict=True)}
        for key, outputs in fresh.items():
            self._known[key] = outputs
            self._bytes += outputs.nbytes
        while self._bytes > self._most_bytes and len(self._known) > 1:
            oldest = next(iter(self._known))
            self._bytes -= self._known.pop(oldest).nbytes
        return fresh


@dataclass(frozen=True, kw_only=True, eq=False)
class FilterSupplies:
    """What cures that freeze filters need.

    Attributes:
        looks: the outputs with sets of filters absent.
        screen: which filters may be frozen.
        best_levels: choose the constant of each frozen filter, too.
        is_over: whether a search is to end, by the clock.
        searches: those that were made.
    """

    looks: Looks
    screen: Screen
    best_levels: bool = False
    is_over: Callable[[], bool] = lambda: False
    searches: list[Search] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class Supplies:
    """What a cure may need beside the workbench and the criterion.

    Attributes:
        strata: of each selection image, (n_images,); see `assign_folds`.
        twins: see `assign_folds`.
        folds: of the cross-confirmation; None where a part of the images confirms.
        filters: what only cures that freeze filters need; None where none is to be frozen.
    """

    strata: NDArray[np.int64]
    twins: NDArray[np.intp] | None
    folds: Folds | None = None
    filters: FilterSupplies | None = None
    _shared: dict[object, object] = field(default_factory=dict)

    def once(self, make: Callable[[Given], Shared], bench: Given) -> Shared:
        """What `make` gives for the workbench, made once for all cures that ask for it.

        Raises:
            ModelError: `make` raised it, now or before.
        """
        if make not in self._shared:
            try:
                self._shared[make] = make(bench)
            except ModelError as error:
                self._shared[make] = error
        shared = self._shared[make]
        if isinstance(shared, ModelError):
            raise shared
        return cast(Shared, shared)


@dataclass(frozen=True, kw_only=True, eq=False)
class Offer:
    """The cures that a model can take.

    Attributes:
        cures: by name.
        reasons: why it cannot take the others, by name.
        plain: the outputs for all selection images as the model is.
        filters: what cures that freeze filters were made from; None where none is to be frozen.
    """

    cures: dict[str, Cure]
    reasons: dict[str, str]
    plain: Array
    filters: FilterSupplies | None = None

    def wanted(self, repair: str) -> Cure:
        """The cure of that name.

        Raises:
            SettingsError: this model cannot be changed so.
        """
        if repair == BEST:
            return BestCure(tuple(self.cures.values()))
        if repair not in self.cures:
            reason = self.reasons[repair]
            raise SettingsError(f"--repair {repair} cannot be had with this model: {reason}")
        return self.cures[repair]

    def passes(self, *, of_values: int) -> dict[str, int]:
        """Image passes: of the values, of one search on all images, and of all searches."""
        assert self.filters is not None
        looks, searches = self.filters.looks, self.filters.searches
        return {
            "values": of_values,
            "one_search": (searches[0].n_looks if searches else 0) * looks.n_images,
            "all_searches": looks.n_asked * looks.n_images,
        }
