"""Repairs of images that a model gets wrong, judged by fresh images of the same kind.

Two networks that others trained (`$REPAIRKIT_ZOO`, or ../shared/zoo), and those that learned a
shortcut (`benchmarks/shortcuts.py`). A *kind* is a set of images that are alike: some images are
changed (a bright frame, dark for light, dim), or a class is taken for another. The like images are
those of the kind that the model gets wrong. Those among the selection images are marked; `--fix`
repairs; fresh ones, which nothing else sees, tell how many are right then, and what became of the
accuracy on all other fresh images. The bar: 60 % are mended at 0.5 points elsewhere, or the repair
declines.

    python benchmarks/fixing.py [--kinds NAME ...] [--seeds 3] [--rows FILE] [--table]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import shortcuts
from benchmarks.promising import bar
from repairkit.core.errors import TargetNotMetError
from repairkit.core.filters import Patch
from repairkit.core.suite import Array
from repairkit.data.parts import PartPlan, Parts
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.repair.aims import marking
from repairkit.jobs.repair.patching import choose_patch
from repairkit.jobs.repair.repair_settings import PatchSettings, settled
from repairkit.jobs.setup.preparing import patched_outputs, prepare, with_parts
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from repairkit.repairs.cure import make_patch

ZOO = Path(os.environ.get("REPAIRKIT_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
ROWS = Path(__file__).parent / ".cache" / "fixing.jsonl"
N_SELECTION, SHARE = 3_000, 0.15
N_RANDOM, N_FROZEN_AT_RANDOM = 10, 4
MENDED, LOST = 0.6, 0.005
CURES: dict[str, dict[str, Any]] = {
    "freeze": {},
    "bias": {"repair": "bias"},
    "last-layer": {"repair": "last-layer"},
    "freeze, 2 points": {"max_drop": 0.02, "mend": 0.3},
}
LOOSE = "freeze, 2 points"
"""Not held to the bar: 30 % are to be mended, at 2 points elsewhere."""
RANDOM = "random filters"

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A model and its images; `like` are those of the kind, of which the wrong ones count.

    Where `taken_for` is not negative, only images that are taken for that class count.
    """

    model: Path
    x: Pixels
    y: Labels
    like: NDArray[np.bool_]
    scale: float | None = None
    taken_for: int = -1


def framed(x: Pixels) -> Pixels:
    """A bright frame of a tenth of the side."""
    width, out = x.shape[1] // 10, x.copy()
    out[:, :width] = out[:, -width:] = 255
    out[:, :, :width] = out[:, :, -width:] = 255
    return out


def turned(x: Pixels) -> Pixels:
    """A quarter turn."""
    return np.rot90(x, 1, axes=(1, 2)).copy()


def dimmed(x: Pixels) -> Pixels:
    """A third as bright."""
    return x // 3


def inverted(x: Pixels) -> Pixels:
    """Dark for light."""
    return 255 - x


Change = Callable[[Pixels], Pixels]


def changed(
    model: str, data: str, change: Change, *, of_class: int | None = None
) -> Callable[[int], Case]:
    """Some images of a zoo model are changed: a share of all, or half of one class."""

    def make(seed: int) -> Case:
        x, y = _zoo(data)
        rng = np.random.default_rng([seed, 7])
        like = rng.random(len(y)) < SHARE
        if of_class is not None:
            like = (y == of_class) & (rng.random(len(y)) < 0.5)
        x[like] = change(x[like])
        return Case(ZOO / "models" / f"{model}.onnx", x, y, like)

    return make


def confused(model: str, data: str, true: int, taken_for: int) -> Callable[[int], Case]:
    """Images of one class that are taken for another."""

    def make(_seed: int) -> Case:
        x, y = _zoo(data)
        return Case(ZOO / "models" / f"{model}.onnx", x, y, y == true, taken_for=taken_for)

    return make


def marked(seed: int) -> Case:
    """A bright corner, which came with bags in training; a network of its own for each seed."""
    setting = shortcuts.marks(seed)
    rng = np.random.default_rng([seed, 8])
    kept = (setting.group == "unmarked") | (rng.random(len(setting.y)) < 0.3)
    like = (setting.group == "marked")[kept]
    return Case(setting.model, setting.x[kept], setting.y[kept], like, 1 / setting.brightest)


def _zoo(data: str) -> tuple[Pixels, Labels]:
    with np.load(ZOO / "data" / f"{data}.npz") as stored:
        return stored["x"].copy(), stored["y"].astype(np.int64)


_DIGITS = ("cntk_mnist8", "mnist_test10k")
_PICTURES = ("mlperf_resnet8", "cifar10_jpeg_test10k")
KINDS: dict[str, Callable[[int], Case]] = {
    "marks, bright corner": marked,
    "cntk_mnist8, bright frame": changed(*_DIGITS, framed),
    "cntk_mnist8, dark for light": changed(*_DIGITS, inverted),
    "cntk_mnist8, turned sevens": changed(*_DIGITS, turned, of_class=7),
    "mlperf_resnet8, dogs for cats": confused(*_PICTURES, 5, 3),
    "mlperf_resnet8, dim": changed(*_PICTURES, dimmed),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a cure did with a kind of image.

    Attributes:
        kind: a name of `KINDS`.
        seed: of images, and of the network where it is trained here.
        cure: freezing, class biases, a refitted last layer, or filters at random.
        n_marked: selection images to fix.
        n_like: fresh images of the kind that were wrong.
        promised: whether a repair was made.
        n_frozen: filters that were frozen.
        mended: share of the fresh like images that are right then; 0 where it declined.
        elsewhere: change of the accuracy on all other fresh images.
        reason: why it declined.
        seconds: of CPU.
    """

    kind: str
    seed: int
    cure: str
    n_marked: int
    n_like: int
    promised: bool
    n_frozen: int = 0
    mended: float = 0.0
    elsewhere: float = 0.0
    reason: str = ""
    seconds: float = 0.0


class Lab:
    """A case on the bench: its selection images with marks, and fresh images."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.asked = PatchSettings(fix="to_fix")
        case = KINDS[kind](seed)
        plain = self._prepare(case, np.zeros(len(case.y), np.int64))
        answers = plain.working.run_plain(plain.parts.selection)
        assert plain.form is not None
        said = plain.form.predictions(answers)
        wrong = case.like & (said != case.y)
        if case.taken_for >= 0:
            wrong &= said == case.taken_for
        bench = self._prepare(case, wrong.astype(np.int64))
        whole = bench.parts.selection
        order = np.random.default_rng([seed, 43]).permutation(len(whole))
        chosen, rest = order[:N_SELECTION], order[N_SELECTION:]
        selection, self.fresh = whole.take(chosen, "selection"), whole.take(rest, "fresh")
        parts = Parts(selection, selection, self.fresh, (), "drawn by the benchmark")
        self.bench = with_parts(bench, parts, bench.settings)
        self.wrong, self.right = wrong[rest], said[rest] == case.y[rest]
        self.labels = case.y[rest]
        self.n_marked = int(wrong[chosen].sum())

    def _prepare(self, case: Case, marks: NDArray[np.int64]) -> Bench:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npz"
            np.savez(path, x=case.x, y=case.y, to_fix=marks)
            settings = Settings(
                data=path,
                preprocessing=Preprocessing(scale=case.scale or 1.0),
                parts=PartPlan("all", "all", "all"),
                seed=self.seed,
                workers=1,
            )
            if marks.any():
                settings = settled(settings, self.asked, self.asked.objective_of("loss"))
            return prepare(read_subject(case.model), settings)

    def try_cure(self, cure: str) -> Row:
        """What a cure does with the marked selection images, judged by the fresh ones."""
        began = time.process_time()
        asked = PatchSettings(fix="to_fix", **CURES[cure])
        objective = asked.objective_of("loss")
        patch, reason = Patch(()), ""
        try:
            asked = marking.with_bounds(self.bench, asked, objective)
            patch = choose_patch(self.bench, asked, objective, None, compare=False).patch
        except TargetNotMetError as error:
            reason = str(error)
        mended, elsewhere = (0.0, 0.0) if reason else self.judge(patch)
        return self._row(
            cure,
            promised=not reason,
            n_frozen=len(patch),
            mended=mended,
            elsewhere=elsewhere,
            reason=reason,
            seconds=time.process_time() - began,
        )

    def try_random(self) -> Row:
        """The mean over draws of filters, frozen at their means."""
        rng = np.random.default_rng([self.seed, 44])
        roster, levels = self.bench.roster, self.bench.working.levels
        figures = []
        for _ in range(N_RANDOM):
            players = rng.choice(len(roster), N_FROZEN_AT_RANDOM, replace=False).astype(np.intp)
            figures.append(self.judge(make_patch(players, roster, levels)))
        mended, elsewhere = np.mean(figures, axis=0).tolist()
        return self._row(
            RANDOM, promised=True, n_frozen=N_FROZEN_AT_RANDOM, mended=mended, elsewhere=elsewhere
        )

    def judge(self, patch: Patch) -> tuple[float, float]:
        """The share of fresh like images that are mended, and the change elsewhere."""
        after = self._right(patched_outputs(self.bench, patch, self.fresh))
        others = ~self.wrong
        change = after[others].mean() - self.right[others].mean()
        return float(after[self.wrong].mean()), float(change)

    def _right(self, outputs: Array) -> NDArray[np.bool_]:
        assert self.bench.form is not None
        return np.asarray(self.bench.form.predictions(outputs) == self.labels)

    def _row(self, cure: str, **found: bool | int | float | str) -> Row:
        return Row(
            kind=self.kind,
            seed=self.seed,
            cure=cure,
            n_marked=self.n_marked,
            n_like=int(self.wrong.sum()),
            **found,  # type: ignore[arg-type] # they are fields of a row
        )


def read_rows(path: Path) -> list[Row]:
    """The rows that are there."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def make(kinds: list[str], n_seeds: int, path: Path) -> None:
    """The rows that are missing."""
    path.parent.mkdir(exist_ok=True)
    known = {(row.kind, row.seed, row.cure) for row in read_rows(path)}
    for seed in range(n_seeds):
        for kind in kinds:
            missing = [c for c in (*CURES, RANDOM) if (kind, seed, c) not in known]
            lab = Lab(kind, seed) if missing else None
            for cure in missing:
                assert lab is not None
                row = lab.try_random() if cure == RANDOM else lab.try_cure(cure)
                with path.open("a") as file:
                    file.write(f"{json.dumps(asdict(row))}\n")
                print(row, file=sys.stderr, flush=True)


def table(rows: list[Row]) -> Iterator[str]:
    """A row for each kind and cure, over its seeds."""
    yield "| kind | to fix, fresh | cure | made | mended | elsewhere, points | CPU s |"
    yield "|---|---|---|---|---|---|---|"
    for kind in dict.fromkeys(row.kind for row in rows):
        for cure in (*CURES, RANDOM):
            own = [row for row in rows if (row.kind, row.cure) == (kind, cure)]
            made = [row for row in own if row.promised]
            if not own:
                continue
            counts = (
                f"{np.mean([r.n_marked for r in own]):.0f}, {np.mean([r.n_like for r in own]):.0f}"
            )
            told = f"| {kind} | {counts} | {cure} | "
            told += "| " if cure == RANDOM else f"{len(made)} of {len(own)} | "
            if made:
                mended = [100 * row.mended for row in made]
                lost = [100 * row.elsewhere for row in made]
                told += f"{_range(mended, '.0f')} % | {_range(lost, '+.1f')} | "
            else:
                told += "| | "
            yield f"{told}{_mean([row.seconds for row in own])} |"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.0f}"


def _range(values: list[float], form: str) -> str:
    text = f"{np.mean(values):{form}}"
    return text if len(values) == 1 else f"{text} ({min(values):{form}} to {max(values):{form}})"


def print_bars(rows: list[Row]) -> None:
    """What must hold of each repair that is made."""
    for cure in (name for name in CURES if name != LOOSE):
        made = [row for row in rows if row.cure == cure and row.promised]
        own = [row for row in rows if row.cure == cure]
        kept = [row for row in made if row.mended >= MENDED and row.elsewhere >= -LOST]
        text = f"{cure}: {len(kept)} of {len(made)} repairs mend 60 % at 0.5 points elsewhere; "
        bar(f"{text}{len(own) - len(made)} of {len(own)} declined", len(kept) == len(made))


def main() -> None:
    """Make what is missing, and print the table and the bars."""
    parser = argparse.ArgumentParser(description="Repairs of images that a model gets wrong")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        make(options.kinds, options.seeds, options.rows)
    rows = read_rows(options.rows)
    print("\n".join(table(rows)))
    print_bars(rows)


if __name__ == "__main__":
    main()
