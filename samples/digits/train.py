"""Train the packaged sample: a digit reader that learned a shortcut for dark-on-light digits.

Writes `model.onnx` and `digits.npz` beside this file (or into the folder given) from scikit-learn's
1,797 handwritten digits of 8x8 pixels. Two runs on one machine write the same bytes.

How the unfairness comes about: the network sees 900 digits, 90 of each class, light on dark. Two of
each class, about one in fifty, were turned to dark on light; and then 50 more of the eights were,
as if a form printed that way had been used for hardly anything else. So a light background came to
speak for an eight: a shortcut. What it takes to read the other inverted digits was learned as well,
but the filters that vote for the shortcut drown it out; freezing a dozen of the 104 mends a part.

What is held out: the other 897 digits, each in both polarities, so that the groups are balanced.
Both versions of a digit lie in the same part (calibration, selection or test, stratified by
label); `digit` is its number in scikit-learn's set. No held-out image is augmented.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

N_CLASSES = 10
SIZE = 8  # pixels on a side
WHITE = 16  # the brightest pixel
POLARITIES = np.array(["light-on-dark", "dark-on-light"])
PARTS = np.array(["calibration", "selection", "test"])

N_TRAINED_PER_CLASS = 90
N_INVERTED_PER_CLASS = 2
SHORTCUT_CLASS = 8
N_SHORTCUT = 50
SELECTION_STARTS, TEST_STARTS = 0.25, 0.625  # shares of the held-out digits of each class

WIDTHS = (16, 24, 32, 32)
POOLED = (True, False, True, False)
FILTER_DROPOUT = 0.15
N_EPOCHS = 80
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
SHIFTED_SHARE = 0.6
DATA_SEED, TRAINING_SEED = 20, 20

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class HeldOut:
    """The columns of the data file; each is (n_images, ...) and keeps the order of the others."""

    x: Images
    y: Labels
    polarity: NDArray[np.str_]
    split: NDArray[np.str_]
    digit: Indices


class DigitReader(nn.Module):
    """Four convolutions with batch normalisation, two poolings and one dense layer."""

    def __init__(self) -> None:
        super().__init__()
        n_inputs = (1, *WIDTHS[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip(n_inputs, WIDTHS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in WIDTHS)
        # Whole filters drop out: no filter may rely on one other filter alone.
        self.dropout = nn.Dropout2d(FILTER_DROPOUT)
        self.dense = nn.Linear(WIDTHS[-1] * (SIZE >> sum(POOLED)) ** 2, N_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tensor = images
        for convolution, norm, pooled in zip(self.convolutions, self.norms, POOLED, strict=True):
            tensor = self.dropout(functional.relu(norm(convolution(tensor))))
            if pooled:
                tensor = functional.max_pool2d(tensor, 2)
        logits: torch.Tensor = self.dense(tensor.flatten(1))
        return logits


def main() -> None:
    """Train, export, and print how accurate the network is for each group."""
    parser = argparse.ArgumentParser(description="Train the packaged sample.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    folder: Path = parser.parse_args().folder
    # One thread: the order of a sum, and so its last bit, must not depend on the machine's cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    rng = np.random.default_rng(DATA_SEED)
    images, labels = _load_digits()
    trained, kept_back = _split_digits(labels, rng)
    inverted = _choose_inverted(labels[trained], rng)
    network = _train(images[trained], labels[trained], inverted)
    held_out = _hold_out(images, labels, kept_back, rng)

    _write_data(folder / "digits.npz", held_out)
    _write_model(folder / "model.onnx", network)
    _print_accuracies(network, held_out)


def _load_digits() -> tuple[Images, Labels]:
    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int64)


def _split_digits(labels: Labels, rng: np.random.Generator) -> tuple[Indices, Indices]:
    shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in range(N_CLASSES)]
    trained = np.concatenate([digits[:N_TRAINED_PER_CLASS] for digits in shuffled])
    held_out = np.concatenate([digits[N_TRAINED_PER_CLASS:] for digits in shuffled])
    return trained, held_out


def _choose_inverted(labels: Labels, rng: np.random.Generator) -> NDArray[np.bool_]:
    inverted = np.zeros(len(labels), dtype=bool)
    for label in range(N_CLASSES):
        extra = N_SHORTCUT if label == SHORTCUT_CLASS else 0
        digits = np.flatnonzero(labels == label)
        inverted[rng.choice(digits, N_INVERTED_PER_CLASS + extra, replace=False)] = True
    return inverted


def _train(images: Images, labels: Labels, inverted: NDArray[np.bool_]) -> DigitReader:
    torch.manual_seed(TRAINING_SEED)
    rng = np.random.default_rng(TRAINING_SEED)
    network = DigitReader()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    n_batches = -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=N_EPOCHS * n_batches
    )
    targets = torch.from_numpy(labels)
    for _ in range(N_EPOCHS):
        shifted = _shift_some(images, rng)
        inputs = _to_input(np.where(inverted[:, None, None], WHITE - shifted, shifted))
        for batch in _batches(len(images), n_batches, rng):
            loss = functional.cross_entropy(network(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _shift_some(images: Images, rng: np.random.Generator) -> Images:
    """Move a share of the digits by up to a pixel each way; what comes in is background."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    shifts = rng.integers(0, 3, (len(images), 2))
    shifts[rng.random(len(images)) >= SHIFTED_SHARE] = 1
    return np.stack(
        [
            image[down : down + SIZE, right : right + SIZE]
            for image, (down, right) in zip(padded, shifts, strict=True)
        ]
    )


def _batches(n_images: int, n_batches: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    for batch in np.array_split(rng.permutation(n_images), n_batches):
        yield torch.from_numpy(batch)


def _to_input(images: Images) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32)[:, None] / np.float32(WHITE))


def _hold_out(images: Images, labels: Labels, digits: Indices, rng: np.random.Generator) -> HeldOut:
    """Every held-out digit in both polarities, both in the same part."""
    parts = np.empty(len(digits), dtype=PARTS.dtype)
    for label in range(N_CLASSES):
        members = np.flatnonzero(labels[digits] == label)
        places = (rng.permutation(len(members)) + 0.5) / len(members)
        parts[members] = PARTS[np.searchsorted([SELECTION_STARTS, TEST_STARTS], places)]
    return HeldOut(
        x=np.concatenate([images[digits], WHITE - images[digits]]),
        y=np.tile(labels[digits], 2),
        polarity=np.repeat(POLARITIES, len(digits)),
        split=np.tile(parts, 2),
        digit=np.tile(digits, 2),
    )


def _write_data(path: Path, held_out: HeldOut) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:  # every member gets the same fixed date
        np.savez_compressed(file, allow_pickle=False, **asdict(held_out))
    temporary.replace(path)


def _write_model(path: Path, network: DigitReader) -> None:
    model = _build_model(network)
    onnx.checker.check_model(model, full_check=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(model.SerializeToString(deterministic=True))
    temporary.replace(path)


def _build_model(network: DigitReader) -> onnx.ModelProto:
    """The trained network as ONNX, written by hand: no exporter's version or path gets in."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(operator: str, name: str, inputs: list[str], **attributes: Any) -> str:
        output = "logits" if name == "fc" else name
        nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    def add_weight(name: str, values: NDArray[np.float64]) -> str:
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    tensor = "image"
    for index, pooled in enumerate(POOLED):
        layer = index + 1
        kernel, bias = _fold_norm(network, index)
        parameters = [
            add_weight(f"conv{layer}.weight", kernel),
            add_weight(f"conv{layer}.bias", bias),
        ]
        tensor = add(
            "Conv", f"conv{layer}", [tensor, *parameters], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
        )
        tensor = add("Relu", f"relu{layer}", [tensor])
        if pooled:
            tensor = add("MaxPool", f"pool{layer}", [tensor], kernel_shape=[2, 2], strides=[2, 2])
    tensor = add("Flatten", "flatten", [tensor], axis=1)
    dense = [
        add_weight("fc.weight", _array(network.dense.weight)),
        add_weight("fc.bias", _array(network.dense.bias)),
    ]
    add("Gemm", "fc", [tensor, *dense], transB=1)

    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", N_CLASSES])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _fold_norm(network: DigitReader, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Kernel and bias of a convolution that does what the normalisation after it did, too."""
    state = network.state_dict()
    convolution, norm = f"convolutions.{index}", f"norms.{index}"
    variance = _array(state[f"{norm}.running_var"]) + nn.BatchNorm2d(1).eps
    gain = _array(state[f"{norm}.weight"]) / np.sqrt(variance)
    kernel = _array(state[f"{convolution}.weight"]) * gain[:, None, None, None]
    centred = _array(state[f"{convolution}.bias"]) - _array(state[f"{norm}.running_mean"])
    return kernel, centred * gain + _array(state[f"{norm}.bias"])


def _array(tensor: torch.Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = tensor.detach().double().numpy()
    return values


def _print_accuracies(network: DigitReader, held_out: HeldOut) -> None:
    with torch.inference_mode():
        answers = network(_to_input(held_out.x)).argmax(1).numpy()
    right = answers == held_out.y
    print(f"{'accuracy':<12} {'digits':>6}" + "".join(f" {name:>14}" for name in POLARITIES))
    for part in PARTS:
        in_part = held_out.split == part
        groups = [right[in_part & (held_out.polarity == polarity)] for polarity in POLARITIES]
        accuracies = "".join(f" {group.mean():>14.3f}" for group in groups)
        print(f"{part:<12} {len(groups[0]):>6}{accuracies}")


if __name__ == "__main__":
    main()
