"""How the cost of scoring grows with filters, images, batch and workers.

    python benchmarks/scaling.py [--quick] [--ray local]

A network of stacked convolutions is varied in one respect at a time. Each table ends with the
exponent that fits best: cost ~ quantity ** exponent. Processor seconds, since they are steadier
than the clock; for workers the clock. `--ray` is about workers on a Ray cluster instead: see
`benchmarks/cluster.py`, which it calls.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from ways import Subject, Ways

from repairkit.engine.evaluator import keep_all


def stack_of_convolutions(width: int, depth: int, side: int) -> ModelProto:
    """`depth` convolutions of `width` filters with ReLU, pooled and classified."""
    rng = np.random.default_rng(0)
    weights, nodes, source, n_in = [], [], "image", 3
    for layer in range(depth):
        kernel = rng.standard_normal((width, n_in, 3, 3)) / np.sqrt(9 * n_in / 2)
        names = [f"w{layer}", f"b{layer}"]
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), names[0]))
        weights.append(numpy_helper.from_array(np.zeros(width, np.float32), names[1]))
        made = f"conv{layer}"
        nodes.append(helper.make_node("Conv", [source, *names], [made], made, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [made], [f"{made}_act"]))
        source, n_in = f"{made}_act", width
    head = rng.standard_normal((width, 10)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "head"))
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["logits"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "stack", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def ways_of(width: int, depth: int, n_images: int) -> Ways:
    """The engine on such a network, with images of 16 x 16."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((n_images, 3, 16, 16)).astype(np.float32)
    model = stack_of_convolutions(width, depth, 16)
    return Ways(Subject(f"{depth}x{width}", model, images))


def walk_seconds(
    ways: Ways, workers: int, n_images: int, n_steps: int, clock: Callable[[], float]
) -> float:
    """Seconds of a marginal, the median of three walks; the first warms up."""
    engine, n_players = ways.engine(workers), len(ways.roster)
    rng, seconds = np.random.default_rng(2), []
    for _ in range(4):
        rows = np.ones((n_steps + 1, n_players), bool)
        for row, player in enumerate(rng.permutation(n_players)[:n_steps].tolist(), 1):
            rows[row:, player] = False
        images = np.tile(rng.permutation(len(ways.suite))[:n_images], (len(rows), 1))
        start = clock()
        engine.answer(rows, images, keep_all)
        seconds.append((clock() - start) / n_steps)
    return float(np.median(seconds[1:]))


def suite_seconds(ways: Ways, n_rows: int, clock: Callable[[], float]) -> float:
    """Seconds of a random coalition on the whole suite."""
    rng = np.random.default_rng(3)
    seconds = []
    for _ in range(3):
        rows = rng.random((n_rows, len(ways.roster))) < 0.9
        start = clock()
        ways.engine(1).answer(rows, None, keep_all)
        seconds.append((clock() - start) / n_rows)
    return float(np.median(seconds))


def tables(n_steps: int) -> Iterator[tuple[str, str, list[int], list[float]]]:
    """What is varied, what is measured, its values and the seconds."""
    cpu = time.process_time
    widths = [16, 32, 64, 128]
    yield (
        "filters (4 convolutions, wider)",
        "a marginal; arithmetic grows with the square",
        [4 * width for width in widths],
        [walk_seconds(ways_of(width, 4, 32), 1, 32, n_steps, cpu) for width in widths],
    )
    depths = [4, 8, 16, 32]
    yield (
        "filters (32 a convolution, deeper)",
        "a marginal; arithmetic grows in proportion",
        [32 * depth for depth in depths],
        [walk_seconds(ways_of(32, depth, 32), 1, 32, n_steps, cpu) for depth in depths],
    )
    batches = [8, 32, 128, 512]
    ways = ways_of(32, 8, 512)
    yield (
        "batch",
        "a marginal on one batch",
        batches,
        [walk_seconds(ways, 1, batch, n_steps, cpu) for batch in batches],
    )
    counts = [128, 256, 512, 1024]
    yield (
        "images",
        "a coalition on the whole suite",
        counts,
        [suite_seconds(ways_of(32, 8, count), 2, cpu) for count in counts],
    )
    workers = sorted({1, 2, os.cpu_count() or 1})
    yield (
        "workers",
        "a marginal, by the clock",
        workers,
        [walk_seconds(ways_of(32, 8, 128), n, 128, n_steps, time.perf_counter) for n in workers],
    )


def exponent(quantities: list[int], seconds: list[float]) -> float:
    """The slope through the logarithms; zero for a single point."""
    if len(quantities) < 2:
        return 0.0
    logs: NDArray[np.float64] = np.log(np.array([quantities, seconds], np.float64))
    return float(np.polyfit(logs[0], logs[1], 1)[0])


def main() -> None:
    """Print one table for each quantity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--ray", metavar="ADDRESS", help="workers on a Ray cluster, or local")
    options = parser.parse_args()
    if options.ray:
        command = [sys.executable, str(Path(__file__).with_name("cluster.py")), "--simulate"]
        quick = ["--quick"] if options.quick else []
        raise SystemExit(subprocess.run([*command, "--ray", options.ray, *quick]).returncode)
    n_steps = 8 if options.quick else 40
    print(f"{os.cpu_count()} cores, load {os.getloadavg()}")
    for what, measured, quantities, seconds in tables(n_steps):
        print(f"\n{what}: {measured}")
        for quantity, value in zip(quantities, seconds, strict=True):
            print(f"{quantity:10}{value * 1e3:12.3f} ms")
        print(f"  exponent {exponent(quantities, seconds):.2f}")


if __name__ == "__main__":
    main()
