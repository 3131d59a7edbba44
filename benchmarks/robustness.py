"""What freezing filters does for a network under attack: the paper's table, on Fashion-MNIST.

Three networks of different architecture are trained (see `attacked.py`). One is exported to ONNX
and attacked through its own gradients and through those of the others, all by the same PGD with
random targets; then `repairkit patch --robustness` scores its filters on the selection images and
freezes those that serve the adversary. The table is of the test images, which chose nothing.

    python benchmarks/robustness.py
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.attacked import EPOCHS, NETWORKS, make
from benchmarks.trained import CACHE, fashion
from repairkit.api import Patched
from repairkit.core.framework import FrameworkModel, FreshAttacks
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.attack.adversary import read_attack_settings
from repairkit.jobs.attack.attacking import AttackSettings, attack
from repairkit.jobs.export.exporting import export
from repairkit.jobs.repair.patching import patch
from repairkit.jobs.repair.repair_settings import FREEZE, PatchSettings
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from repairkit_adapters.pytorch import wrap

SHAPE = (1, 28, 28)
SCALE = Preprocessing(scale=1 / 255)
PARTS = {"calibration": 1000, "selection": 500, "test": 1000}


def write_images(folder: Path) -> Path:
    """Judging images of all classes, drawn into parts; as stored, they are sorted by class."""
    images, n = fashion(), sum(PARTS.values())
    path = folder / "images.npz"
    split = np.repeat(list(PARTS), list(PARTS.values()))
    drawn = np.random.default_rng(0).permutation(len(images.judge_labels))[:n]
    np.savez(path, x=images.judge_pixels[drawn], y=images.judge_labels[drawn], split=split)
    return path


def export_network(name: str, folder: Path, data: Path, epochs: int) -> FrameworkModel:
    """A trained network as an adapter gives it; its ONNX file is written with its map of layers."""
    model = wrap(make(name, epochs=epochs).network, SHAPE, source=name)
    settings = Settings(data=data, preprocessing=SCALE)
    done = export(model, folder / f"{name}.onnx", settings=settings, source=name)
    _say(f"{name}: {done.n_filters} filters, {done.n_proven} of them proven to be its channels")
    return model


def run(options: argparse.Namespace) -> Patched:
    """Attack, repair and judge; print as it goes."""
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    data = write_images(folder)
    models = {name: export_network(name, folder, data, options.epochs) for name in NETWORKS}
    subject = read_subject(folder / f"{options.network}.onnx")
    settings = Settings(data=data, preprocessing=SCALE, seed=options.seed)
    others = [name for name in models if name != options.network]
    for name in (options.network, *others):
        out = folder / f"attacked-by-{name}.npz"
        started = time.perf_counter()
        done = attack(subject, settings, AttackSettings(), out=out, source=(name, models[name]))
        test = done.document["figures"]["test"]
        _say(
            f"{done.document['source']['knowledge']} attack with gradients of {name}: "
            f"{_per_cent(test['attack_success'])} taken for the target, "
            f"{_per_cent(test['fooled'])} missed, clean {_per_cent(test['clean_accuracy'])} "
            f"({time.perf_counter() - started:.0f} s)"
        )
    own = folder / f"attacked-by-{options.network}.npz"
    figures = read_attack_settings(own)["figures"]["test"]
    if figures["fooled"]["value"] <= 0.95:
        raise SystemExit("the attack fools less than 95 % of the images; train otherwise")
    how = PatchSettings(
        robustness=True,
        at_most=options.at_most,
        max_drop=options.max_drop,
        repair=options.repair,
        baselines=options.repair == FREEZE,
        attacks=FreshAttacks(
            (options.network, models[options.network]),
            tuple(folder / f"attacked-by-{name}.npz" for name in others),
        ),
    )
    started = time.perf_counter()
    patched = patch(
        subject,
        Settings(data=own, seed=options.seed),
        how,
        out=folder / f"{options.network}.patched.onnx",
    )
    _say(f"scored, chosen, proven and attacked anew in {time.perf_counter() - started:.0f} s")
    return patched


def print_table(done: Patched, options: argparse.Namespace) -> None:
    """The paper's table, in Markdown."""
    before, after = done.before.metrics, done.after.metrics
    n_filters = len(done.patch)
    print(f"| on {PARTS['test']:,} test images | before | {n_filters} filters frozen |")
    print("|---|---|---|")
    rows = done.document["attacks"]
    for row in rows:
        if "note" in row:
            print(f"| {row['attack']} | | {row['note']} |")
            continue
        name = {
            "the same images": "original attack (white-box, images made before the repair)",
            "a fresh attack": "fresh white-box attack (images made anew for each model)",
        }.get(row["attack"], f"transfer attack {row['attack']}")
        cells = [
            f"{_per_cent(row[when]['attack_success'])} ({_per_cent(row[when]['fooled'])})"
            for when in ("before", "after")
        ]
        print(f"| {name} | {cells[0]} | {cells[1]} |")
    accuracy = [_per_cent(vars(found["clean_accuracy"])) for found in (before, after)]
    print(f"| clean accuracy | {accuracy[0]} | {accuracy[1]} |")
    print()
    print(
        f"Images taken for the attack's target, in brackets all that are missed, with 95 % "
        f"intervals. Network `{options.network}`, seed {options.seed}, --at-most "
        f"{options.at_most}, --max-drop {options.max_drop:g}."
    )
    looks = done.document["selection"]["confirmation_looks"]
    frozen = ", ".join(f.id for f in done.patch.filters) or "nothing"
    print(f"Frozen, at look {looks}: {frozen}.")


def print_baselines(done: Patched) -> None:
    """Simpler ways to freeze as many filters, or none, on the same test images."""
    print("| way | frozen | original attack | clean accuracy |")
    print("|---|---|---|---|")
    for row in done.document["baselines"]:
        figures = row["figures"]
        cells = [
            _cell(figures[name], row["method"]) for name in ("attack_success", "clean_accuracy")
        ]
        print(f"| {row['method']} | {row['n_frozen']} | {cells[0]} | {cells[1]} |")


def _cell(figure: dict[str, Any], method: str) -> str:
    """Random draws have no interval but a range."""
    after = figure["after"]
    if method != "random":
        return _per_cent(after)
    value, low, high = (100 * after[key] for key in ("value", "ci_low", "ci_high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f}) %"


def _per_cent(found: dict[str, Any]) -> str:
    value, low, high = (100 * found[key] for key in ("value", "ci_low", "ci_high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}] %"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS), default="separable")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training")
    parser.add_argument("--repair", default=FREEZE, help="or last-layer")
    parser.add_argument("--at-most", type=int, default=16, help="filters frozen at the most")
    parser.add_argument("--max-drop", type=float, default=0.1, help="clean accuracy that may go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=CACHE / "robustness")
    options = parser.parse_args()
    done = run(options)
    print_table(done, options)
    if options.repair == FREEZE:
        print()
        print_baselines(done)


if __name__ == "__main__":
    main()
