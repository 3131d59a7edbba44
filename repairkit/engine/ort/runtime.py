"""ONNX Runtime sessions: the provider that was asked for, or an error that says what is missing."""

from __future__ import annotations

import logging
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import ModelProto

from repairkit.core.errors import DeviceError, ModelError, SettingsError
from repairkit.core.process.text import first_line
from repairkit.graph.index import with_open_sizes
from repairkit.graph.stored.constants import as_on_disk, folder_of

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_IN_MEMORY_LIMIT = 1_900_000_000
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_OUT_OF_MEMORY = ("out of memory", "failed to allocate", "cuda failure 2:", "bad_alloc")


def runtime_complaint(error: Exception) -> str | None:
    """The first line of what ONNX Runtime says, None where the error is not the runtime's own.

    Its exceptions have no common base but `Exception`.
    """
    if type(error).__module__.split(".")[0] != "onnxruntime":
        return None
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def out_of_memory(error: Exception) -> bool:
    """Whether the runtime ran out of memory, its own or a device's.

    A value that cannot be placed is a plain `RuntimeError` or `MemoryError` there.
    """
    if runtime_complaint(error) is None and not isinstance(error, MemoryError | RuntimeError):
        return False
    told = str(error).lower()
    return isinstance(error, MemoryError) or any(hint in told for hint in _OUT_OF_MEMORY)


def load_runtime() -> ModuleType:
    """The onnxruntime module.

    Raises:
        DeviceError: no ONNX Runtime is installed, or it cannot be imported.
    """
    try:
        import onnxruntime
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError) or error.name != "onnxruntime":
            raise DeviceError(
                f"ONNX Runtime is installed and cannot be imported ({first_line(error)}); "
                "install it anew"
            ) from error
        raise DeviceError(
            "ONNX Runtime is not installed; install it with `pip install 'repairkit[cpu]'`, or "
            "`pip install 'repairkit[cuda]'` for an NVIDIA GPU"
        ) from error
    module: ModuleType = onnxruntime
    return module


def choose_device(device: str) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where the runtime offers it.

    Raises:
        SettingsError: an unknown name.
        DeviceError: CUDA was asked for and the runtime does not offer it.
    """
    if device not in DEVICES:
        raise SettingsError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    offered = CUDA in load_runtime().get_available_providers()
    if device == "cuda" and not offered:
        raise DeviceError(
            "this ONNX Runtime has no CUDA; install `repairkit[cuda]` in place of "
            "`repairkit[cpu]`, or use --device cpu"
        )
    return "cuda" if offered and device != "cpu" else "cpu"


def open_session(
    model: ModelProto,
    *,
    device: str = "cpu",
    optimise: bool = True,
    threads: int = 1,
    tf32: bool = False,
) -> Any:
    """An inference session on the device, or on the CPU where `auto` finds no usable GPU.

    Custom operator libraries are never loaded.

    Args:
        model: never modified.
        device: a name of `DEVICES`.
        optimise: let the runtime rewrite the graph.
        threads: on the CPU.
        tf32: let CUDA round the factors of products to 10 bits; if not, both devices mean the
            same 32-bit arithmetic.

    Raises:
        ModelError: ONNX Runtime refuses the model.
        DeviceError: CUDA was asked for, and the session came out on the CPU.
    """
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are told as errors
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if choose_device(device) == "cuda":
        options.use_deterministic_compute = True
        try:
            session = _start(runtime, model, options, [(CUDA, _cuda_options(tf32=tf32)), _CPU])
        except Exception as error:
            complaint = runtime_complaint(error)
            if complaint is None:
                raise
            if device == "cuda":
                raise ModelError(f"ONNX Runtime cannot load the model ({complaint})") from error
            logger.warning("CUDA is not used: %s", complaint)
        else:
            return _checked(session, device)
    try:
        return _start(runtime, model, options, [_CPU])
    except Exception as error:
        complaint = runtime_complaint(error)
        if complaint is None:
            raise
        raise ModelError(f"ONNX Runtime cannot load the model ({complaint})") from error


def _cuda_options(*, tf32: bool) -> dict[str, str]:
    """Options of the CUDA provider, as its documentation names them."""
    return {
        "use_tf32": "1" if tf32 else "0",
        # The default tries algorithms out, and which one wins changes the last bits.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Every session has a pool of its own, which would else grow by doubling.
        "arena_extend_strategy": "kSameAsRequested",
    }


def _checked(session: Any, device: str) -> Any:
    """The session, if it runs where it was asked to."""
    if session_device(session) == "cpu":
        if device == "cuda":
            raise DeviceError(
                "CUDA was asked for, but ONNX Runtime fell back to the CPU (a CUDA or cuDNN "
                "library is missing or too old); install `repairkit[cuda]`, or use --device cpu"
            )
        logger.warning("CUDA is not used: ONNX Runtime fell back to the CPU")
    return session


def _start(runtime: ModuleType, model: ModelProto, options: Any, providers: list[Any]) -> Any:
    # Else the runtime tries the CPU by itself, prints so, and does the same in the midst of a run.
    extra = {"providers": providers, "enable_fallback": False}
    model = with_open_sizes(model)
    folder_outside = folder_of(model)
    if folder_outside is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(folder_outside))
        # Weights that were rearranged would be in memory a second time.
        options.add_session_config_entry("session.disable_prepacking", "1")
        model = as_on_disk(model)
    content = serialised(model)
    if content is not None:
        return runtime.InferenceSession(content, options, **extra)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        copy = ModelProto()
        copy.CopyFrom(model)
        onnx.save(copy, path, save_as_external_data=True, location="model.data")
        return runtime.InferenceSession(str(path), options, **extra)


def serialised(model: ModelProto) -> bytes | None:
    """The bytes of a model; None where it is too large for ONNX Runtime to read from memory.

    Asking for the size first would write the model out twice.
    """
    try:
        content: bytes = model.SerializeToString()
    except (ValueError, EncodeError):  # protobuf stops at 2 GiB
        return None
    return content if len(content) < _IN_MEMORY_LIMIT else None


def session_device(session: Any) -> str:
    """`cuda` or `cpu`: where a session really runs."""
    return "cuda" if session.get_providers()[0] == CUDA else "cpu"


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "repairkit": version("repairkit"),
        "onnx": onnx.__version__,
        "onnxruntime": load_runtime().__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
