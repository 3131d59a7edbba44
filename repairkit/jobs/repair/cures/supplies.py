"""What cures are made from, prepared once for all of them, and the cures that a model can take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.engine.evaluator import Evaluator, keep_all
from repairkit.jobs.repair.objective import ChoosingCriterion
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs.crossfit import Folds
from repairkit.repairs.cure import BEST, BestCure, Cure
from repairkit.repairs.search import Frozen, Search

Screen = Callable[[suite.Indices], tuple[int, ...]]
"""Positions of selection images to the players that their values say do harm, most surely first."""

Given = TypeVar("Given")
Shared = TypeVar("Shared")

_Piece = tuple[int, frozenset[int]]  # the number of a part, and the players that are absent
_ROWS_AT_ONCE = 32
_MOST_BYTES = 2**29


class Looks:
    """What the model answers with sets of filters absent, for the selection images.

    Searches on different images look at the same sets. So the images are divided into parts, the
    model runs once for each set and each part that a search needs, and all searches share the
    answers. The oldest answers are dropped where they take much memory.

    Attributes:
        n_images: in the outputs.
        n_passes: images that the model was run for, repetitions included.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        n_players: int,
        n_images: int,
        parts: Sequence[suite.Indices] = (),
        rows_at_once: int | None = None,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        """`parts` are positions that together are all images; one part if there are none."""
        self._evaluator, self._n_players = evaluator, n_players
        self.n_images, self.n_passes = n_images, 0
        self._parts = tuple(parts) or (np.arange(n_images),)
        self._rows, self._most_bytes = rows_at_once or _ROWS_AT_ONCE, most_bytes
        self._known: dict[_Piece, suite.Array] = {}
        self._bytes = 0
        self._plain: suite.Array | None = None

    @property
    def plain(self) -> suite.Array:
        """The outputs for all images with no filter absent."""
        if self._plain is None:
            everything = range(len(self._parts))
            pieces = [self._answers([frozenset()], part)[frozenset()] for part in everything]
            # An image may have several rows of output.
            per_image = len(pieces[0]) // len(self._parts[0])
            self._plain = np.empty(
                (self.n_images * per_image, *pieces[0].shape[1:]), pieces[0].dtype
            )
            self._fill(self._plain, dict(enumerate(pieces)))
        return self._plain

    def __call__(
        self, sets: Sequence[Frozen], within: suite.Indices | None = None
    ) -> Iterator[suite.Array]:
        """The outputs for all images with each set frozen, in order.

        Args:
            sets: of players.
            within: positions of the images that are needed; all if None. Images of parts that hold
                none of them get the outputs of the model as it is.
        """
        needed = [
            number
            for number, part in enumerate(self._parts)
            if within is None or np.isin(part, within).any()
        ]
        for start in range(0, len(sets), self._rows):
            chunk = [frozenset(frozen) for frozen in sets[start : start + self._rows]]
            answers = {part: self._answers(chunk, part) for part in needed}
            for key in chunk:
                outputs = self.plain.copy()
                self._fill(outputs, {part: known[key] for part, known in answers.items()})
                yield outputs

    def of(self, frozen: Frozen) -> suite.Array:
        """The outputs for all images with one set frozen."""
        return next(self([frozen]))

    def _fill(self, outputs: suite.Array, pieces: Mapping[int, suite.Array]) -> None:
        by_image = outputs.reshape(self.n_images, -1, *outputs.shape[1:])
        for part, piece in pieces.items():
            positions = self._parts[part]
            by_image[positions] = piece.reshape(len(positions), -1, *piece.shape[1:])

    def _answers(
        self, keys: Sequence[frozenset[int]], part: int
    ) -> dict[frozenset[int], suite.Array]:
        """The outputs for the images of a part."""
        fresh = [key for key in dict.fromkeys(keys) if (part, key) not in self._known]
        answers = {key: self._known[part, key] for key in keys if (part, key) in self._known}
        if not fresh:
            return answers
        coalitions = np.ones((len(fresh), self._n_players), bool)
        for row, key in enumerate(fresh):
            coalitions[row, list(key)] = False
        positions = self._parts[part]
        images = None
        if len(self._parts) > 1:
            images = np.broadcast_to(positions, (len(fresh), len(positions)))
        outputs = self._evaluator.answer(coalitions, images, keep_all)
        self.n_passes += len(fresh) * len(positions)
        for key, answer in zip(fresh, outputs, strict=True):
            answers[key] = self._known[part, key] = np.array(answer)
            self._bytes += answer.nbytes
        while self._bytes > self._most_bytes and len(self._known) > 1:
            oldest = next(iter(self._known))
            self._bytes -= self._known.pop(oldest).nbytes
        return answers


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
            except errors.ModelError as error:
                self._shared[make] = error
        shared = self._shared[make]
        if isinstance(shared, errors.ModelError):
            raise shared
        return cast(Shared, shared)


class Strategy(Protocol):
    """A way to change models."""

    @property
    def name(self) -> str:
        """As `--repair` names it."""
        ...

    @property
    def needs_values(self) -> bool:
        """Whether it freezes filters that their values single out (`Supplies.filters`)."""
        ...

    def cure(self, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> Cure:
        """The cure for a workbench's model.

        Raises:
            ModelError: why this model cannot be changed so, in one line.
        """
        ...


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
    plain: suite.Array
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
            raise errors.SettingsError(f"--repair {repair} cannot be had with this model: {reason}")
        return self.cures[repair]

    def passes(self, *, of_values: int) -> dict[str, int]:
        """Image passes: of the values, of one search on all images, and of all searches."""
        assert self.filters is not None
        looks, searches = self.filters.looks, self.filters.searches
        return {
            "values": of_values,
            "one_search": (searches[0].n_looks if searches else 0) * looks.n_images,
            "all_searches": looks.n_passes,
        }
