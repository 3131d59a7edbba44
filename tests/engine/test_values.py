import gc
import weakref

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

import repairkit.engine.ort as values_module
from repairkit.engine.ort import Call, as_value, memory_of, open_slice, owned_outputs

SHAPE = [33, 17]
FLOATS = TensorProto.FLOAT


def affine() -> ModelProto:
    """`sum` is left + right and `difference` left - right."""
    nodes = [
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Sub", ["left", "right"], ["difference"]),
    ]
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info(name, FLOATS, SHAPE) for name in ("left", "right")],
        [helper.make_tensor_value_info(name, FLOATS, SHAPE) for name in ("sum", "difference")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def numbers(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def litter() -> None:
    """Reuse whatever memory was freed."""
    gc.collect()
    for size in (16, 48, 64, 96, 4 * 33 * 17):
        for _ in range(300):
            bytearray(b"\xff" * size)


def test_outputs_outlive_later_calls_and_the_call_itself() -> None:
    call = Call(open_slice(affine()), ("sum", "difference"), {"right": as_value(numbers(0))})
    lefts = [numbers(seed) for seed in range(1, 30)]
    answers = [call({"left": as_value(left)}) for left in lefts]
    del call
    litter()
    for left, answer in zip(lefts, answers, strict=True):
        assert answer["sum"].is_tensor()
        np.testing.assert_array_equal(answer["sum"].numpy(), left + numbers(0))
        np.testing.assert_array_equal(answer["difference"].numpy(), left - numbers(0))


def test_owned_outputs_outlive_a_cleared_binding() -> None:
    session = onnxruntime.InferenceSession(
        affine().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    left, right = as_value(numbers(3)), as_value(numbers(4))
    binding.bind_ortvalue_input("left", left)
    binding.bind_ortvalue_input("right", right)
    binding.bind_output("sum")
    session.run_with_iobinding(binding)
    owned = owned_outputs(binding)
    binding.clear_binding_outputs()
    del binding, session
    litter()
    np.testing.assert_array_equal(owned[0].numpy(), numbers(3) + numbers(4))


def test_a_call_keeps_the_memory_of_what_is_bound_for_good() -> None:
    held = numbers(5)
    alive = weakref.ref(held)
    call = Call(open_slice(affine()), ("sum",), {"right": as_value(held)})
    del held
    litter()
    assert alive() is not None
    np.testing.assert_array_equal(
        call({"left": as_value(numbers(6))})["sum"].numpy(), numbers(6) + numbers(5)
    )
    del call
    gc.collect()
    assert alive() is None


def test_a_call_lets_go_of_what_it_was_fed() -> None:
    call = Call(open_slice(affine()), ("sum",), {"right": as_value(numbers(7))})
    fed = numbers(8)
    alive = weakref.ref(fed)
    call({"left": as_value(fed)})
    del fed
    gc.collect()
    assert alive() is None


def test_what_is_written_to_the_memory_of_a_value_is_what_the_runtime_reads() -> None:
    call = Call(open_slice(affine()), ("sum", "difference"), {"right": as_value(numbers(0))})
    made = call({"left": as_value(numbers(1))})["sum"]
    memory_of(made)[:, 2] = 7
    again = call({"left": made})["sum"].numpy()
    np.testing.assert_array_equal(again[:, 2], 7 + numbers(0)[:, 2])


@pytest.mark.parametrize("shares", [True, False])
def test_the_memory_of_a_value_outlives_the_name_of_the_value(
    monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:
    if not shares:  # as in releases in which `numpy` copies
        monkeypatch.setattr(values_module, "_numpy_shares", lambda: False)
    value = as_value(numbers(9))
    seen = memory_of(value)
    seen[0, 0] = 3
    assert value.numpy()[0, 0] == 3
    del value
    litter()
    np.testing.assert_array_equal(seen[1:], numbers(9)[1:])
