"""Share of repairs promised, and promised falsely, where the truth is known exactly.

A network is a table: each image has a margin (positive where the answer is right), and freezing a
filter moves the margins of a group by a mean and each image's by noise. Margins are normal, so the
true change of every set of filters has a formula. 40 filters; of two groups one has 70 % and the
other 90 % right, of ten one has 70 % and the others 80 to 95 %. Where nothing helps, ten groups
have 80 % each: which one fares worst is chance. *0*: no filter changes the accuracy of any group;
*-0.5*: each one costs the worst group (of equals, every group) half a point; *+7*: three of the
filters, frozen together, gain it seven points.

The search, the cross-confirmation and its promises are repairkit's own; candidates are screened by
the mean change of the likelihood over its error, by the images that choose. A promise is false
where the promised figure does not rise by a tenth of a point, or of a hundredth in likelihood.

    python benchmarks/simulated_promises.py [--null 200] [--runs 40] [--rules RULE ...]
                                            [--rows FOLDER] [--table]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.promising import (
    BALANCED,
    NEW,
    PROMISED,
    SMOOTH,
    TODAY,
    WORST,
    Row,
    Rows,
    bar,
    bounds_of_share,
    revision,
)
from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Indices
from repairkit.data.parts import strata_of
from repairkit.jobs.repair.confirming import confirm, cross_fit, draw_folds
from repairkit.jobs.repair.ladder import CureJudge, not_sure
from repairkit.jobs.repair.objective import (
    N_FOLDS,
    PROMISES,
    ChoosingCriterion,
    Limit,
    Objective,
    Wishes,
)
from repairkit.metrics.catalogue import make_metric
from repairkit.repairs.crossfit import Bound, Folds, assign_folds
from repairkit.repairs.cure import Cured, Nothing
from repairkit.repairs.search import Frozen, Screened, Search, SearchSettings

N_FILTERS, N_PLANTED, N_CANDIDATES = 40, 3, 24
SPREAD, NOISE = 1.5, 0.3  # of margins, and of what a filter does to them
SIZES, N_GROUPS = (200, 600, 1_500), (2, 10)
NOTHING, GAINS = ("0", "-0.5"), ("+3", "+7", "+14")
NEGLIGIBLE, MAX_GROUP_DROP, MOST_FALSE = 0.001, 0.05, 0.05
ROWS = Path(__file__).parent / ".cache" / "simulated_promises"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Groups of equal size and what filters do to them.

    Attributes:
        accuracies: of the groups, (n_groups,).
        means: by what a filter moves a group's margins on average, (N_FILTERS, n_groups).
    """

    accuracies: Floats
    means: Floats

    @classmethod
    def of(cls, n_groups: int, truth: str) -> World:
        """See the module."""
        points = float(truth) / 100
        if n_groups == 10 and truth in NOTHING:
            accuracies = np.full(10, 0.8)
        else:
            accuracies = np.r_[0.7, np.linspace(0.8, 0.95, 9) if n_groups == 10 else 0.9]
        means = np.tile(_shift(accuracies, accuracies, 1), (N_FILTERS, 1))
        suffering = accuracies == accuracies.min()
        wanted = accuracies + np.where(suffering, points, 0.0)
        if points < 0:
            means[:] = _shift(accuracies, wanted, 1)
        elif points > 0:
            means[:N_PLANTED] = _shift(accuracies, wanted, N_PLANTED) / N_PLANTED
        return cls(accuracies, means)

    def draw(self, n_images: int, rng: np.random.Generator) -> tuple[Indices, Floats, Floats]:
        """Groups, margins (n_images,) and what filters do to them (N_FILTERS, n_images)."""
        groups = np.arange(n_images) % len(self.accuracies)
        margins = SPREAD * (norm.ppf(self.accuracies)[groups] + rng.standard_normal(n_images))
        noise = NOISE * rng.standard_normal((N_FILTERS, n_images))
        return groups, margins, self.means[:, groups] + noise

    def figures(self, frozen: Frozen) -> dict[str, float]:
        """The true figures with filters frozen."""
        spread = math.hypot(SPREAD, NOISE * math.sqrt(len(frozen)))
        middle = SPREAD * norm.ppf(self.accuracies) + self.means[list(frozen)].sum(axis=0)
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        margins = middle[:, None] + spread * nodes
        likelihoods = -np.logaddexp(0, -margins) @ weights / weights.sum()
        return {
            WORST: float(norm.cdf(middle / spread).min()),
            SMOOTH: float(likelihoods.min()),
            BALANCED: float(likelihoods.mean()),
        }


def _shift(before: Floats, after: Floats, n_filters: int) -> Floats:
    """By what so many filters together must move margins for accuracies to change like that."""
    spread = math.hypot(SPREAD, NOISE * math.sqrt(n_filters))
    return np.asarray(spread * norm.ppf(after) - SPREAD * norm.ppf(before))


@dataclass(frozen=True, eq=False)
class Table:
    """Selection images that were drawn; a `Cure` that freezes filters of the table.

    `folds` are those of the cross-fitting, which a search inside it uses too; None where there is
    none.
    """

    groups: Indices
    margins: Floats
    effects: Floats
    seed: int
    folds: Folds | None = None
    name: str = "freeze"

    @cached_property
    def about(self) -> Annotations:
        n_groups = int(self.groups.max()) + 1
        names = tuple(f"group {number}" for number in range(n_groups))
        labels = np.ones(len(self.groups), np.int64)
        return Annotations(
            labels=labels,
            groups=self.groups.astype(np.int64),
            group_names=names,
            class_names=("no", "yes"),
        )

    @cached_property
    def criterion(self) -> ChoosingCriterion:
        return ChoosingCriterion(
            wishes=WISHES,
            metrics=self.metrics,
            form=FORM,
            annotations=self.about,
            plain=self.outputs(()),
        )

    def metrics(self, names: Any) -> tuple[Any, ...]:
        """Metrics by name."""
        common: dict[str, Any] = {"form": FORM, "annotations": self.about, "n_classes": 2}
        return tuple(make_metric(name, **common) for name in names)

    def judge(self, within: Indices, *, n_folds: int) -> CureJudge:
        """Of some of the images."""
        return CureJudge(
            wishes=WISHES,
            metrics=self.metrics,
            reported=(WORST, "accuracy"),
            form=FORM,
            annotations=self.about.take(within),
            n_folds=n_folds,
            seed=self.seed,
        )

    def outputs(self, frozen: Frozen) -> Floats:
        """Two logits for each image."""
        margins = self.margins + self.effects[list(frozen)].sum(axis=0)
        return np.stack([np.zeros_like(margins), margins], axis=1)

    @cached_property
    def _changes(self) -> Floats:
        """What freezing each filter changes the log-likelihood of each image by."""
        plain = -np.logaddexp(0, -self.margins)
        return np.asarray(-np.logaddexp(0, -self.margins - self.effects) - plain)

    def _screen(self, within: Indices) -> tuple[int, ...]:
        """The filters that seem to do most harm, to all images or to the group that fares worst."""
        right = np.bincount(self.groups[within], self.margins[within] > 0)
        worst = within[self.groups[within] == np.argmin(right)]
        sure = []
        for rows in (within, worst):
            own = self._changes[:, rows]
            sure.append(own.mean(axis=1) / own.std(axis=1) * math.sqrt(len(rows)))
        ranked = np.argsort(-np.max(sure, axis=0), kind="stable")
        return tuple(ranked[:N_CANDIDATES].tolist())

    def on(self, within: Indices) -> Cured | Nothing:
        """See `repairs.Cure`."""
        rng = np.random.default_rng([self.seed, 2])
        settings = SearchSettings()
        folds = None if self.folds is None else self.folds.among(within)
        strata = strata_of(self.about)
        folds = folds or assign_folds(strata, settings.n_folds, rng, within=within)
        search = Search(
            answer=lambda sets: (self.outputs(frozen) for frozen in sets),
            criterion=self.criterion,
            folds=folds,
            settings=settings,
            rng=rng,
        )
        screens = [self._screen(rest) for rest in folds.rest]
        path = search.run(Screened.of(self._screen(within), screens))
        steps = [self._cured(frozen) for frozen in path[1:]]
        if not steps:
            return Nothing("nothing is sure enough")
        last = steps[-1]
        return replace(last, fewer=tuple(steps[:-1]))

    def _cured(self, frozen: Frozen) -> Cured:
        patch = Patch(tuple(FrozenFilter(Filter("table", player), 0.0) for player in frozen))
        return Cured(patch=patch, outputs=self.outputs(frozen), gain=Bound(0.0, 0.0))


FORM = OutputForm("logits")
WISHES = Wishes(
    objective=Objective.of(WORST),
    limits=(Limit("accuracy", 0.01),),
    max_group_drop=MAX_GROUP_DROP,
)


def by_all(table: Table) -> tuple[Patch, str, float] | None:
    """What cross-confirmation promises: patch, figure and stated change."""
    everyone = np.arange(len(table.groups))
    folds = draw_folds(table.about, N_FOLDS, table.seed)
    fitted = cross_fit(replace(table, folds=folds), folds, table.outputs(()))
    if isinstance(fitted.whole, Nothing):
        return None
    found = confirm(fitted, table.judge(everyone, n_folds=folds.n_folds))
    rung = found.verdict.best(PROMISES[-1])
    if rung is None or found.verdict.refusal is not None:
        return None
    figure = PROMISED[WORST][rung.name]
    assert rung.change is not None
    sign = -1 if figure == BALANCED else 1  # told as a loss
    return fitted.whole.first(found.n_steps).patch, figure, sign * rung.change.value


def by_a_third(table: Table) -> tuple[Patch, str, float] | None:
    """What a third of the images confirms that chose nothing."""
    everyone = np.arange(len(table.groups))
    thirds = assign_folds(strata_of(table.about), 3, np.random.default_rng([table.seed, 1]))
    confirming = everyone[thirds.fold_of == 0]
    whole = table.on(everyone[thirds.fold_of > 0])
    if isinstance(whole, Nothing):
        return None
    judge, before = table.judge(confirming, n_folds=0), table.outputs(())[confirming]
    for n_steps in range(whole.n_steps, 0, -1):
        cured = whole.first(n_steps)
        verdict = judge.judge(before, cured.outputs[confirming])
        if not_sure(judge.wishes.objective, verdict.changes):
            return None
        if verdict.refusal is None:
            return cured.patch, WORST, verdict.changes[WORST].value
        if not verdict.refusal.costs_too_much:
            return None
    return None


WAYS = {TODAY: by_a_third, NEW: by_all}


def try_one(n_groups: int, truth: str, size: int, draw: int, rule: str) -> Row:
    """What a rule promises of one draw."""
    world = World.of(n_groups, truth)
    table = Table(*world.draw(size, np.random.default_rng([draw, size, n_groups])), draw)
    named: dict[str, Any] = {"setting": f"{n_groups} groups, {truth}", "objective": WORST}
    named |= {"n_images": size, "draw": draw, "rule": rule, "revision": revision()}
    began = time.process_time()
    found = WAYS[rule](table)
    named["seconds"] = time.process_time() - began
    if found is None:
        return Row(**named)
    patch, figure, stated = found
    before, after = world.figures(()), world.figures(tuple(f.channel for f in patch.filters))
    true = {name: after[name] - before[name] for name in before}
    true = {
        name: change if change > NEGLIGIBLE else min(change, 0.0) for name, change in true.items()
    }
    return Row(**named, figure=figure, stated=(stated,) * 3, true=true, n_frozen=len(patch))


def make(rules: list[str], n_null: int, n_gains: int, folder: Path) -> None:
    """The rows that are missing; every cell grows at the same pace."""
    for draw in range(max(n_null, n_gains)):
        for rule in rules:
            rows = Rows(folder / f"{rule.replace(' ', '-')}.jsonl")
            for n_groups in N_GROUPS:
                for size in SIZES:
                    for truth in (*NOTHING, *GAINS):
                        if draw >= (n_null if truth in NOTHING else n_gains):
                            continue
                        key = (f"{n_groups} groups, {truth}", WORST, size, draw, rule)
                        asked = (n_groups, truth, size, draw, rule)
                        rows.make(key, lambda asked=asked: try_one(*asked))
        print(f"  draw {draw}", file=sys.stderr, flush=True)


def print_table(rows: list[Row]) -> None:
    """Shares promised, and of promises that are false."""
    cells: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.rule, row.n_images, row.setting), []).append(row)
    truths = (*NOTHING, *GAINS)
    print("Share of draws with a promise; in brackets that of the objective itself.\n")
    print(f"| groups | images | rule | {' | '.join(truths)} |")
    print("|---|---|---|" + "---|" * len(truths))
    for n_groups in N_GROUPS:
        for size in SIZES:
            for rule in sorted({row.rule for row in rows}):
                own = [cells.get((rule, size, f"{n_groups} groups, {t}"), []) for t in truths]
                told = " | ".join(map(_share, own))
                print(f"| {n_groups} | {size} | {rule} | {told} |")
    print("\nWhere nothing helps: false promises, with 95 % intervals, and where something does.\n")
    head = "| groups | images | rule | draws | false | share | promises of gains | kept "
    print(head + "| stated less true, in points |")
    print("|---|---|---|---|---|---|---|---|---|")
    for n_groups in N_GROUPS:
        for size in SIZES:
            for rule in sorted({row.rule for row in rows}):
                own = [cells.get((rule, size, f"{n_groups} groups, {t}"), []) for t in truths]
                null = [row for found in own[: len(NOTHING)] for row in found]
                gains = [row for found in own[len(NOTHING) :] for row in found if row.promised]
                print(f"| {n_groups} | {size} | {rule} | {_false(null)} | {_gains(gains)} |")
    for rule in sorted({row.rule for row in rows}):
        null = [r for r in rows if r.rule == rule and r.setting.split(", ")[1] in NOTHING]
        if null:
            false = sum(r.promised and not r.kept for r in null)
            low, high = bounds_of_share(false, len(null))
            share = f"{false / len(null):.1%} ({low:.1%} to {high:.1%})"
            text = f"{rule}: {false} of {len(null)} draws promised falsely, {share}, 5 % allowed"
            bar(text, false <= MOST_FALSE * len(null))


def _share(rows: list[Row]) -> str:
    if not rows:
        return ""
    whole, own = (
        sum(row.promised for row in found) / len(rows)
        for found in (rows, [row for row in rows if row.figure == WORST])
    )
    return f"{whole:.3f} ({own:.3f})"


def _false(rows: list[Row]) -> str:
    if not rows:
        return " | | "
    false = sum(row.promised and not row.kept for row in rows)
    low, high = bounds_of_share(false, len(rows))
    return f"{len(rows)} | {false} | {false / len(rows):.1%} ({low:.1%} to {high:.1%})"


def _gains(rows: list[Row]) -> str:
    own = [100 * row.excess for row in rows if row.figure == WORST]
    excess = f"{np.mean(own):+.1f}" if own else ""
    return f"{len(rows)} | {sum(row.kept for row in rows)} | {excess}"


def main() -> None:
    """Make what is missing and print the tables."""
    parser = argparse.ArgumentParser(description="Promises where the truth is known exactly")
    parser.add_argument("--null", type=int, default=200)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--rules", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        make(options.rules, options.null, options.runs, options.rows)
    print_table([row for path in sorted(options.rows.glob("*.jsonl")) for row in Rows(path)])


if __name__ == "__main__":
    main()
