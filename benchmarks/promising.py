"""Rules that promise repairs, on the same draws of images, each judged by fresh images.

What a rule did with a draw is a row. Rows are kept in a file of JSON lines, so that a table can be
made in pieces, and by several processes, each with rules of its own. A row says which revision of
the code it is of; nothing is made anew that is there.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from repairkit.core.errors import TargetNotMetError
from repairkit.core.filters import Patch
from repairkit.core.outputs import OutputForm
from repairkit.core.results import Figure
from repairkit.core.suite import Annotations, Array, Suite
from repairkit.graph.baking import bake
from repairkit.jobs.repair.objective import FAIRNESS_OBJECTIVE, Objective
from repairkit.jobs.repair.patching import choose_patch
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.definition import LogLikelihoods

TODAY, NEW = "a third confirms", "cross-confirmation"
BIAS, LAST, BEST = (f"{NEW}, {cure}" for cure in ("class biases", "last layer", "best cure"))
_ALONE = {"score": ScoreSettings("leave-one-out")}
RULES: dict[str, dict[str, Any]] = {
    TODAY: {"confirm_share": 1 / 3},
    NEW: {},
    BIAS: {"repair": "bias"},
    LAST: {"repair": "last-layer"},
    BEST: {"repair": "best"},
    f"{TODAY}, leave-one-out": {"confirm_share": 1 / 3, **_ALONE},
    f"{NEW}, leave-one-out": _ALONE,
    f"{BEST}, leave-one-out": {"repair": "best", **_ALONE},
}
WORST, ACCURACY, SMOOTH, BALANCED, LIKELIHOOD = (
    FAIRNESS_OBJECTIVE,
    "accuracy",
    "likelihood of the worst group",
    "balanced likelihood",
    "likelihood",
)
# The figure that each rung of the ladder promises, by objective.
PROMISED = {
    WORST: {"objective": WORST, "smooth": SMOOTH, "likelihood": BALANCED},
    ACCURACY: {"objective": ACCURACY, "smooth": LIKELIHOOD, "likelihood": LIKELIHOOD},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a rule did with a draw.

    Attributes:
        setting: network and images.
        objective: what was to be improved.
        n_images: selection images.
        draw: number of the draw.
        rule: a name of `RULES`.
        revision: of the code.
        figure: which figure is promised; empty where nothing is.
        stated: its change and the interval as promised.
        true: changes on fresh images by figure.
        falls: the largest true fall of a group's accuracy.
        n_frozen: filters that are frozen.
        cure: how the model was changed.
        seconds: CPU time of the choice.
        passes: of images, as the choice tells them.
        reason: why nothing was promised.
    """

    setting: str
    objective: str
    n_images: int
    draw: int
    rule: str
    revision: str
    figure: str = ""
    stated: tuple[float, float, float] = (0.0, 0.0, 0.0)
    true: Mapping[str, float] = field(default_factory=dict)
    falls: float = 0.0
    n_frozen: int = 0
    cure: str = ""
    seconds: float = 0.0
    passes: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        return self.setting, self.objective, self.n_images, self.draw, self.rule

    @property
    def promised(self) -> bool:
        return bool(self.figure)

    @property
    def kept(self) -> bool:
        """Whether what was promised truly rises."""
        return self.promised and self.true[self.figure] > 0

    @property
    def gain(self) -> float:
        """The true change of the objective; 0 where nothing was promised."""
        return self.true[self.objective] if self.promised else 0.0

    @property
    def excess(self) -> float:
        """The stated change of what was promised less the true one."""
        return self.stated[0] - self.true[self.figure]


class Rows:
    """The rows of a file, and those that come to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._known = {row.key: row for row in (Row(**json.loads(line)) for line in lines)}

    def make(self, key: tuple[Any, ...], work: Callable[[], Row]) -> Row:
        """The row of `key`, made where it is missing."""
        if key not in self._known:
            row = work()
            assert row.key == key
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            self._known[key] = row
        return self._known[key]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._known.values())


@dataclass(frozen=True)
class Judge:
    """Fresh images and what the model as it is answers for them.

    `groups` (n_images,) are those in which accuracies are compared, whether the rule knows of them
    or not.
    """

    bench: Bench
    fresh: Suite
    groups: NDArray[np.int64]
    before: Array

    def outputs(self, patch: Patch) -> Array:
        """The patched model's, by a session of the baked file."""
        working = self.bench.working
        model = bake(working.survey, patch).model
        opened = working.opened.variant(model, device="cpu")
        return opened.run_suite(self.fresh, working.effort.batch_size)

    def changes(self, after: Array) -> tuple[dict[str, float], float]:
        """True changes by figure, and the largest fall of a group's accuracy."""
        assert self.bench.form is not None
        about = self.fresh.annotations
        (old, by_group), (new, by_group_after) = (
            _figures(outputs, about, self.groups, self.bench.form)
            for outputs in (self.before, after)
        )
        falls = float(np.max(by_group - by_group_after))
        return {name: new[name] - old[name] for name in old}, falls


def _figures(
    outputs: Array, about: Annotations, groups: NDArray[np.int64], form: OutputForm
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """All figures that may be promised, and the accuracy of each group."""
    right = form.predictions(outputs) == about.labels
    likelihood = LogLikelihoods(form)(outputs, about)
    sizes = np.bincount(groups)
    accuracies, likelihoods = (np.bincount(groups, each) / sizes for each in (right, likelihood))
    return {
        WORST: float(accuracies.min()),
        ACCURACY: float(right.mean()),
        SMOOTH: float(likelihoods.min()),
        BALANCED: float(likelihoods.mean()),
        LIKELIHOOD: float(likelihood.mean()),
    }, accuracies


def try_rule(
    key: tuple[Any, ...], bench: Bench, judge: Judge, settings: Mapping[str, Any] | None = None
) -> Row:
    """What the rule of `key` does on a bench, as a row."""
    setting, objective, n_images, draw, rule = key
    named = {"setting": setting, "objective": objective, "n_images": n_images}
    named |= {"draw": draw, "rule": rule, "revision": revision()}
    how = PatchSettings(objective=objective, **RULES[rule], **(settings or {}))
    began = time.process_time()
    try:
        made = choose_patch(bench, how, Objective.of(objective), None)
    except TargetNotMetError as declined:
        return Row(**named, seconds=time.process_time() - began, reason=str(declined))
    seconds = time.process_time() - began
    true, falls = judge.changes(judge.outputs(made.patch))
    assert made.promise is not None
    assert made.selection is not None
    figure, promise = _promise(objective, made.promise, made.selection.get("promise"))
    return Row(
        **named,
        figure=figure,
        stated=(promise.value, promise.ci_low, promise.ci_high),
        true=true,
        falls=falls,
        n_frozen=len(made.patch),
        cure=str(made.selection.get("cure") or "freeze"),
        seconds=seconds,
        passes=made.selection.get("passes") or {},
    )


def _promise(objective: str, plain: Figure, told: Mapping[str, Any] | None) -> tuple[str, Figure]:
    """Which figure is promised, and its change; of losses the fall is the change."""
    if told is None:
        return objective, plain
    (rung,) = (rung for rung in told["rungs"] if rung["name"] == told["reached"])
    figure, change = PROMISED[objective][rung["name"]], Figure(**rung["change"])
    if rung["name"] == "likelihood":  # it is told as a loss
        change = Figure(-change.value, -change.ci_high, -change.ci_low)
    return figure, change


@cache
def revision() -> str:
    """The commit of the code."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def bounds_of_share(met: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson 1934)."""
    rest = (1 - level) / 2
    low = float(beta.ppf(rest, met, of - met + 1)) if met else 0.0
    high = float(beta.ppf(1 - rest, met + 1, of - met)) if met < of else 1.0
    return low, high


def print_rules(rows: Iterable[Row]) -> None:
    """A line for each objective, number of images and rule."""
    print(
        "| objective | images | rule | draws | promised | kept | true gain, mean (least to most) | "
        "stated less true | largest fall of a group | frozen | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    cells: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.objective, row.n_images, row.rule), []).append(row)
    for (objective, n_images, rule), found in sorted(cells.items()):
        made = [row for row in found if row.promised]
        rungs = Counter(row.figure for row in made)
        rungs.pop(objective, None)
        below = ", ".join(f"{n} the {figure}" for figure, n in rungs.items())
        gains = [100 * row.gain for row in found]
        line = f"| {objective} | {n_images} | {rule} | {len(found)} "
        line += f"| {len(made)} ({below}) " if below else f"| {len(made)} "
        line += f"| {sum(row.kept for row in made)} "
        line += f"| {np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f}) "
        own = [row for row in made if row.figure == objective]
        line += f"| {np.mean([100 * row.excess for row in own]):+.1f} " if own else "| "
        line += f"| {100 * max(row.falls for row in made):.1f} " if made else "| "
        line += f"| {np.mean([row.n_frozen for row in made]):.1f} " if made else "| "
        print(line + f"| {np.mean([row.seconds for row in found]):.0f} |")


def bar(text: str, met: bool) -> None:
    """One line that says whether a bar was met."""
    print(f"{'PASS' if met else 'MISS'}: {text}")
