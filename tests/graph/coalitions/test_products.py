"""A convolution on few positions and its matrix product give the same, whatever its window."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.core.filters import Roster, Site
from repairkit.graph.coalitions.weight_space import (
    Separated,
    bias_name,
    find_switches,
    kernel_name,
    with_codes,
    with_products,
)

SITE = "late"


@dataclass(frozen=True)
class Case:
    """A convolution, and the sizes of its input."""

    kernel: NDArray[np.float32]
    sides: tuple[int, int]
    attributes: dict[str, Any]

    def separated(self, *, sides: tuple[Any, Any] | None = None, opset: int = 17) -> Separated:
        n_out, n_in = self.kernel.shape[0], self.kernel.shape[1] * self.attributes.get("group", 1)
        bias = np.random.default_rng(1).standard_normal(n_out).astype(np.float32)
        stored = {kernel_name(SITE): self.kernel, bias_name(SITE): bias}
        names = ["image", *stored]
        shape = ["batch", n_in, *(self.sides if sides is None else sides)]
        graph = helper.make_graph(
            [
                helper.make_node("Conv", names, ["late_y"], "late", **self.attributes),
                helper.make_node("Relu", ["late_y"], ["y"], "act"),
            ],
            "one",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in stored.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        return Separated(model, {SITE: self.kernel}, {SITE: bias}, ())

    def images(self, n: int = 3) -> NDArray[np.float32]:
        n_in = self.kernel.shape[1] * self.attributes.get("group", 1)
        rng = np.random.default_rng(2)
        return rng.standard_normal((n, n_in, *self.sides)).astype(np.float32)


def run(model: ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    answer: NDArray[np.float32] = session.run(None, {"image": images})[0]
    return answer


def kinds(separated: Separated) -> list[str]:
    return [node.op_type for node in separated.model.graph.node]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Windows of all kinds, asymmetric ones too, that fit their input."""
    pair = st.tuples
    taps = draw(pair(st.integers(1, 3), st.integers(1, 5)))
    dilations = draw(pair(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    sides = tuple(
        max(draw(st.integers(1, 3)), d * (k - 1) + 1 - pads[axis] - pads[axis + 2])
        for axis, (k, d) in enumerate(zip(taps, dilations, strict=True))
    )
    n_out, n_in, seed = draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 99)))
    kernel = np.random.default_rng(seed).standard_normal((n_out, n_in, *taps)).astype(np.float32)
    attributes = {
        "pads": list(pads),
        "strides": list(draw(pair(st.integers(1, 3), st.integers(1, 3)))),
        "dilations": list(dilations),
    }
    return Case(kernel, (sides[0], sides[1]), attributes)


@given(case=cases())
@settings(max_examples=150, deadline=None)
def test_a_product_gives_what_its_convolution_gives(case: Case) -> None:
    before = case.separated()
    after = with_products(before, least_weights=1)
    expected = run(before.model, case.images())
    n_made, n_read = int(np.prod(expected.shape[2:])), int(np.prod(case.sides))
    if n_made * n_read > 2 * np.prod(case.kernel.shape[2:]):
        assert after is before
        return
    assert kinds(after) == ["Flatten", "Gemm", "Reshape", "Relu"]
    assert after.rows == {SITE: n_made}
    np.testing.assert_allclose(run(after.model, case.images()), expected, atol=2e-6)
    rows = after.kernels[SITE].reshape(len(case.kernel), -1)
    for channel in range(len(case.kernel)):  # its rows, and no others, are the filter
        kernel = case.kernel.copy()
        kernel[channel] = 0
        without = with_products(replace(case, kernel=kernel).separated(), least_weights=1)
        expected_rows = rows * (np.arange(len(rows)) != channel)[:, None]
        np.testing.assert_array_equal(without.kernels[SITE].reshape(rows.shape), expected_rows)


def usual(n_out: int = 6, n_in: int = 4, **attributes: Any) -> Case:
    """Three by three taps on two by two positions."""
    shape = (n_out, n_in, 3, 3)
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Case(kernel, (2, 2), {"pads": [1, 1, 1, 1], **attributes})


@pytest.mark.parametrize(
    "separated",
    [
        usual(n_in=2, group=2).separated(),
        usual(auto_pad="SAME_UPPER", pads=[0] * 4).separated(),
        usual().separated(sides=("height", 2)),
        usual().separated(sides=("height", "width")),
        usual(n_in=1).separated(opset=6),
    ],
    ids=["groups", "automatic padding", "an open side", "open sides", "an old standard"],
)
def test_what_is_not_known_stays_a_convolution(separated: Separated) -> None:
    assert with_products(separated, least_weights=1) is separated


def test_small_kernels_stay_convolutions() -> None:
    separated = usual().separated()
    size = separated.kernels[SITE].size
    assert with_products(separated) is separated
    assert with_products(separated, least_weights=size + 1) is separated
    assert with_products(separated, least_weights=size).rows == {SITE: 4}


def test_images_of_another_size_are_refused() -> None:
    product = with_products(usual().separated(), least_weights=1)
    images = np.zeros((2, 4, 2, 4), np.float32)  # as many numbers as four images
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        run(product.model, images)


def _coded() -> tuple[ModelProto, Separated, Roster]:
    separated = with_products(usual().separated(), least_weights=1)
    site = Site(
        name=SITE,
        kind="conv",
        tensor="late_y",
        node="late",
        channel_axis=1,
        n_channels=6,
        rank=4,
    )
    roster = Roster((site,))
    return with_codes(separated, roster), separated, roster


def test_a_product_is_found_by_its_name_and_codes() -> None:
    model, separated, roster = _coded()
    (switch,) = find_switches(model, separated, roster).switches
    assert (switch.rows, switch.shaped, switch.block) == (4, "late_y", 1)
    assert switch.tensor == model.graph.node[1].output[0]


def test_a_product_that_was_changed_is_not_taken() -> None:
    model, separated, roster = _coded()
    stored = next(t for t in model.graph.initializer if t.name == kernel_name(SITE))
    codes = numpy_helper.to_array(stored)
    stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(codes[::-1]), stored.name))
    with pytest.raises(ModelError, match="unknown order"):
        find_switches(model, separated, roster)
    model.graph.node[2].op_type = "Identity"
    with pytest.raises(ModelError, match="not found"):
        find_switches(model, separated, roster)
