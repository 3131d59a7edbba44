"""Where sessions run, what the runtime's complaints mean, and who owns the memory of values."""

import ctypes
import gc
import logging
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from repairkit.core.errors import DeviceError, ModelError
from repairkit.engine import ort
from repairkit.engine.ort import (
    CUDA,
    Call,
    as_value,
    memory_of,
    open_session,
    open_slice,
    out_of_memory,
    owned_outputs,
    quarter_of_card_memory,
    runtime_complaint,
    session_device,
)
from tests import models

FAILURE = onnxruntime.capi.onnxruntime_pybind11_state.Fail
OUT_OF_MEMORY = (
    FAILURE("BFCArena: Failed to allocate memory for requested buffer of size 4096"),
    FAILURE("CUDA failure 2: out of memory ; GPU=0"),
    RuntimeError("Failed to allocate memory for requested buffer of size 4096"),
    MemoryError(),
)


class Runtime:
    """ONNX Runtime with a CUDA provider that is listed and cannot be used.

    With libraries missing, the true one opens a session on the CPU and says nothing (`quiet`), or
    raises.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.asked: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def InferenceSession(  # noqa: N802 (the runtime's)
        self, model: bytes, options: Any, *, providers: list[Any], enable_fallback: bool
    ) -> Any:
        assert not enable_fallback
        self.asked.append(providers)
        if len(providers) > 1 and not self.quiet:
            raise FAILURE("libcudnn.so.9: cannot open shared object file")
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture(params=[True, False], ids=["quiet", "loud"])
def crippled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime(quiet=request.param)
    monkeypatch.setattr(ort, "load_runtime", lambda: found)
    return found


def test_a_fall_back_to_the_cpu_is_an_error_where_cuda_was_asked_for(crippled: Runtime) -> None:
    with pytest.raises((DeviceError, ModelError), match=r"fell back to the CPU|libcudnn"):
        open_session(models.own_bias(), device="cuda")
    assert len(crippled.asked) == 1


def test_auto_falls_back_to_the_cpu_and_says_so(
    crippled: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        session = open_session(models.own_bias(), device="auto")
    assert session_device(session) == "cpu"
    assert "CUDA is not used" in caplog.text
    assert crippled.asked[0][0][0] == CUDA


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_off_unless_asked_for(crippled: Runtime, *, tf32: bool) -> None:
    open_session(models.own_bias(), device="auto", tf32=tf32)
    assert crippled.asked[0][0][1]["use_tf32"] == str(int(tf32))


def test_cuda_that_the_runtime_lacks_is_an_error() -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(DeviceError, match="has no CUDA"):
        open_session(models.own_bias(), device="cuda")


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_want_of_memory_is_told_from_other_complaints(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error", [FAILURE("Invalid dimensions"), RuntimeError("no"), ValueError("out of memory")]
)
def test_other_errors_are_no_want_of_memory(error: Exception) -> None:
    assert not out_of_memory(error)


def test_only_the_runtime_s_own_errors_are_complaints() -> None:
    assert runtime_complaint(FAILURE("first\nsecond")) == "first"
    assert runtime_complaint(FAILURE("")) == "Fail"
    assert runtime_complaint(ValueError("first")) is None


def driver(*, total: int, failing: str = "") -> SimpleNamespace:
    """A CUDA driver that knows one card."""

    def device_get(device: Any, number: int) -> int:
        device._obj.value = number + 7
        return int(failing == "device")

    def total_memory(n_bytes: Any, device: ctypes.c_int) -> int:
        assert device.value == 7
        n_bytes._obj.value = total
        return int(failing == "memory")

    return SimpleNamespace(
        cuInit=lambda flags: int(failing == "start") + flags,
        cuDeviceGet=device_get,
        cuDeviceTotalMem_v2=total_memory,
    )


def test_a_quarter_of_a_card_is_of_all_it_has() -> None:
    assert quarter_of_card_memory(driver(total=80 * 2**30)) == 20 * 2**30


@pytest.mark.parametrize("failing", ["start", "device", "memory"])
def test_a_driver_that_fails_gives_the_default(failing: str) -> None:
    assert quarter_of_card_memory(driver(total=80 * 2**30, failing=failing)) == 2**30


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ModuleNotFoundError("no", name="onnxruntime"),
            r"is not installed.*repairkit\[cpu\].*repairkit\[cuda\]",
        ),
        (ImportError("libfoo.so: cannot open"), r"cannot be imported \(libfoo.so: cannot open\)"),
        (ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers"), "flatbuffers"),
    ],
)
def test_a_runtime_that_is_there_and_broken_is_not_called_missing(
    error: ImportError, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "onnxruntime":
                raise error

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DeviceError, match=told):
        ort.load_runtime()


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


def test_the_memory_of_a_value_outlives_the_name_of_the_value() -> None:
    held = numbers(9)
    alive = weakref.ref(held)
    value = as_value(held)
    seen = memory_of(value)
    seen[0, 0] = 3
    assert value.numpy()[0, 0] == 3
    del value, held
    litter()
    assert alive() is not None  # whatever the allocator does with memory that was let go
    np.testing.assert_array_equal(seen[1:], numbers(9)[1:])
    del seen
    gc.collect()
    assert alive() is None


def test_the_memory_of_an_output_outlives_the_call_that_made_it() -> None:
    call = Call(open_slice(affine()), ("sum",), {"right": as_value(numbers(0))})
    seen = memory_of(call({"left": as_value(numbers(1))})["sum"])
    del call
    litter()
    np.testing.assert_array_equal(seen, numbers(1) + numbers(0))
