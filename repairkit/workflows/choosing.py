"""Choose jointly on some selection images, confirm on others that chose nothing, or decline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import TargetNotMetError
from repairkit.core.patch import Figure, Patch
from repairkit.core.stages import stage
from repairkit.core.suite import Indices, Suite
from repairkit.data.strata import draw_shares
from repairkit.engine.evaluator import keep_all
from repairkit.metrics import adversarial, difference, evaluate, is_attacked
from repairkit.repairs import Frozen, Screened, Search, SearchSettings, assign_folds, make_patch
from repairkit.workflows.attack_file import with_twins
from repairkit.workflows.bench import Bench
from repairkit.workflows.candidates import Candidates
from repairkit.workflows.confirming import Refused, refusals
from repairkit.workflows.criterion import ChoosingCriterion
from repairkit.workflows.objective import Limit, Objective, Target, metric_names
from repairkit.workflows.patch_time import PatchTime
from repairkit.workflows.selection_story import (
    figures_of,
    told_confirmation,
    told_settings,
    told_steps,
    told_trade_off,
)

CONFIRMATION_SHARE = 1 / 3
_ROWS_AT_ONCE = 32
_SPLIT, _FOLDS = 1, 2  # streams of the seed

Refine = Callable[["Chooser", Patch], tuple[Patch, Callable[[Suite], NDArray[Any]]]]
"""The patch with other constants, and what gives the outputs of a model with it."""


@dataclass(frozen=True)
class Wishes:
    """What is to be improved, how far and at which cost.

    Attributes:
        objective: what to improve.
        limits: what metrics may lose.
        targets: figures to be reached.
        search: how to search.
        share: of the selection images, those that confirm and choose nothing.
        max_group_drop: what the accuracy of a group may lose, in [0, 1].
    """

    objective: Objective
    limits: tuple[Limit, ...] = ()
    targets: tuple[Target, ...] = ()
    search: SearchSettings = field(default_factory=SearchSettings)
    share: float = CONFIRMATION_SHARE
    max_group_drop: float = 1.0

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The objective and all that limits and targets are about, each once."""
        return metric_names(self.objective, self.limits, self.targets)


@dataclass(frozen=True)
class Chosen:
    """A patch, what it promises, and how it came to be chosen (the report's `selection`)."""

    patch: Patch
    promise: Figure
    story: dict[str, Any]


@dataclass(frozen=True)
class Halves:
    """The selection images that choose, those that confirm, and their positions in the part."""

    choosing: Suite
    confirmation: Suite
    positions: tuple[Indices, Indices]


def split_selection(bench: Bench, share: float) -> Halves:
    """Share out the selection images by label and group, with the seed of the job.

    Raises:
        TargetNotMetError: a group has too few images to choose on some and confirm on others.
    """
    suite = bench.parts.selection
    about, seed = suite.annotations, bench.settings.seed
    rng = np.random.default_rng([seed, _SPLIT])
    drawn = with_twins(about, draw_shares(about.labels, about.groups, [1 - share, share], rng))
    halves = [np.flatnonzero(drawn == half) for half in (0, 1)]
    groups = np.zeros(len(suite), np.int64) if about.groups is None else about.groups
    for half in halves:
        missing = set(groups.tolist()) - set(groups[half].tolist())
        if missing:
            of_group = (
                "" if about.groups is None else f" of group {about.group_names[min(missing)]!r}"
            )
            raise TargetNotMetError(
                f"no repair: too few of the {len(suite)} selection images{of_group} to choose on "
                "some and confirm on others; give more of them; nothing was written"
            )
    first, second = halves
    return Halves(
        suite.take(first, "choosing"), suite.take(second, "confirmation"), (first, second)
    )


class Chooser:
    """A joint choice under way."""

    def __init__(
        self,
        bench: Bench,
        wishes: Wishes,
        halves: Halves,
        candidates: Candidates,
        time: PatchTime | None = None,
    ) -> None:
        self.bench, self.wishes, self.halves = bench, wishes, halves
        self.candidates, self.time = candidates, time
        metrics = bench.metrics(wishes.metric_names[:1])
        self._games = [bench.game(half, metrics) for half in (halves.choosing, halves.confirmation)]
        self.criterion = ChoosingCriterion(
            wishes.objective,
            wishes.limits,
            wishes.targets,
            bench.metrics,
            bench.form,
            halves.choosing.annotations,
            self.outputs((), 0),
        )

    @stage("choosing")
    def choose(self, refine: Refine | None = None) -> Chosen:
        """The patch, once images that chose nothing have confirmed it.

        Args:
            refine: sets the chosen filters' constants anew, on the images that choose.

        Raises:
            TargetNotMetError: there is nothing to gain, or not surely enough.
        """
        rng = np.random.default_rng([self.bench.settings.seed, _FOLDS])
        strata = _strata(self.halves.choosing)
        folds = assign_folds(strata, self.wishes.search.n_folds, rng)
        search = Search(
            self._answer,
            self.criterion,
            folds,
            self.wishes.search,
            rng,
            out_of_time=self._out_of_time,
        )
        found = self.candidates.players.tolist()
        path = search.run(Screened.of(found, [found] * folds.n_folds))
        story = self._story(search, path)
        if len(path) == 1:
            raise self._decline(self._nothing(search), story)
        refused: list[Refused] = []
        for looks, frozen in enumerate(reversed(path[1:]), 1):
            patch, after = self._made(frozen, refine)
            found = self._confirm(patch, after, {**story, "confirmation_looks": looks})
            if isinstance(found, Chosen):
                return found
            refused.append(found)
            # Fewer filters cost less. They also gain less, so nothing but a limit sends us back.
            if not found.by_limit:
                break
        reason = refused[0].reason
        if looks > 1:
            reason += f" ({looks - 1} smaller sets on the way there were not borne out either)"
        raise self._decline(reason, refused[0].story | {"confirmation_looks": looks})

    def _made(self, frozen: Frozen, refine: Refine | None) -> tuple[Patch, NDArray[Any]]:
        """The patch that freezes these, and the outputs with it for the images that confirm."""
        patch = make_patch(np.array(frozen, np.intp), self.bench.roster, self.bench.means)
        if refine is None:
            return patch, self.outputs(frozen, 1)
        patch, run = refine(self, patch)
        return patch, run(self.halves.confirmation)

    def outputs(self, frozen: Frozen, half: int) -> NDArray[Any]:
        """The model's outputs for the images that choose (0) or confirm (1)."""
        coalition = np.ones(len(self.bench.roster), bool)
        coalition[list(frozen)] = False
        return self._games[half].outputs(coalition)

    def _story(self, search: Search, path: tuple[Frozen, ...]) -> dict[str, Any]:
        """How the choice was made; figures of the trade-off are of all selection images."""
        halves, roster = self.halves, self.bench.roster
        tried = [step.frozen for step in search.steps if step.gain is not None]
        ways = dict.fromkeys([*path, *tried])
        about = self.bench.parts.selection.annotations
        metrics = self.bench.metrics(self.metric_names)
        on_all, on_choosing = {}, {}
        for frozen in ways:
            first, second = self.outputs(frozen, 0), self.outputs(frozen, 1)
            both = np.empty((len(about), *first.shape[1:]), first.dtype)
            both[halves.positions[0]], both[halves.positions[1]] = first, second
            on_all[frozenset(frozen)] = figures_of(metrics, both, about)
            on_choosing[frozenset(frozen)] = figures_of(metrics, first, halves.choosing.annotations)
        sets = sorted(ways, key=len)
        return {
            "how": "joint",
            "objective": self.wishes.objective.metric,
            "parts": {
                "choosing": len(halves.choosing),
                "confirmation": len(halves.confirmation),
                "share": self.wishes.share,
                "seed": self.bench.settings.seed,
            },
            "candidates": len(self.candidates.players),
            "candidates_how": self.candidates.how,
            "looks": search.n_looks,
            "settings": told_settings(self.wishes.search),
            "limits": {limit.metric: limit.most for limit in self.wishes.limits},
            "max_group_drop": self.wishes.max_group_drop,
            "targets": [str(target) for target in self.wishes.targets],
            "steps": told_steps(search.steps, roster, on_choosing),
            "trade_off": told_trade_off(sets, path, roster, on_all),
            "confirmation": None,
            "confirmation_looks": 0,
            "promised": None,
            "declined": None,
        }

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What is told of every set: objective, limits, targets, and accuracy where it exists."""
        names, accuracy = self.wishes.metric_names, self.bench.accuracy
        return names if not self.bench.n_classes or accuracy in names else (*names, accuracy)

    def _out_of_time(self, n_steps: int) -> bool:
        return self.time is not None and self.time.is_over(n_steps + 1)

    def _answer(self, sets: Sequence[Frozen]) -> Iterator[NDArray[Any]]:
        evaluator, step = self._games[0].evaluator, _ROWS_AT_ONCE
        coalitions = coalitions_without(sets, len(self.bench.roster))
        if self.time is not None:
            step = self.time.rows_at_once(len(self.halves.choosing))
        for start in range(0, len(coalitions), step):
            yield from evaluator.answer(coalitions[start : start + step], None, keep_all)

    @stage("confirming")
    def _confirm(
        self, patch: Patch, after: NDArray[Any], story: dict[str, Any]
    ) -> Chosen | Refused:
        """Judge on images that chose nothing."""
        wishes, about = self.wishes, self.halves.confirmation.annotations
        metrics = self.bench.metrics(self.metric_names)
        common: dict[str, Any] = {"form": self.bench.form, "seed": self.bench.settings.seed}
        changes = difference(self.outputs((), 1), after, about, metrics, **common)
        reached = evaluate(after, about, metrics, suite="confirmation", **common)
        story |= told_confirmation(changes, reached.metrics, wishes.objective.metric)
        promise = changes[wishes.objective.metric]
        found = refusals(
            wishes.objective,
            wishes.limits,
            wishes.targets,
            changes,
            reached.metrics,
            max_group_drop=wishes.max_group_drop,
        )
        for refusal, by_limit in found:
            reason = (
                f"freezing {len(patch)} filters ({', '.join(f.id for f in patch.filters)}) was "
                f"best on the {len(self.halves.choosing)} images that chose, but on the "
                f"{len(about)} that confirm {refusal}; more selection images may tell"
            )
            return Refused(reason, by_limit, story)
        return Chosen(patch, promise, story)

    def _nothing(self, search: Search) -> str:
        name = self.wishes.objective.metric
        known = (
            f"{name} is {self._value(name):.4f} on the "
            f"{len(self.halves.choosing)} selection images that choose"
        )
        if not len(self.candidates.players):
            return f"{known}, and no filter's confidence bound says that it harms"
        last = search.steps[-1]
        if last.added is None:
            return f"{known}; {last.reason}"
        best = self.bench.roster.filters[last.added].id
        return (
            f"{known}; of {len(self.candidates.players)} candidates the best to freeze is {best}, "
            f"which {last.reason}"
        )

    def _decline(self, reason: str, story: dict[str, Any]) -> TargetNotMetError:
        told = f"{reason}{self._met_already()}"
        return TargetNotMetError(
            f"no repair: {told}; nothing was written", {**story, "declined": told}
        )

    def _value(self, name: str) -> float:
        """A metric of the model as it is, on the images that choose."""
        return self.criterion.before(name, np.arange(len(self.halves.choosing)))

    def _met_already(self) -> str:
        """What is to be said of targets that need no repair."""
        met = [
            str(target) for target in self.wishes.targets if target.met(self._value(target.metric))
        ]
        return f"; as it is, the model meets {' and '.join(met)} on them" if met else ""


def coalitions_without(sets: Sequence[Frozen], n_players: int) -> NDArray[np.bool_]:
    """A row for each set of players, in which just these are absent: (n_sets, n_players)."""
    coalitions = np.ones((len(sets), n_players), bool)
    for row, frozen in enumerate(sets):
        coalitions[row, list(frozen)] = False
    return coalitions


def _strata(suite: Suite) -> NDArray[np.int64]:
    about = suite.annotations
    groups = np.zeros(len(suite), np.int64) if about.groups is None else about.groups
    return 2 * groups + adversarial(about) if is_attacked(about) else groups
