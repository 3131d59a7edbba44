"""ONNX Runtime sessions: the provider that was asked for, or an error that says what is missing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from onnx import ModelProto

from repairkit.core.errors import DeviceError, ModelError, SettingsError
from repairkit.graph.outside import as_on_disk, folder_of

DEVICES = ("auto", "cpu", "cuda")
_IN_MEMORY_LIMIT = 1_900_000_000
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def load_runtime() -> ModuleType:
    """The onnxruntime module.

    Raises:
        DeviceError: no ONNX Runtime is installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
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
    offered = "CUDAExecutionProvider" in load_runtime().get_available_providers()
    if device == "cuda" and not offered:
        raise DeviceError(
            "this ONNX Runtime has no CUDA; install `repairkit[cuda]` in place of "
            "`repairkit[cpu]`, or use --device cpu"
        )
    return "cuda" if offered and device != "cpu" else "cpu"


def open_session(
    model: ModelProto, *, device: str = "cpu", optimise: bool = True, threads: int = 1
) -> Any:
    """An inference session on the device, or on the CPU where `auto` finds no usable GPU.

    Custom operator libraries are never loaded. TF32 is off, so that both devices mean the same
    32-bit arithmetic.

    Raises:
        ModelError: ONNX Runtime refuses the model.
        DeviceError: CUDA was asked for, and the session came out on the CPU.
    """
    runtime = load_runtime()
    chosen = choose_device(device)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are told as errors
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    providers: list[Any] = ["CPUExecutionProvider"]
    if chosen == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    try:
        session = _start(runtime, model, options, providers)
    except Exception as error:
        # The runtime's exceptions have no common base but Exception.
        if type(error).__module__.split(".")[0] != "onnxruntime":
            raise
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"ONNX Runtime cannot load the model ({first})") from error
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise DeviceError(
            "CUDA was asked for, but ONNX Runtime fell back to the CPU (a CUDA or cuDNN library "
            "is missing or too old); install `repairkit[cuda]`, or use --device cpu"
        )
    return session


def _start(runtime: ModuleType, model: ModelProto, options: Any, providers: list[Any]) -> Any:
    folder_outside = folder_of(model)
    if folder_outside is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(folder_outside))
        # Weights that were rearranged would be in memory a second time.
        options.add_session_config_entry("session.disable_prepacking", "1")
        model = as_on_disk(model)
    if model.ByteSize() < _IN_MEMORY_LIMIT:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=providers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        copy = ModelProto()
        copy.CopyFrom(model)
        onnx.save(copy, path, save_as_external_data=True, location="model.data")
        return runtime.InferenceSession(str(path), options, providers=providers)


def session_device(session: Any) -> str:
    """`cuda` or `cpu`: where a session really runs."""
    return "cuda" if session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
