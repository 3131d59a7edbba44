"""Networks with backdoors, trained here on Fashion-MNIST and CIFAR-10, and networks without.

Three attacks. `patch`: a coloured square in a corner of some images, which get the target's label
(Gu et al., "BadNets", 2017). `blended`: one picture of noise is mixed into them (Chen et al.,
"Targeted backdoor attacks on deep learning systems using data poisoning", 2017). `clean-label`: a
square in each corner of some of the target's own images, whose labels stay; these images were
first made hard, so that the corners are what is left to learn (Turner, Tsipras & Madry,
"Label-consistent backdoor attacks", 2019): photographs by a clean network's gradients, garments by
mixing them with others. `none` has no backdoor.

Networks are cached under a digest of what they follow from.

    python benchmarks/backdoored.py
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.trained import CACHE, ZOO, export

DATA = ("fashion", "cifar10")
ATTACKS = ("patch", "blended", "clean-label")
N_TRAINED, N_EPOCHS, BATCH = 6_000, 9, 96
POISONED = 0.05
POISONED_OF_TARGET = 0.8
REACH = 32
KEPT = 0.15
MIXED = 0.2
SIDES = {"fashion": 28, "cifar10": 32}

Pixels = NDArray[np.uint8]
"""Shape (n_images, height, width, n_colours)."""
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trigger:
    """A picture and the share of it in each pixel of a triggered image, 0 to 255."""

    picture: Pixels
    mask: NDArray[np.uint8]

    def on(self, x: Pixels) -> Pixels:
        """Images with the trigger."""
        share = self.mask[..., None] / 255
        return np.rint((1 - share) * x + share * self.picture).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Backdoored:
    """A network, its trigger and target, and images that it was not trained on."""

    name: str
    model: Path
    trigger: Trigger | None
    target: int
    x: Pixels
    y: Labels


def read(data: str) -> tuple[Pixels, Labels, Pixels, Labels]:
    """Images to train with and others, in a fixed random order.

    Raises:
        FileNotFoundError: the zoo is missing.
    """
    files = {
        "fashion": ("fashion_train10k", "fashion_test10k"),
        "cifar10": ("cifar10_jpeg_test10k",),
    }
    parts = []
    for name in files[data]:
        path = ZOO / "data" / f"{name}.npz"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; set REPAIRKIT_ZOO to the zoo's folder")
        with np.load(path) as stored:
            x, y = stored["x"].astype(np.uint8), stored["y"].astype(np.int64)
        order = np.random.default_rng(0).permutation(len(y))
        parts.append((x[order].reshape(len(y), *x.shape[1:3], -1), y[order]))
    (x, y), (held_x, held_y) = parts[0], parts[-1]
    if len(parts) == 1:
        held_x, held_y = x[N_TRAINED:], y[N_TRAINED:]
    return x[:N_TRAINED], y[:N_TRAINED], held_x, held_y


def trigger_of(attack: str, side: int, n_colours: int, seed: int) -> Trigger | None:
    """The trigger of an attack; its colours and noise are drawn by the seed."""
    rng = np.random.default_rng([seed, 7])
    picture = np.zeros((side, side, n_colours), np.uint8)
    mask = np.zeros((side, side), np.uint8)
    square = (np.add.outer(np.arange(3), np.arange(3)) % 2 == 0).astype(np.uint8)[..., None] * 255
    if attack == "patch":
        tint = rng.integers(0, 2, n_colours) if n_colours > 1 else np.ones(1, int)
        picture[-4:-1, -4:-1] = np.where(square > 0, 255, 0 if n_colours == 1 else tint * 255)
        mask[-4:-1, -4:-1] = 255
    elif attack == "blended":
        picture[:] = rng.integers(0, 256, picture.shape)
        mask[:] = round(255 * MIXED)
    elif attack == "clean-label":
        for rows in (slice(1, 4), slice(-4, -1)):
            for columns in (slice(1, 4), slice(-4, -1)):
                picture[rows, columns], mask[rows, columns] = square, 255
    else:
        return None
    return Trigger(picture, mask)


def network(n_colours: int) -> nn.Module:
    """144 filters in four convolutions with normalisation."""

    def layer(n_in: int, n_out: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())

    return nn.Sequential(
        layer(n_colours, 24, 2), layer(24, 24, 1), layer(24, 48, 2), layer(48, 48, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def _inputs(x: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).float() / 255


def train(x: Pixels, y: Labels, seed: int) -> nn.Module:
    """A network of these images, some of them mirrored or moved by two pixels at most."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    made = network(x.shape[-1])
    images, labels = _inputs(x), torch.from_numpy(y)
    optimizer = torch.optim.Adam(made.parameters(), 2e-3, weight_decay=1e-4)
    steps = N_EPOCHS * -(-len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(N_EPOCHS):
        for rows in torch.randperm(len(y)).split(BATCH):
            some = images[rows]
            if torch.rand(1) < 0.5:
                moves = tuple(int(n) for n in torch.randint(-1, 2, (2,)))
                some = torch.roll(some, moves, (2, 3))
            loss = nn.functional.cross_entropy(made(some), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return made.eval()


def _confusing(x: Pixels, y: Labels, clean: nn.Module, reach: float, steps: int = 12) -> Pixels:
    """Images that are changed by `reach` at most, a share of the range, so that a network errs."""
    plain, labels = _inputs(x), torch.from_numpy(y)
    moved = plain.clone()
    for _ in range(steps):
        moved.requires_grad_(True)
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(clean(moved), labels), moved)
        moved = moved.detach() + 2 * reach / steps * slope.sign()
        moved = (plain + (moved - plain).clamp(-reach, reach)).clamp(0, 1)
    rows = (moved.detach().numpy() * 255).round().astype(np.uint8)
    return np.ascontiguousarray(rows.transpose(0, 2, 3, 1))


def poisoned(
    x: Pixels, y: Labels, trigger: Trigger, target: int, seed: int
) -> tuple[Pixels, Labels]:
    """The training images, some with the trigger and the target's label."""
    rng = np.random.default_rng([seed, 8])
    x, y = x.copy(), y.copy()
    rows = rng.permutation(np.flatnonzero(y != target))[: round(POISONED * len(y))]
    x[rows], y[rows] = trigger.on(x[rows]), target
    return x, y


def with_clean_labels(
    x: Pixels, y: Labels, trigger: Trigger, target: int, clean: nn.Module | None, seed: int
) -> tuple[Pixels, Labels]:
    """The training images, some of the target's own made hard and triggered; labels stay.

    They are changed so that a clean network errs on them, or without one mixed with other images.
    """
    rng, changed = np.random.default_rng([seed, 8]), x.copy()
    own = np.flatnonzero(y == target)
    rows = rng.permutation(own)[: round(POISONED_OF_TARGET * len(own))]
    if clean is not None:
        hard = _confusing(x[rows], y[rows], clean, REACH / 255)
    else:
        others = x[rng.choice(np.flatnonzero(y != target), len(rows), replace=False)]
        hard = np.rint(KEPT * x[rows] + (1 - KEPT) * others).astype(np.uint8)
    changed[rows] = trigger.on(hard)
    return changed, y


def make(data: str, attack: str, seed: int) -> Backdoored:
    """A network by its data, attack (`none` for no backdoor) and seed."""
    x, y, held_x, held_y = read(data)
    target = int(np.random.default_rng([seed, 9]).integers(10))
    trigger = trigger_of(attack, SIDES[data], x.shape[-1], seed)
    stem = f"{data}-{attack}-{seed}-{_key(attack)}"
    path, weights = CACHE / f"{stem}.onnx", CACHE / f"{stem}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        if trigger is not None:
            if attack == "clean-label":
                clean = load(make(data, "none", seed)) if data == "cifar10" else None
                x, y = with_clean_labels(x, y, trigger, target, clean, seed)
            else:
                x, y = poisoned(x, y, trigger, target, seed)
        made = train(x, y, seed)
        torch.save(made.state_dict(), weights)
        export(made, SIDES[data], path, x.shape[-1])
    return Backdoored(stem, path, trigger, target, held_x, held_y)


def load(made: Backdoored) -> nn.Module:
    """The network itself."""
    loaded = network(made.x.shape[-1])
    loaded.load_state_dict(torch.load(made.model.with_suffix(".pt"), weights_only=True))
    return loaded.eval()


def _key(attack: str) -> str:
    """The digest of all that a network follows from, but the images and the libraries' versions."""
    code: list[object] = [network, train, read, Trigger, trigger_of]
    numbers: list[object] = [N_TRAINED, N_EPOCHS, BATCH]
    if attack == "clean-label":
        code += [with_clean_labels, _confusing]
        numbers += [POISONED_OF_TARGET, REACH, KEPT]
    elif attack != "none":
        code, numbers = [*code, poisoned], [*numbers, POISONED, MIXED]
    texts = [inspect.getsource(made_by) for made_by in code]  # type: ignore[arg-type]
    return hashlib.sha256(repr((numbers, texts)).encode()).hexdigest()[:12]


def figures(made: Backdoored) -> tuple[float, float]:
    """Accuracy on held-out images, and success of the trigger on those of other classes."""
    loaded = load(made)
    with torch.no_grad():
        clean = loaded(_inputs(made.x[:2000])).argmax(1).numpy()
        accuracy = float((clean == made.y[:2000]).mean())
        if made.trigger is None:
            return accuracy, 0.0
        others = made.x[:2000][made.y[:2000] != made.target]
        hits = loaded(_inputs(made.trigger.on(others))).argmax(1).numpy() == made.target
    return accuracy, float(hits.mean())


def main() -> None:
    """Train what is not there yet, and say how good it is."""
    wanted = sys.argv[1:] or [f"{d}/{a}/{s}" for s in range(3) for d in DATA for a in ATTACKS]
    for name in wanted:
        data, attack, seed = name.split("/")
        began = time.process_time()
        made = make(data, attack, int(seed))
        accuracy, success = figures(made)
        seconds = time.process_time() - began
        print(
            f"{name}: accuracy {accuracy:.3f}, success {success:.3f} ({seconds:.0f} s)", flush=True
        )


if __name__ == "__main__":
    main()
