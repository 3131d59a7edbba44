"""A small vision transformer in ONNX, in the forms that exporters write, and the same in NumPy.

Patches of 4 x 4 pixels become tokens; one attention and one MLP follow, each beside a shortcut.
Tokens are averaged before the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FORMS = ("split", "sliced", "gathered", "separate")
"""How values reach their heads: from one projection for queries, keys and values, or from three."""
SIDE, PATCH, CLASSES = 8, 4, 3
TOKENS = (SIDE // PATCH) ** 2
HEADS_SITE = "attention"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Transformer:
    """The weights of a network with `heads` heads of `values` numbers each."""

    heads: int = 3
    values: int = 4
    seed: int = 0

    @property
    def width(self) -> int:
        return self.heads * self.values

    def weights(self) -> dict[str, Floats]:
        """Kernels and biases by name."""
        rng, width = np.random.default_rng(self.seed), self.width
        shapes = {
            "patch": (PATCH * PATCH, width), "query": (width, width), "key": (width, width),
            "value": (width, width), "out": (width, width), "hidden": (width, 2 * width),
            "narrow": (2 * width, width), "classes": (width, CLASSES),
        }  # fmt: skip
        made: dict[str, Floats] = {}
        for name, shape in shapes.items():
            made[name] = (rng.normal(size=shape) / math.sqrt(shape[0])).astype(np.float32)
            made[f"{name}_bias"] = rng.normal(size=shape[1], scale=0.3).astype(np.float32)
        return made

    # In NumPy

    def heads_of(self, images: Floats) -> NDArray[np.float64]:
        """What the heads yield, (n, heads, tokens, values)."""
        w = self.weights()
        tokens = self._tokens(images)
        query, key, value = (
            (tokens @ w[name] + w[f"{name}_bias"])
            .reshape(len(images), TOKENS, self.heads, self.values)
            .transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(self.values)
        odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True) @ value)

    def logits(
        self, images: Floats, frozen: Mapping[int, NDArray[np.floating]] | None = None
    ) -> NDArray[np.float64]:
        """Class scores, (n, classes), where some heads yield constants."""
        w, heads = self.weights(), self.heads_of(images)
        for head, constant in (frozen or {}).items():
            heads[:, head] = constant
        mixed = heads.transpose(0, 2, 1, 3).reshape(len(images), TOKENS, self.width)
        tokens = self._tokens(images) + mixed @ w["out"] + w["out_bias"]
        hidden = tokens @ w["hidden"] + w["hidden_bias"]
        bent = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        tokens = tokens + bent @ w["narrow"] + w["narrow_bias"]
        return np.asarray(tokens.mean(axis=1) @ w["classes"] + w["classes_bias"])

    def _tokens(self, images: Floats) -> NDArray[np.float64]:
        across = SIDE // PATCH
        cut = images.reshape(len(images), across, PATCH, across, PATCH).astype(np.float64)
        patches = cut.transpose(0, 1, 3, 2, 4).reshape(len(images), TOKENS, PATCH * PATCH)
        w = self.weights()
        return np.asarray(patches @ w["patch"] + w["patch_bias"])

    # In ONNX

    def model(self, form: str = "split", *, softmax_axis: int = -1) -> ModelProto:
        """The network; see `FORMS`."""
        w = self.weights()
        stored = {name: a for name, a in w.items() if name not in ("patch", "classes")}
        stored["patch"] = w["patch"].T.reshape(self.width, 1, PATCH, PATCH)
        stored["classes"] = w["classes"]
        nodes = [
            _node("Conv", ["image", "patch", "patch_bias"], "map", "patches", strides=[PATCH] * 2),
            *self._shaped("map", "flat", "reshape_map", [0, self.width, TOKENS], stored),
            _node("Transpose", ["flat"], "tokens", "to_tokens", perm=[0, 2, 1]),
            *self._projected(form, stored),
            _node("Transpose", ["k"], "k_turned", "turn", perm=[0, 1, 3, 2]),
            _node("MatMul", ["q", "k_turned"], "raw_scores", "scores"),
            _node("Mul", ["raw_scores", "shrink"], "scores", "shrink"),
            _node("Softmax", ["scores"], "weights", "softmax", axis=softmax_axis),
            _node("MatMul", ["weights", "v"], "heads", HEADS_SITE),
            _node("Transpose", ["heads"], "by_token", "to_mixed", perm=[0, 2, 1, 3]),
            *self._shaped("by_token", "mixed", "reshape_mixed", [0, TOKENS, self.width], stored),
            *_dense("mixed", "out"),
            _node("Add", ["tokens", "out_y"], "attended", "beside_attention"),
            *_dense("attended", "hidden"),
            _node("Div", ["hidden_y", "root"], "bend_1", "bend_1"),
            _node("Erf", ["bend_1"], "bend_2", "bend_2"),
            _node("Add", ["bend_2", "one"], "bend_3", "bend_3"),
            _node("Mul", ["hidden_y", "bend_3"], "bend_4", "bend_4"),
            _node("Mul", ["bend_4", "half"], "bent", "bent"),
            *_dense("bent", "narrow"),
            _node("Add", ["attended", "narrow_y"], "last", "beside_mlp"),
            _node("ReduceMean", ["last"], "pooled", "pool", axes=[1], keepdims=0),
            _node("Gemm", ["pooled", "classes", "classes_bias"], "logits", "classifier"),
        ]
        numbers = {
            "shrink": 1 / math.sqrt(self.values), "root": math.sqrt(2), "one": 1.0, "half": 0.5,
        }  # fmt: skip
        stored |= {name: np.array(value, np.float32) for name, value in numbers.items()}
        graph = helper.make_graph(
            nodes,
            "transformer",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
            [numpy_helper.from_array(array, name) for name, array in stored.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _projected(self, form: str, stored: dict[str, NDArray]) -> list[NodeProto]:
        """Queries, keys and values, (n, heads, tokens, values): `q`, `k` and `v`."""
        parts = {"q": "query", "k": "key", "v": "value"}
        if form == "separate":
            nodes: list[NodeProto] = []
            for short, name in parts.items():
                nodes += _dense("tokens", name)
                nodes += self._to_heads(f"{name}_y", short, stored)
            return nodes
        for what in ("", "_bias"):
            joined = [stored.pop(f"{name}{what}") for name in parts.values()]
            stored[f"all{what}"] = np.concatenate(joined, axis=-1)
        nodes = _dense("tokens", "all")
        if form == "gathered":
            shape = [0, TOKENS, 3, self.heads, self.values]
            nodes += self._shaped("all_y", "five", "reshape_five", shape, stored)
            nodes.append(_node("Transpose", ["five"], "front", "to_front", perm=[2, 0, 3, 1, 4]))
            for place, short in enumerate(parts):
                stored[f"place_{short}"] = np.array(place, np.int64)
                nodes.append(_node("Gather", ["front", f"place_{short}"], short, f"take_{short}"))
            return nodes
        wide = [f"{short}_wide" for short in parts]
        if form == "split":
            stored["sizes"] = np.array([self.width] * 3, np.int64)
            nodes.append(helper.make_node("Split", ["all_y", "sizes"], wide, "split", axis=2))
        else:
            stored["last_axis"] = np.array([2], np.int64)
            for place, name in enumerate(wide):
                ends = (f"{name}_from", f"{name}_to")
                for end, at in zip(ends, (place, place + 1), strict=True):
                    stored[end] = np.array([at * self.width], np.int64)
                nodes.append(_node("Slice", ["all_y", *ends, "last_axis"], name, f"cut_{name}"))
        for short, name in zip(parts, wide, strict=True):
            nodes += self._to_heads(name, short, stored)
        return nodes

    def _to_heads(self, source: str, made: str, stored: dict[str, NDArray]) -> list[NodeProto]:
        shape = [0, TOKENS, self.heads, self.values]
        return [
            *self._shaped(source, f"{made}_four", f"reshape_{made}", shape, stored),
            _node("Transpose", [f"{made}_four"], made, f"to_heads_{made}", perm=[0, 2, 1, 3]),
        ]

    def _shaped(
        self, source: str, made: str, name: str, shape: list[int], stored: dict[str, NDArray]
    ) -> list[NodeProto]:
        stored[f"{name}_shape"] = np.array(shape, np.int64)
        return [_node("Reshape", [source, f"{name}_shape"], made, name)]


def _node(kind: str, inputs: list[str], output: str, name: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name, **attributes)


def _dense(source: str, name: str) -> list[NodeProto]:
    return [
        _node("MatMul", [source, name], f"{name}_product", name),
        _node("Add", [f"{name}_product", f"{name}_bias"], f"{name}_y", f"{name}_add"),
    ]


def images(n: int, seed: int = 0) -> Floats:
    """Random images of the network's size."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1, SIDE, SIDE)).astype(np.float32)
