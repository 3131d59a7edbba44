"""What a cure is: one way to change a model, chosen on some images and applied to all.

Freezing filters, class biases and a refitted last layer are cures. They all go through the same
cross-confirmation, and are baked, proven and undone by the same patch file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from repairkit.core import filters, suite
from repairkit.core.process.text import counted
from repairkit.core.results import Evaluation, Figure
from repairkit.repairs.crossfit import Bound

BEST = "best"
"""The name of the cure that picks the best of the others."""

Story = dict[str, Any]
"""How something was chosen, ready for JSON."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cured:
    """What a cure makes of the model, chosen on some of the selection images.

    Attributes:
        patch: what is to be baked.
        outputs: of the model with that patch, for all selection images in order.
        gain: of the smooth criterion on the images that chose, cross-fitted inside them.
        story: how it was chosen.
        name: of the cure.
        action: what the cure does to the model, as a sentence begins; empty where it freezes the
            filters of the patch.
        fewer: what the steps before gave, the smallest change first; where one change costs too
            much, a smaller one may not.
    """

    patch: filters.Patch
    outputs: suite.Array
    gain: Bound
    story: Story = field(default_factory=dict)
    name: str = ""
    action: str = ""
    fewer: tuple[Cured, ...] = ()

    @property
    def n_steps(self) -> int:
        """How many changes there are, each larger than the one before; this is the last."""
        return len(self.fewer) + 1

    @property
    def words(self) -> str:
        """What the cure does to the model."""
        if self.action:
            return self.action
        names = ", ".join(filter.id for filter in self.patch.filters)
        return f"freezing {counted(len(self.patch), 'filter')} ({names})"

    def first(self, n_steps: int) -> Cured:
        """What the first steps gave; this one where there are not more."""
        return self if n_steps >= self.n_steps else self.fewer[n_steps - 1]


@dataclass(frozen=True, eq=False)
class Nothing:
    """Why a cure has nothing to offer on the images that were to choose."""

    reason: str
    story: Story = field(default_factory=dict)


class Cure(Protocol):
    """One way to change a model."""

    @property
    def name(self) -> str:
        """As `--repair` names it."""
        ...

    def on(self, within: suite.Indices) -> Cured | Nothing:
        """Choose on the selection images at the positions `within`, and on nothing else."""
        ...


@dataclass(frozen=True, eq=False)
class Remembered:
    """A cure that chooses once for the same images, however often it is asked."""

    cure: Cure
    _known: dict[bytes, Cured | Nothing] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """See `Cure`."""
        return self.cure.name

    def on(self, within: suite.Indices) -> Cured | Nothing:
        """See `Cure`."""
        key = within.tobytes()
        if key not in self._known:
            self._known[key] = self.cure.on(within)
        return self._known[key]


@dataclass(frozen=True)
class BestCure:
    """Of several cures the one that gains most, by cross-fitting on the images that choose."""

    cures: Sequence[Cure]
    name: str = BEST

    def on(self, within: suite.Indices) -> Cured | Nothing:
        """See `Cure`."""
        results = [cure.on(within) for cure in self.cures]
        gaining = [one for one in results if isinstance(one, Cured) and one.gain.value > 0]
        if not gaining:
            reasons = [
                f"{cure.name}: {one.reason if isinstance(one, Nothing) else 'gains nothing'}"
                for cure, one in zip(self.cures, results, strict=True)
            ]
            return Nothing("; ".join(reasons))
        return max(gaining, key=lambda one: one.gain.value)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenPatch:
    """A patch and how it was chosen; no more than patch and notes where its filters were named.

    Attributes:
        patch: what is to be baked.
        promise: the change of the objective on images that did not choose.
        scoring: what the report says of the scoring of filters.
        selection: the report's `selection`.
        notes: for the report.
        outputs: those before and after for all selection images, each under a cure that it did not
            choose; None where a part of them confirmed.
        n_folds: of the cross-confirmation; 0 where a part of the images confirmed.
        n_confirmations: how often the images that confirm were asked.
        saw_confirmation: whether the filters were scored on images that confirm, too.
    """

    patch: filters.Patch
    promise: Figure | None = None
    scoring: Mapping[str, Any] | None = None
    selection: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    outputs: tuple[suite.Array, suite.Array] | None = None
    n_folds: int = 0
    n_confirmations: int = 0
    saw_confirmation: bool = False


@dataclass(frozen=True, kw_only=True)
class FinalFigures:
    """What images that chose nothing say of a patched model.

    Attributes:
        before: figures of the model as it was.
        after: figures of the patched model.
        change: the paired differences.
        outputs: of both, for every image that judges.
        fairness: groups before and after; None where there are none.
        classes: classes before and after, where there are no groups.
    """

    before: Evaluation
    after: Evaluation
    change: dict[str, Figure]
    outputs: tuple[suite.Array, suite.Array]
    fairness: dict[str, Any] | None
    classes: list[dict[str, Any]] | None = None


def make_patch(
    players: suite.Indices, roster: filters.Roster, levels: filters.FilterMeans
) -> filters.Patch:
    """A patch that freezes players at their levels, in the order given."""
    chosen = [roster.filters[player] for player in players.tolist()]
    constants = [filters.constant_of(levels[f.site][f.channel]) for f in chosen]
    return filters.Patch(tuple(map(filters.FrozenFilter, chosen, constants)))
