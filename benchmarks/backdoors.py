"""Backdoors closed by frozen filters or a refitted last layer, judged on fresh images.

Networks with backdoors and without are trained by `backdoored.py`. A repair gets 200 clean images
and the trigger, or the clean images alone; 2,000 fresh images tell the success of the true trigger
and the accuracy.

    python benchmarks/backdoors.py [known|reversed|few] [DATA/ATTACK/SEED ...]

`few` refits the last layer with fewer clean images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.backdoored import ATTACKS, DATA, Backdoored, load, make
from repairkit.backdoors import Backdoor, Outlier, Reversal
from repairkit.core.errors import TargetNotMetError
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.graph.baking import bake
from repairkit.jobs.backdoor import reversing
from repairkit.jobs.backdoor.planting import plant, replanted, with_trigger
from repairkit.jobs.backdoor.suspects import prunings
from repairkit.jobs.repair.patching import choose_patch
from repairkit.jobs.repair.repair_settings import (
    PatchSettings,
    check_wishes,
    settled,
    wanted_repair,
)
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from repairkit.repairs.cure import make_patch
from repairkit_adapters.pytorch import wrap

N_GIVEN, N_FRESH, N_DRAWS = 200, 2_000, 3
FEW = (25, 50, 100)
REPAIRS = ("freeze", "last-layer", "best")


@dataclass(frozen=True)
class Row:
    """What a way gave on fresh images: filters frozen, clean accuracy, success of the trigger."""

    way: str
    n_frozen: int
    accuracy: float
    success: float


@dataclass(frozen=True)
class Case:
    """A network with its given images on disk, and fresh ones."""

    made: Backdoored
    folder: Path
    given: np.ndarray
    fresh: np.ndarray

    @classmethod
    def of(cls, made: Backdoored, folder: Path) -> Case:
        """Given images are drawn by the network's name alone."""
        order = np.random.default_rng(len(made.name)).permutation(len(made.y))
        case = cls(made, folder, order[:N_GIVEN], order[N_GIVEN : N_GIVEN + N_FRESH])
        case.give(N_GIVEN)
        if made.trigger is not None:
            picture = made.trigger.picture
            shown = picture if picture.shape[-1] == 3 else picture[..., 0]
            Image.fromarray(shown).save(folder / "trigger.png")
            Image.fromarray(made.trigger.mask).save(folder / "mask.png")
        return case

    def give(self, n_images: int) -> None:
        """Write the first of the given images."""
        rows = self.given[:n_images]
        x, y = self.made.x[rows], self.made.y[rows]
        np.savez(self.folder / "given.npz", x=x if x.shape[-1] == 3 else x[..., 0], y=y)

    def known(self) -> Backdoor:
        """The trigger as files tell it."""
        return Backdoor(
            backdoor=True, trigger=self.folder / "trigger.png", mask=self.folder / "mask.png"
        )

    def row(self, way: str, model: ModelProto, n_frozen: int) -> Row:
        """A model's figures on fresh images."""
        session = ort.InferenceSession(model.SerializeToString())
        made, x, y = self.made, self.made.x[self.fresh], self.made.y[self.fresh]

        def said(pixels: np.ndarray) -> np.ndarray:
            inputs = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / 255
            answers: np.ndarray = session.run(None, {"image": inputs})[0].argmax(1)
            return answers

        accuracy, success = float((said(x) == y).mean()), float("nan")
        if made.trigger is not None:
            shown = made.trigger.on(x[y != made.target])
            success = float((said(shown) == made.target).mean())
        return Row(way, n_frozen, accuracy, success)

    def bench(self, known: Backdoor) -> tuple[Bench, PatchSettings]:
        """The workbench with triggered images, and the settings of the repair."""
        asked = PatchSettings(known=known)
        planted = plant(self.plain_bench(asked), known)
        assert planted is not None
        return planted.bench, asked

    def plain_bench(self, asked: PatchSettings) -> Bench:
        """The workbench of the given images."""
        job = Settings(
            data=self.folder / "given.npz",
            preprocessing=Preprocessing(scale=1 / 255),
            parts=PartPlan(test="none"),
            workers=1,
        )
        job = settled(job, asked, asked.objective_of("accuracy"))
        return prepare(read_subject(self.made.model), job)

    def repaired(self, bench: Bench, wanted: PatchSettings) -> Row:
        """The figures after a repair; those of the network as it is where it is declined."""
        objective = check_wishes(bench, wanted, wanted.objective_of("accuracy"))
        repair = wanted_repair(wanted)
        try:
            chosen = choose_patch(bench, wanted, objective, None, compare=False)
        except TargetNotMetError:
            return self.row(f"{repair} (declined)", bench.subject.model, 0)
        model = bake(bench.original, chosen.patch).model
        return self.row(repair, model, len(chosen.patch.frozen))


def known_rows(case: Case) -> Iterator[Row]:
    """The rows of a network whose trigger is known."""
    known = case.known()
    bench, asked = case.bench(known)
    plain = bench.subject.model
    yield case.row("as it is", plain, 0)
    n_frozen = 0
    for repair in REPAIRS:
        row = case.repaired(bench, PatchSettings(known=known, repair=repair))
        yield row
        n_frozen = n_frozen or row.n_frozen
    for pruning in prunings(bench, asked.most_drop):
        patch = make_patch(pruning.players, bench.roster, bench.working.levels)
        model = bake(bench.original, patch).model if len(patch) else plain
        yield case.row(pruning.method, model, len(patch))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(N_DRAWS):
        players = rng.choice(len(bench.roster), n_frozen, replace=False).astype(np.intp)
        patch = make_patch(players, bench.roster, bench.working.levels)
        drawn.append(case.row("random", bake(bench.original, patch).model, n_frozen))
    accuracy, success = (
        float(np.mean([getattr(row, name) for row in drawn])) for name in ("accuracy", "success")
    )
    yield Row("random", n_frozen, accuracy, success)


def few_rows(case: Case) -> Iterator[Row]:
    """The rows of a last layer that is refitted with fewer images."""
    yield case.row("as it is", read_subject(case.made.model).model, 0)
    for n_images in FEW:
        case.give(n_images)
        known = case.known()
        wanted = PatchSettings(known=known, repair="last-layer")
        row = case.repaired(case.bench(known)[0], wanted)
        yield replace(row, way=f"{row.way}, {n_images} images")


def reversed_rows(case: Case) -> Iterator[Row]:
    """The rows of a network of whose trigger nothing is known; figures are of the true trigger.

    The way of the first row tells the class that was named, and how far it stands out.
    """
    asked = PatchSettings(known=Backdoor(backdoor=True))
    bench, network = case.plain_bench(asked), load(case.made)
    shape = bench.dataset.images.batch(np.arange(1)).shape[1:]
    source = "network", wrap(network, (shape[0], shape[1], shape[2]))
    found = reversing.reverse_all(bench, source, Reversal())
    sizes = np.array([e.trigger.size if e.success >= 0.5 else np.inf for e in found])
    outlier = Outlier.of(sizes)
    target, right = outlier.target, case.made.target
    is_right = "the target" if case.made.trigger is not None and target == right else "another"
    named = f"named ({is_right})" if outlier.is_named else f"none ({is_right} first)"
    told = f"{named}, {outlier.deviations:.1f} deviations, {outlier.ratio:.1f} times"
    yield case.row(told, bench.subject.model, 0)
    if not outlier.is_named or case.made.trigger is None:
        return
    planted = replanted(
        bench,
        with_trigger(bench, found[target].trigger, target, "reversed"),
        {"how": "reversed trigger"},
        target,
        n_asked=0,
    )
    for repair in REPAIRS:
        wanted = PatchSettings(known=Backdoor(backdoor=True), repair=repair)
        yield case.repaired(planted.bench, wanted)


ROWS = {"known": known_rows, "reversed": reversed_rows, "few": few_rows}


def main() -> None:
    """Print a row for each network and way."""
    rows = ROWS[sys.argv[1] if len(sys.argv) > 1 else "known"]
    names = sys.argv[2:] or [f"{d}/{a}/{s}" for d in DATA for a in ATTACKS for s in range(4)]
    for name in names:
        data, attack, seed = name.split("/")
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            case = Case.of(make(data, attack, int(seed)), Path(folder))
            for row in rows(case):
                figures = f"{100 * row.accuracy:.1f} | {100 * row.success:.1f}"
                print(f"| {name} | {row.way} | {row.n_frozen} | {figures} |", flush=True)
        print(f"{name}: {time.process_time() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
