"""ONNX Runtime: sessions, values, and the memory that they take.

Two kinds of session. `open_session` gives the provider that was asked for, or an error that says
what is missing. `open_slice` runs part of a graph exactly as written. Many such sessions share the
work of one model, so each must be light: it has no spinning threads, does not optimise (the graph
is optimised already), and shares a memory pool with the others.

A value made from an array shares the array's memory, and only the value's Python object keeps the
array alive. Before ONNX Runtime 1.30 a binding keeps neither the value nor the array: the caller
must hold a bound value until the last run. In those releases a binding hands out references into
itself, which end when it is cleared; `owned_outputs` makes them values of their own.
"""

import ctypes
import logging
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import ModelProto

from repairkit.core import errors, suite
from repairkit.core.process.text import first_line
from repairkit.graph.protos import with_open_sizes
from repairkit.graph.stored.tensors import as_on_disk, folder_of

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_IN_MEMORY_LIMIT = 1_900_000_000
_POOL = "session.use_env_allocators"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_OUT_OF_MEMORY = ("out of memory", "failed to allocate", "cuda failure 2:", "bad_alloc")
# These would fold a constant behind a convolution into its weights, which would hide the switch.
_UNWANTED = ["ConvAddFusion", "ConvMulFusion", "ConvBNFusion"]
Level = Literal["blocked", "fused", "portable"]
_REFUSES = "refuses a graph"
_DRIVER = "libcuda.so.1"
_UNKNOWN_MEMORY = 2**30


def runtime_complaint(error: Exception) -> str | None:
    """The first line of what ONNX Runtime says, None where the error is not the runtime's own.

    Its exceptions have no common base but `Exception`.
    """
    if type(error).__module__.split(".")[0] != "onnxruntime":
        return None
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def as_model_errors(what: str) -> Iterator[None]:
    """Turn the runtime's own exceptions into a ModelError: "ONNX Runtime `what`", and its words."""
    try:
        yield
    except Exception as error:
        complaint = runtime_complaint(error)
        if complaint is None:
            raise
        raise errors.ModelError(f"ONNX Runtime {what} ({complaint})") from error


def out_of_memory(error: Exception) -> bool:
    """Whether the runtime ran out of memory, its own or a device's.

    A value that cannot be placed is a plain `RuntimeError` or `MemoryError` there.
    """
    if runtime_complaint(error) is None and not isinstance(error, MemoryError | RuntimeError):
        return False
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(hint in message for hint in _OUT_OF_MEMORY)


def load_runtime() -> ModuleType:
    """The onnxruntime module; DeviceError if it is not installed or cannot be imported."""
    try:
        import onnxruntime
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError) or error.name != "onnxruntime":
            raise errors.DeviceError(
                f"ONNX Runtime is installed and cannot be imported ({first_line(error)}); "
                "install it anew"
            ) from error
        raise errors.DeviceError(
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
        raise errors.SettingsError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    offered = CUDA in load_runtime().get_available_providers()
    if device == "cuda" and not offered:
        raise errors.DeviceError(
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
    options = _session_options(threads)
    levels = load_runtime().GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if choose_device(device) == "cuda":
        options.use_deterministic_compute = True
        try:
            session = _start(model, options, [(CUDA, _cuda_options(tf32=tf32)), _CPU])
        except errors.ModelError as error:
            if device == "cuda":
                raise
            logger.warning("CUDA is not used: %s", error)
        else:
            return _checked(session, device)
    if _shared_pool():
        options.add_session_config_entry(_POOL, "1")
    return _start(model, options, [_CPU])


def _cuda_options(*, tf32: bool) -> dict[str, str]:
    """Options of the CUDA provider, as its documentation names them."""
    return {
        "use_tf32": "1" if tf32 else "0",
        # The default takes the fastest of a trial, and which one that is changes the last bits.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Every session has its own memory pool, which by default grows by doubling.
        "arena_extend_strategy": "kSameAsRequested",
    }


def _checked(session: Any, device: str) -> Any:
    """The session, if it runs where it was asked to."""
    if session_device(session) == "cpu":
        if device == "cuda":
            raise errors.DeviceError(
                "CUDA was asked for, but ONNX Runtime fell back to the CPU (a CUDA or cuDNN "
                "library is missing or too old); install `repairkit[cuda]`, or use --device cpu"
            )
        logger.warning("CUDA is not used: ONNX Runtime fell back to the CPU")
    return session


@as_model_errors("cannot load the model")
def _start(model: ModelProto, options: Any, providers: list[Any]) -> Any:
    start = load_runtime().InferenceSession
    # Without this the runtime itself falls back to the CPU, even during a run, and prints so.
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
        return start(content, options, **extra)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        copy = ModelProto()
        copy.CopyFrom(model)
        onnx.save(copy, path, save_as_external_data=True, location="model.data")
        return start(str(path), options, **extra)


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


def as_value(array: suite.Array, device: str = "cpu") -> Any:
    """A runtime value that shares the memory of a contiguous array; on another device, a copy."""
    return load_runtime().OrtValue.ortvalue_from_numpy(array, device, 0)


def owned_outputs(binding: Any) -> list[Any]:
    """The outputs of a binding's last run, as values that outlive it and own their memory."""
    held = binding.get_outputs_as_ortvaluevector()
    make = load_runtime().OrtValue
    # By position: an iterator yields references, in releases before 1.30.
    return [make(held[position]) for position in range(len(held))]


def memory_of(value: Any) -> suite.Array:
    """The memory of a value on the CPU as an array that can be written to, and that keeps it."""
    array: suite.Array = value.numpy()
    if not array.size:
        return array
    # `numpy` copies before 1.19, and since then forgets the array that a value was made from.
    buffer = (ctypes.c_char * array.nbytes).from_address(value.data_ptr())
    buffer.owner = value  # type: ignore[attr-defined]  # the value lives as long as the array
    return np.frombuffer(memoryview(buffer), array.dtype).reshape(array.shape)


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
    options = _slice_options()
    options.graph_optimization_level = {
        "blocked": levels.ORT_ENABLE_ALL,
        "fused": levels.ORT_ENABLE_EXTENDED,
        "portable": levels.ORT_ENABLE_BASIC,
    }[level]
    with tempfile.TemporaryDirectory(prefix="repairkit-") as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        _start_slice(model, options, disabled_optimizers=_UNWANTED)
        return onnx.load(path)


def open_slice(model: ModelProto) -> Any:
    """A session that runs an optimised graph, or part of one, as it is; may raise ModelError."""
    options = _slice_options()
    options.graph_optimization_level = load_runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
    if _shared_pool():
        options.add_session_config_entry(_POOL, "1")
    return _start_slice(model, options)


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
        """The outputs, by name, in memory of their own; ModelError if ONNX Runtime fails."""
        binding = self._binding
        try:
            with as_model_errors(_REFUSES):
                for name, value in feeds.items():
                    binding.bind_ortvalue_input(name, value)
                for name in self._outputs:
                    binding.bind_output(name)
                self._session.run_with_iobinding(binding)
                values = owned_outputs(binding)
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


def _session_options(threads: int = 1) -> Any:
    options = load_runtime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised as errors
    return options


def _slice_options() -> Any:
    options = _session_options()
    options.enable_mem_pattern = False  # worked out again for every session, and slower here
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _start_slice(model: ModelProto, options: Any, **extra: Any) -> Any:
    content = serialised(with_open_sizes(model))
    if content is None:
        raise errors.ModelError("the model is too large to be optimised separately")
    with as_model_errors(_REFUSES):
        return load_runtime().InferenceSession(content, options, providers=[_CPU], **extra)


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


def release_freed() -> None:
    """Give freed memory back to the system, where the C library can; takes about a millisecond.

    Opening a session copies all weights several times. The C library of Linux keeps what was freed,
    so that a job would seem to need some hundreds of megabytes more.
    """
    trim = _trimmer()
    if trim is not None:
        trim(0)


@cache
def _trimmer() -> Callable[[int], int] | None:
    """The C library's `malloc_trim`; None with another C library or system."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def quarter_of_card_memory(driver: Any | None = None) -> int:
    """How much memory to use on an NVIDIA card, in bytes; 1 GiB if its driver does not say.

    It is a quarter of the total and not of the free memory: the number of rows in a stack follows
    from it and affects rounding, and results must not depend on what else uses the card.

    Args:
        driver: the CUDA driver's library; the system's if None.
    """
    try:
        library = ctypes.CDLL(_DRIVER) if driver is None else driver
    except OSError:
        return _UNKNOWN_MEMORY
    device, n_bytes = ctypes.c_int(), ctypes.c_size_t()
    failed = (
        library.cuInit(0)
        or library.cuDeviceGet(ctypes.byref(device), 0)
        or library.cuDeviceTotalMem_v2(ctypes.byref(n_bytes), device)
    )
    return _UNKNOWN_MEMORY if failed else n_bytes.value // 4


def quarter_of_free_memory() -> int:
    """In bytes; 1 GiB where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _UNKNOWN_MEMORY
    free = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(free[0]) * 1024 // 4 if free else _UNKNOWN_MEMORY
