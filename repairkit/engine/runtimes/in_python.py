"""Runtimes with a Python package: OpenVINO, and providers of ONNX Runtime such as TensorRT.

OpenVINO computes in bfloat16 or half precision where the processor is fast at it, unless it is told
otherwise: INFERENCE_PRECISION_HINT is f32 here (docs.openvino.ai, "Precision Control"). Integer
codes stay integer codes.

TensorRT and Core ML are reached through ONNX Runtime's providers, which convert the parts of the
graph that they support and leave the rest to the CPU. A profile of the runs tells which nodes ran
where, and a check in which none ran in the wanted runtime is refused. TensorRT uses TF32 for 32-bit
numbers, and ONNX Runtime has no option against it; NVIDIA_TF32_OVERRIDE=0 in the environment turns
it off. Core ML is told to compute on the CPU as an ML program, which keeps 32 bits. Options are
named as in onnxruntime.ai, "TensorRT Execution Provider" and "CoreML Execution Provider".
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, cast

from onnx import ModelProto

from repairkit.core import errors
from repairkit.core.process.text import counted
from repairkit.engine import ort
from repairkit.engine.runtimes import foreign

_FAILURES = (RuntimeError, TypeError, ValueError, KeyError)
_TELEMETRY = "openvino_telemetry"
_PRECISION = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Hide the package by which OpenVINO, when it is imported, sends that it is used.

    OpenVINO goes without it where it is missing. If it was imported before, nothing is changed.
    """
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = cast("ModuleType", None)  # so that importing it fails
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO on the CPU, in 32 bits."""

    name: ClassVar = "openvino"
    title: ClassVar = "OpenVINO"
    tolerance: ClassVar = foreign.FLOAT_TOLERANCE

    def run(self, model: ModelProto, feeds: Sequence[foreign.Feeds]) -> foreign.Answered:
        """See `ForeignRuntime.run`."""
        try:
            with _no_telemetry():
                import openvino
        except ImportError as error:
            raise errors.DeviceError(
                "OpenVINO is not installed, or cannot be imported; install it with `pip install "
                "'repairkit[openvino]'`"
            ) from error
        content, core = foreign.content_of(model, self.title), openvino.Core()
        try:
            compiled = core.compile_model(core.read_model(content), "CPU", _PRECISION)
        except _FAILURES as error:
            raise foreign.refusal(self.title, "load", error) from error
        runs = []
        for fed in feeds:
            try:
                answer = compiled.create_infer_request().infer(dict(fed))
            except _FAILURES as error:
                raise foreign.refusal(self.title, "run", error) from error
            runs.append([answer[port].copy() for port in compiled.outputs])
        return foreign.Answered(runs, openvino.__version__.partition("-")[0], "on the CPU, in f32")


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A runtime behind a provider of ONNX Runtime.

    Attributes:
        name: as `--runtime` takes it.
        title: for messages.
        provider: ONNX Runtime's name for it.
        options: of the provider.
        tolerance: see `foreign`.
        needs: the machine and the packages that it needs, in words.
        how: how it computes, in words.
    """

    name: str
    title: str
    provider: str
    options: Mapping[str, str]
    tolerance: float
    needs: str
    how: str

    def run(self, model: ModelProto, feeds: Sequence[foreign.Feeds]) -> foreign.Answered:
        """See `ForeignRuntime.run`."""
        runtime = ort.load_runtime()
        if self.provider not in runtime.get_available_providers():
            raise errors.DeviceError(
                f"the ONNX Runtime that is installed has no {self.title}: it needs {self.needs}"
            )
        content = foreign.content_of(model, self.title)
        with tempfile.TemporaryDirectory(prefix="repairkit-") as folder:
            options = runtime.SessionOptions()
            options.log_severity_level = 4  # failures are raised as errors
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            with ort.as_model_errors(f"cannot load the model for {self.title}"):
                session = runtime.InferenceSession(
                    content,
                    options,
                    providers=[(self.provider, dict(self.options))],  # the CPU comes with it
                    enable_fallback=False,
                )
            with ort.as_model_errors(f"cannot run the model in {self.title}"):
                runs = [session.run(None, dict(fed)) for fed in feeds]
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return foreign.Answered(runs, runtime.__version__, f"{self.how}; {self._share(events)}")

    def _share(self, events: Iterable[Any]) -> str:
        """How many nodes ran in this runtime, in words; DeviceError if none did."""
        ran = nodes_by_provider(events)
        there, others = ran.pop(self.provider, 0), sum(ran.values())
        if not there:
            raise errors.DeviceError(
                f"{self.title} took no node of the model, and ONNX Runtime ran it on the CPU; it "
                f"needs {self.needs}"
            )
        rest = f", {counted(others, 'node')} elsewhere" if others else " and none elsewhere"
        return f"{counted(there, 'node')} (fused ones count as one) ran in {self.title}{rest}"


def nodes_by_provider(events: Iterable[Any]) -> Counter[str]:
    """How many different nodes ran in each provider, by a profile of ONNX Runtime."""
    seen = {
        (str(event["args"]["provider"]), str(event.get("name")))
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    return Counter(provider for provider, _ in seen)


TENSORRT = Provider(
    name="tensorrt",
    title="TensorRT",
    provider="TensorrtExecutionProvider",
    options={"trt_fp16_enable": "0", "trt_engine_cache_enable": "0"},
    tolerance=foreign.HALF_TOLERANCE,
    needs="an NVIDIA GPU, onnxruntime-gpu and the libraries of TensorRT (`pip install "
    "'repairkit[cuda]' tensorrt`, in the versions that onnxruntime.ai lists)",
    how="through ONNX Runtime's provider, without half precision, in TF32 unless "
    "NVIDIA_TF32_OVERRIDE=0 is set",
)
COREML = Provider(
    name="coreml",
    title="Core ML",
    provider="CoreMLExecutionProvider",
    options={"ModelFormat": "MLProgram", "MLComputeUnits": "CPUOnly"},
    tolerance=1e-3,
    needs="macOS and the onnxruntime of PyPI, 1.20 or later",
    how="through ONNX Runtime's provider, as an ML program on the CPU",
)
