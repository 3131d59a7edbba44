"""What makes the output is the last layer that no other layer follows, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx import numpy_helper as arrays

from repairkit.graph.kinds.sites import survey
from tests.models import images
from tests.running import run

WIDTH, CLASSES = 6, 5


@dataclass(frozen=True)
class Tail:
    """What follows the second convolution `c2` and its pooled features `flat` (n, WIDTH)."""

    nodes: list[NodeProto]
    weights: dict[str, NDArray] = field(default_factory=dict)
    functions: tuple[FunctionProto, ...] = ()
    outputs: tuple[str, ...] = ("y",)


def _node(
    kind: str, inputs: str, outputs: str, *, domain: str = "", **attributes: object
) -> NodeProto:
    named = [None if name == "-" else name for name in inputs.split()]
    made = ["" if name == "-" else name for name in outputs.split()]
    return helper.make_node(
        kind, ["" if n is None else n for n in named], made, domain=domain, **attributes
    )


def _model(tail: Tail) -> ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": _normal(4, 2, 3, 3),
        "v": _normal(WIDTH, 4, 3, 3),
        "bias": rng.standard_normal(WIDTH).astype(np.float32),
        **tail.weights,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c1"], "conv1", pads=[1] * 4),
        _node("Relu", "c1", "r1"),
        helper.make_node("Conv", ["r1", "v", "bias"], ["c2"], "conv2", pads=[1] * 4),
        _node("Relu", "c2", "r2"),
        _node("GlobalAveragePool", "r2", "pool"),
        _node("Flatten", "pool", "flat"),
        *tail.nodes,
    ]
    graph = helper.make_graph(
        nodes,
        "tails",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [_untyped(name) for name in tail.outputs],
        [arrays.from_array(a, n) for n, a in weights.items()],
    )
    opsets = {"": 17, "com.microsoft": 1, "ai.onnx.ml": 3, "nets": 1}
    return helper.make_model(
        graph,
        ir_version=8,
        opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()],
        functions=tail.functions,
    )


def _untyped(name: str, kind: int = TensorProto.FLOAT) -> object:
    wide = {"label": TensorProto.INT64}.get(name, kind)
    return helper.make_tensor_value_info(name, wide, None)


def _normal(*shape: int) -> NDArray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _codes(*shape: int) -> NDArray:
    return np.random.default_rng(1).integers(-90, 90, shape).astype(np.int8)


def _body(nodes: list[NodeProto], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> GraphProto:
    return helper.make_graph(
        nodes, "body", [_untyped(n) for n in inputs], [_untyped(n) for n in outputs]
    )


def _function(name: str, nodes: list[NodeProto], inputs: str) -> FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nets", 1)]
    return helper.make_function("nets", name, inputs.split(), ["made"], nodes, opsets)


_G = _normal(WIDTH, CLASSES)
_PROTOTYPES = {"protos": _normal(1, WIDTH, CLASSES), "last": np.array([2])}
_APART = [_node("Unsqueeze", "flat last", "u"), _node("Sub", "u protos", "d")]
_SCALES = {"s": np.array(0.05, np.float32), "z": np.array(0, np.int8)}
_AS_CODES = _node("QuantizeLinear", "flat s z", "q")
_SEQUENCE = [
    _node("ReduceMean", "r2", "columns", axes=[2], keepdims=0),
    _node("Transpose", "columns", "steps", perm=[2, 0, 1]),
]
_FIRST = {"first": np.array([0])}


def _recurrent(kind: str, gates: int) -> Tail:
    weights = {"W": _normal(1, gates * CLASSES, WIDTH), "R": _normal(1, gates * CLASSES, CLASSES)}
    nodes = [
        *_SEQUENCE,
        _node(kind, "steps W R", "- last_state", hidden_size=CLASSES),
        _node("Squeeze", "last_state first", "y"),
    ]
    return Tail(nodes, weights | _FIRST)


# The second convolution is hidden: another layer follows.
FOLLOWED: dict[str, Tail] = {
    "Gemm": Tail([_node("Gemm", "flat g", "y")], {"g": _G}),
    "MatMul": Tail([_node("MatMul", "flat g", "y")], {"g": _G}),
    "Einsum": Tail([_node("Einsum", "flat g", "y", equation="nc,ck->nk")], {"g": _G}),
    "FusedMatMul": Tail([_node("FusedMatMul", "flat g", "y", domain="com.microsoft")], {"g": _G}),
    "FusedGemm": Tail(
        [_node("FusedGemm", "flat g", "y", domain="com.microsoft", activation="Relu")], {"g": _G}
    ),
    "LSTM": _recurrent("LSTM", 4),
    "GRU": _recurrent("GRU", 3),
    "RNN": _recurrent("RNN", 1),
    "MatMul by computed weights": Tail(
        [
            _node("ReduceMean", "flat", "mean", axes=[0], keepdims=1),
            _node("Transpose", "mean", "turned", perm=[1, 0]),
            _node("MatMul", "flat turned", "y"),
        ]
    ),
    "MatMulInteger": Tail(
        [_AS_CODES, _node("MatMulInteger", "q g", "sums"), _node("Cast", "sums", "y", to=1)],
        {"g": _codes(WIDTH, CLASSES), **_SCALES},
    ),
    "QLinearMatMul": Tail(
        [
            _AS_CODES,
            _node("QLinearMatMul", "q s z g s z s z", "codes"),
            _node("DequantizeLinear", "codes s z", "y"),
        ],
        {"g": _codes(WIDTH, CLASSES), **_SCALES},
    ),
    "QGemm": Tail(
        [
            _AS_CODES,
            _node("QGemm", "q s z g s z - s z", "codes", domain="com.microsoft"),
            _node("DequantizeLinear", "codes s z", "y"),
        ],
        {"g": _codes(WIDTH, CLASSES), **_SCALES},
    ),
    "DynamicQuantizeMatMul": Tail(
        [_node("DynamicQuantizeMatMul", "flat g s z", "y", domain="com.microsoft")],
        {"g": _codes(WIDTH, CLASSES), **_SCALES},
    ),
    "MatMulNBits": Tail(
        [
            _node(
                "MatMulNBits",
                "flat codes scales",
                "y",
                domain="com.microsoft",
                K=WIDTH,
                N=CLASSES,
                bits=4,
                block_size=16,
            )
        ],
        {
            "codes": np.random.default_rng(0).integers(0, 255, (CLASSES, 1, 8)).astype(np.uint8),
            "scales": np.ones(CLASSES, np.float32),
        },
    ),
    "LinearRegressor": Tail(
        [
            _node(
                "LinearRegressor",
                "flat",
                "y",
                domain="ai.onnx.ml",
                coefficients=_G.T.reshape(-1).tolist(),
                targets=CLASSES,
            )
        ]
    ),
    "CDist": Tail(
        [_node("CDist", "flat centres", "y", domain="com.microsoft", metric="sqeuclidean")],
        {"centres": _normal(CLASSES, WIDTH)},
    ),
    "a function": Tail(
        [_node("Linear", "flat g", "y", domain="nets")],
        {"g": _G},
        (_function("Linear", [_node("Gemm", "a b", "made")], "a b"),),
    ),
    "a function that calls another": Tail(
        [_node("Outer", "flat g", "y", domain="nets")],
        {"g": _G},
        (
            _function("Linear", [_node("MatMul", "a b", "made")], "a b"),
            _function("Outer", [_node("Linear", "a b", "made", domain="nets")], "a b"),
        ),
    ),
    "a product in an If": Tail(
        [
            _node(
                "If",
                "yes",
                "y",
                then_branch=_body([_node("MatMul", "flat g", "t")], (), ("t",)),
                else_branch=_body([_node("MatMul", "flat g", "e")], (), ("e",)),
            )
        ],
        {"g": _G, "yes": np.array(True)},
    ),
    "a product in a Scan": Tail(
        [
            _node("Transpose", "columns", "rows", perm=[2, 0, 1]),
            _node(
                "Scan",
                "rows",
                "scanned",
                body=_body([_node("MatMul", "row g", "o")], ("row",), ("o",)),
                num_scan_inputs=1,
            ),
            _node("ReduceMax", "scanned", "y", axes=[0], keepdims=0),
        ],
        {"g": _G},
    ),
    "distances to prototypes": Tail(
        [*_APART, _node("ReduceSumSquare", "d", "q", axes=[1], keepdims=0), _node("Neg", "q", "y")],
        _PROTOTYPES,
    ),
    "distances by Pow, then the nearest": Tail(
        [
            *_APART,
            _node("Pow", "d two", "squares"),
            _node("ReduceSum", "squares second", "sums", keepdims=0),
            _node("ArgMin", "sums", "label", axis=1),
        ],
        {**_PROTOTYPES, "two": np.array(2, np.float32), "second": np.array([-2])},
        outputs=("label",),
    ),
    "distances by Abs, prototypes first": Tail(
        [
            _node("Unsqueeze", "flat middle", "u"),
            _node("Sub", "protos u", "d"),
            _node("Abs", "d", "sizes"),
            _node("Transpose", "sizes", "turned", perm=[0, 2, 1]),
            _node("ReduceMean", "turned", "y", axes=[1], keepdims=0),
        ],
        {"protos": _normal(1, CLASSES, WIDTH), "middle": np.array([1])},
    ),
    "a cosine": Tail(
        [
            _node("ReduceL2", "flat", "norm", axes=[1]),
            _node("Div", "flat norm", "unit"),
            _node("MatMul", "unit g", "y"),
        ],
        {"g": _G},
    ),
    "a cosine written out": Tail(
        [
            _node("LpNormalization", "flat", "unit", axis=1),
            _node("Unsqueeze", "unit last", "u"),
            _node("Mul", "u protos", "products"),
            _node("ReduceSum", "products second", "y", keepdims=0),
        ],
        {**_PROTOTYPES, "second": np.array([1])},
    ),
    "distances in an If": Tail(
        [
            _node(
                "If",
                "yes",
                "y",
                then_branch=_body(
                    [
                        _node("Unsqueeze", "flat last", "u"),
                        _node("Sub", "u protos", "d"),
                        _node("ReduceL2", "d", "t", axes=[1], keepdims=0),
                    ],
                    (),
                    ("t",),
                ),
                else_branch=_body([_node("Identity", "flat", "e")], (), ("e",)),
            )
        ],
        {**_PROTOTYPES, "yes": np.array(True)},
    ),
    "distances in a function that holds its prototypes": Tail(
        [_node("Nearness", "flat last", "y", domain="nets")],
        {"last": np.array([2])},
        (
            _function(
                "Nearness",
                [
                    _node("Constant", "", "p", value=arrays.from_array(_PROTOTYPES["protos"])),
                    _node("Unsqueeze", "a b", "u"),
                    _node("Sub", "u p", "d"),
                    _node("ReduceL1", "d", "made", axes=[1], keepdims=0),
                ],
                "a b",
            ),
        ),
    ),
    "a product of two activations": Tail(
        [_node("Transpose", "flat", "turned"), _node("MatMul", "flat turned", "y")]
    ),
}
FOLLOWED["a product in a Scan"].nodes.insert(0, _SEQUENCE[0])

# The second convolution makes the output.
LAST: dict[str, Tail] = {
    "as it is": Tail([_node("Identity", "c2", "y")]),
    "global pooling": Tail([_node("Softmax", "flat", "y")]),
    "the largest class": Tail([_node("ArgMax", "c2", "label", axis=1)], outputs=("label",)),
    "a mean over positions behind a scale per class": Tail(
        [
            _node("Mul", "r2 scale", "scaled"),
            _node("ReduceMean", "scaled", "y", axes=[2, 3], keepdims=0),
        ],
        {"scale": _normal(1, WIDTH, 1, 1)},
    ),
    "a mean over the last axes, channels last": Tail(
        [
            _node("Transpose", "r2", "turned", perm=[0, 2, 3, 1]),
            _node("Mul", "turned scale", "scaled"),
            _node("ReduceSum", "scaled sides", "y", keepdims=0),
        ],
        {"scale": _normal(WIDTH), "sides": np.array([1, 2])},
    ),
    "a normalised embedding": Tail(
        [_node("ReduceL2", "flat", "norm", axes=[1]), _node("Div", "flat norm", "y")]
    ),
    "its own scale written out, then a mean over channels": Tail(
        [
            _node("Mul", "c2 scale", "scaled"),
            _node("Add", "scaled scale", "moved"),
            _node("ReduceMean", "moved", "y", axes=[1], keepdims=0),
        ],
        {"scale": _normal(1, WIDTH, 1, 1)},
    ),
    "a bias behind the pooling and a softmax written out": Tail(
        [
            _node("Add", "flat bias", "moved"),
            _node("Exp", "moved", "powers"),
            _node("ReduceSum", "powers second", "sum", keepdims=1),
            _node("Div", "powers sum", "y"),
        ],
        {"second": np.array([1])},
    ),
    "an embedding, centred, scaled and normalised": Tail(
        [
            _node("Sub", "flat bias", "centred"),
            _node("Mul", "centred scale", "scaled"),
            _node("ReduceL2", "scaled", "norm", axes=[-1]),
            _node("Div", "scaled norm", "y"),
        ],
        {"scale": _normal(WIDTH)},
    ),
    "an If that moves axes": Tail(
        [
            _node(
                "If",
                "yes",
                "y",
                then_branch=_body([_node("Flatten", "pool", "t")], (), ("t",)),
                else_branch=_body([_node("Identity", "flat", "e")], (), ("e",)),
            )
        ],
        {"yes": np.array(True)},
    ),
    "a function without a layer, whatever its name": Tail(
        [_node("ConvActivation", "flat", "y", domain="nets")],
        {},
        (_function("ConvActivation", [_node("Relu", "a", "made")], "a"),),
    ),
    "Einsum that only moves axes": Tail([_node("Einsum", "flat", "y", equation="nc->cn")]),
    "a sum with what came before": Tail(
        [
            _node("GlobalMaxPool", "c1", "p1"),
            _node("ReduceMax", "p1", "m", axes=[1]),
            _node("Add", "c2 m", "y"),
        ]
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_convolution_that_another_layer_follows_is_a_site(name: str) -> None:
    model = _model(FOLLOWED[name])
    run(model, {"image": images(2)})
    assert [s.name for s in survey(model).sites if s.kind == "Conv"] == ["conv1", "conv2"]


@pytest.mark.parametrize("name", LAST)
def test_a_convolution_that_no_layer_follows_makes_the_output(name: str) -> None:
    model = _model(LAST[name])
    run(model, {"image": images(2)})
    found = survey(model)
    assert [s.name for s in found.sites] == ["conv1"]
    assert ("conv2", "it makes the model's output") in [(x.name, x.reason) for x in found.left_out]


def test_the_head_of_one_output_is_hidden_for_another() -> None:
    tail = Tail([_node("Gemm", "flat g", "y")], {"g": _G}, outputs=("y", "c2"))
    model = _model(tail)
    for output, sites in ((None, 2), ("y", 2), ("c2", 1)):
        assert len(survey(model, output=output).sites) == sites


def test_two_heads_that_are_joined_or_added_are_both_left_out() -> None:
    for joint in (_node("Concat", "a b", "y", axis=1), _node("Add", "a b", "y")):
        nodes = [
            helper.make_node("Conv", ["r2", "p"], ["a"], "head_a"),
            helper.make_node("Conv", ["r1", "q"], ["b"], "head_b"),
            joint,
        ]
        model = _model(Tail(nodes, {"p": _normal(3, WIDTH, 1, 1), "q": _normal(3, 4, 1, 1)}))
        assert [s.name for s in survey(model).sites] == ["conv1", "conv2"]


def test_layers_of_other_kinds_are_listed_by_name() -> None:
    tail = _recurrent("LSTM", 4)
    nodes = [*tail.nodes[:-1], _node("Squeeze", "last_state first", "s"), _node("Gemm", "s h", "y")]
    found = survey(_model(Tail(nodes, {**tail.weights, "h": _normal(CLASSES, 2)})))
    reasons = {x.name: x.reason for x in found.left_out}
    assert reasons["last_state"] == "units of LSTM layers cannot be frozen"
    assert reasons["y"] == "it makes the model's output"
