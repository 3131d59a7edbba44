"""Models that are the same in other words, models that differ in one known way, random networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

import repairkit as rk
from repairkit.jobs.setup.workbench import Settings
from tests import ensembles, models, wild_models
from tests.report.documents import HOSTILE

KINDS: dict[str, Callable[[], ModelProto]] = {
    **models.LAYERS,
    **wild_models.LAYERS,
    "regressor": lambda: ensembles.forest(1).model,
    "classifier": lambda: ensembles.forest(2, kind="TreeEnsembleClassifier").model,
}


def branching(seed: int, n_blocks: int) -> ModelProto:
    """A network of blocks at random: chains, residual sums, and parallel convolutions."""
    rng = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    weights: models.Weights = {}

    def conv(source: str) -> str:
        number = len(weights)
        weights[f"w{number}"] = rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
        reads = [source, f"w{number}"]
        nodes.append(helper.make_node("Conv", reads, [f"c{number}"], f"conv{number}", pads=[1] * 4))
        return f"c{number}"

    def plain(operator: str, *reads: str) -> str:
        made = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, reads, [made], f"{operator.lower()}{len(nodes)}"))
        return made

    value = "image"
    for kind in rng.integers(0, 4, n_blocks):
        if kind == 0:
            value = plain("Relu", conv(value))
        elif kind == 1:
            value = plain("Add", plain("Tanh", conv(value)), value)
        elif kind == 2:
            value = plain("Add", plain("Relu", conv(value)), plain("Relu", conv(value)))
        else:
            value = plain("Identity", plain("Sigmoid", value))
    return models.model_of(nodes + models.head(value, weights, 2), weights)


def with_choice(then: float = 1.0, *, scale: float = 2.0) -> ModelProto:
    """A network with an `If` whose bodies hold tensors and read a value from outside."""
    weights: models.Weights = {"w": _kernel()}

    def body(number: float, operator: str) -> GraphProto:
        tensor = numpy_helper.from_array(np.full((4, 1, 1), number, np.float32), "inner")
        node = helper.make_node(operator, ["y", "inner"], [f"{operator}_out"], operator)
        value = helper.make_tensor_value_info(f"{operator}_out", 1, None)
        return helper.make_graph([node], operator, [], [value], [tensor])

    choice = helper.make_node(
        "If",
        ["yes"],
        ["z"],
        "choice",
        then_branch=body(then, "Add"),
        else_branch=body(scale, "Mul"),
    )
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["y"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMax", ["image"], ["most"], "most", keepdims=0),
        helper.make_node("Cast", ["most"], ["yes"], "cast", to=9),
        choice,
    ]
    return models.model_of(nodes + models.head("z", weights, 4), weights)


def _kernel() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((4, 2, 3, 3)).astype(np.float32)


def written(folder: Path, **contents: ModelProto) -> list[Path]:
    for name, model in contents.items():
        onnx.save(model, folder / f"{name}.onnx")
    return [folder / f"{name}.onnx" for name in contents]


def hostile_document(folder: Path) -> dict[str, Any]:
    """A comparison in which every name is hostile."""
    a, b = models.own_bias(), models.own_bias()
    for number in range(20):
        a.metadata_props.add(key=f"note {number}", value=HOSTILE[0])
    for number, text in enumerate(HOSTILE):
        a.metadata_props.add(key=text, value=text)
        b.graph.node[number % len(b.graph.node)].name = text
    b.graph.node[1].op_type = "Tanh"
    b = renamed(b, HOSTILE[0])
    paths = written(folder, a=a, b=b)
    document = rk.diff(*paths, settings=Settings()).document
    document["a"]["path"] = HOSTILE[0]
    return document


# Other words


def renamed(model: ModelProto, prefix: str = "other ") -> ModelProto:
    """The same model with another name for every node and value, bodies included."""
    result = ModelProto()
    result.CopyFrom(model)
    graphs = [result.graph]
    while graphs:
        graph = graphs.pop()
        values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
        for value in values:
            value.name = f"{prefix}{value.name}"
        for node in graph.node:
            node.name = f"{prefix}{node.name}" if node.name else ""
            for names in (node.input, node.output):
                fresh = [f"{prefix}{name}" if name else "" for name in names]
                del names[:]
                names.extend(fresh)
            graphs.extend(a.g for a in node.attribute if a.HasField("g"))
    return result


def reordered(model: ModelProto, seed: int) -> ModelProto:
    """The same model with its nodes and tensors in another order in which it still runs."""
    result = ModelProto()
    result.CopyFrom(model)
    rng = np.random.default_rng(seed)
    known = {i.name for i in model.graph.input} | {t.name for t in model.graph.initializer} | {""}
    waiting, order = list(model.graph.node), []
    while waiting:
        ready = [n for n in waiting if _needs(n) <= known | _made_inside(n)]
        chosen = ready[rng.integers(len(ready))]
        waiting.remove(chosen)
        order.append(chosen)
        known |= set(chosen.output)
    del result.graph.node[:]
    result.graph.node.extend(order)
    stored = list(model.graph.initializer)
    rng.shuffle(stored)
    del result.graph.initializer[:]
    result.graph.initializer.extend(stored)
    return result


def _needs(node: NodeProto) -> set[str]:
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    return {*node.input, *(name for g in bodies for n in g.node for name in n.input)}


def _made_inside(node: NodeProto) -> set[str]:
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    return {
        name
        for g in bodies
        for name in (*(o for n in g.node for o in n.output), *(t.name for t in g.initializer))
    }


def rewritten(model: ModelProto) -> ModelProto:
    """The same model as another exporter writes it.

    Its initializers are `Constant` nodes, an `Identity` stands behind every node, and attributes
    that state a default are there.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes = [
        helper.make_node("Constant", [], [t.name], f"const_{t.name}", value=t)
        for t in graph.initializer
    ]
    del graph.initializer[:]
    outputs = {o.name for o in graph.output}
    for node in model.graph.node:
        fresh = NodeProto()
        fresh.CopyFrom(node)
        if node.op_type == "Conv" and not any(a.name == "dilations" for a in node.attribute):
            rank = len(next(t for t in model.graph.initializer if t.name == node.input[1]).dims) - 2
            fresh.attribute.append(helper.make_attribute("dilations", [1] * rank))
        nodes.append(fresh)
        for slot, name in enumerate(node.output):
            if name and name not in outputs:
                fresh.output[slot] = f"{name}/raw"
                nodes.append(helper.make_node("Identity", [f"{name}/raw"], [name], f"id_{name}"))
    del graph.node[:]
    graph.node.extend(nodes)
    return result


# One difference


def with_changed_byte(model: ModelProto, tensor: str, byte: int) -> ModelProto:
    """The model with one bit of one byte of a tensor's numbers turned."""
    result = ModelProto()
    result.CopyFrom(model)
    held = next(t for t in result.graph.initializer if t.name == tensor)
    content = bytearray(numpy_helper.to_array(held).tobytes())
    content[byte] ^= 1
    held.CopyFrom(
        onnx.TensorProto(
            name=tensor, data_type=held.data_type, dims=held.dims, raw_data=bytes(content)
        )
    )
    return result


def without_node(model: ModelProto, position: int) -> ModelProto:
    """The model without a node of one input that keeps shapes; its readers read what it read."""
    result = ModelProto()
    result.CopyFrom(model)
    gone = model.graph.node[position]
    for node in result.graph.node:
        for slot, name in enumerate(node.input):
            if name == gone.output[0]:
                node.input[slot] = gone.input[0]
    del result.graph.node[position]
    return result
