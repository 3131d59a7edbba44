"""Sessions that run a graph just as it is written, on one thread, out of one shared memory pool.

Many small sessions share the work of one model, so each must be light: no threads of its own that
spin, no optimisation (which has been done), no pool of memory that only it can use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import ModelProto

from repairkit.core.errors import ModelError
from repairkit.engine.ort.runtime import load_runtime, runtime_complaint, serialised
from repairkit.engine.ort.values import as_value, owned_outputs
from repairkit.graph.index import with_open_sizes

# These would melt a constant behind a convolution into its weights, where no switch is found.
_UNWANTED = ["ConvAddFusion", "ConvMulFusion", "ConvBNFusion"]

Level = Literal["blocked", "fused", "portable"]


def optimise(model: ModelProto, level: Level) -> ModelProto:
    """The graph that ONNX Runtime makes of a model.

    Args:
        model: never modified.
        level: `blocked` lets convolutions store channels in blocks, as fits this processor;
            `fused` joins operators for the CPU; `portable` runs on any device.

    Raises:
        ModelError: ONNX Runtime refuses the model, or it is too large to be written down.
    """
    runtime = load_runtime()
    levels = runtime.GraphOptimizationLevel
    options = _options()
    options.graph_optimization_level = {
        "blocked": levels.ORT_ENABLE_ALL,
        "fused": levels.ORT_ENABLE_EXTENDED,
        "portable": levels.ORT_ENABLE_BASIC,
    }[level]
    with tempfile.TemporaryDirectory(prefix="repairkit-") as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        _start(model, options, disabled_optimizers=_UNWANTED)
        return onnx.load(path)


def open_slice(model: ModelProto) -> Any:
    """A session that runs an optimised graph, or part of one, as it is.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """
    options = _options()
    options.graph_optimization_level = load_runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
    if _shared_pool():
        options.add_session_config_entry("session.use_env_allocators", "1")
    return _start(model, options)


class Call:
    """A session with most of its inputs bound for good; not for two threads at once.

    Args:
        session: from `open_slice`.
        outputs: all that it makes.
        fixed: runtime values by input name, whose memory stays where it is.
    """

    def __init__(self, session: Any, outputs: tuple[str, ...], fixed: Mapping[str, Any]) -> None:
        self._session, self._outputs = session, outputs
        self._fixed = dict(fixed)  # keeps the memory that the binding reads
        self._binding = session.io_binding()
        for name, value in fixed.items():
            self._binding.bind_ortvalue_input(name, value)

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs, by name, in memory of their own.

        Raises:
            ModelError: ONNX Runtime fails.
        """
        binding = self._binding
        try:
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._outputs:
                binding.bind_output(name)
            self._session.run_with_iobinding(binding)
            values = owned_outputs(binding)
        except Exception as error:
            raise _as_model_error(error) from error
        finally:
            # What was bound would live as long as the binding does.
            binding.clear_binding_outputs()
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, _nothing(value.data_type()))
        return dict(zip(self._outputs, values, strict=True))


@cache
def _nothing(kind: str) -> Any:
    """An empty value of a type such as `tensor(float)`."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(name, name)
    return as_value(np.zeros(0, dtype))


def _options() -> Any:
    options = load_runtime().SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # worked out anew for every session, and slower here
    options.log_severity_level = 4  # failures are told as errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _start(model: ModelProto, options: Any, **extra: Any) -> Any:
    runtime = load_runtime()
    content = serialised(with_open_sizes(model))
    if content is None:
        raise ModelError("the model is too large to be optimised aside")
    try:
        return runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], **extra
        )
    except Exception as error:
        raise _as_model_error(error) from error


def _as_model_error(error: Exception) -> Exception:
    """What to raise in place of the runtime's own exceptions; others stay as they are."""
    complaint = runtime_complaint(error)
    return error if complaint is None else ModelError(f"ONNX Runtime refuses a graph ({complaint})")


@cache
def _shared_pool() -> bool:
    """Whether sessions can share a memory pool; set up on the first call."""
    runtime = load_runtime()
    try:
        kind = runtime.OrtMemoryInfo(
            "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
        )
        runtime.create_and_register_allocator(kind, None)
    except Exception as error:  # noqa: BLE001 (whatever it is, sessions then use their own pools)
        return "already registered" in str(error)
    return True
