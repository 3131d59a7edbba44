"""Write PyTorch models as ONNX; hide the exporter's output, and shorten its errors to one line."""

import contextlib
import importlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from repairkit.core.errors import AdapterError, ExportError
from repairkit_adapters.pytorch.modules import ImageModule, watching_modules

_INPUT, _OUTPUT = "images", "output"
_LARGE = 1_500_000_000
_LONGEST = 200
_OPERATOR = re.compile(r"target=torch\.ops\.([\w.]+)")


def write_onnx(model: ImageModule, path: Path, *, opset: int | None) -> None:
    """Write a module in evaluation mode, with a free batch size unless it takes only one.

    Raises:
        AdapterError: onnxscript, which PyTorch's exporter needs, is missing.
        ExportError: a layer cannot be exported.
    """
    try:
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise AdapterError(
            f"PyTorch's exporter needs onnxscript ({error}); install it with `pip install "
            "'repairkit[pytorch]'`"
        ) from error
    module, images = model.module, model.example()
    write = _from_script if isinstance(module, torch.jit.ScriptModule) else _from_program
    try:
        with _quiet(), torch.no_grad():
            write(module, images, path, opset=opset, fixed=model.step is not None)
    except (AdapterError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ExportError(_message(model.source, error, module, images)) from error


def _from_program(
    module: torch.nn.Module, images: torch.Tensor, path: Path, *, opset: int | None, fixed: bool
) -> None:
    free = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        module,
        (images,),
        dynamo=True,
        input_names=[_INPUT],
        dynamic_shapes=None if fixed else ((free,),) if _takes_any_number(module) else (free,),
        opset_version=opset,
        verbose=False,
    )
    # Stack traces show private code of the user.
    for node in program.model.graph:
        node.metadata_props.clear()
    n_bytes = sum(t.numel() * t.element_size() for t in module.parameters())
    program.save(path, external_data=n_bytes > _LARGE)


def _takes_any_number(module: torch.nn.Module) -> bool:
    """Whether `forward` takes the images in `*args`; the exporter then needs a tuple."""
    first = next(iter(inspect.signature(module.forward).parameters.values()), None)
    return first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL


def _from_script(
    module: torch.nn.Module, images: torch.Tensor, path: Path, *, opset: int | None, fixed: bool
) -> None:
    """Write TorchScript with the exporter for it."""
    free = {_INPUT: {0: "batch"}, _OUTPUT: {0: "batch"}}
    torch.onnx.export(
        module,
        (images,),
        str(path),
        dynamo=False,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_axes=None if fixed else free,
        opset_version=opset,
        verbose=False,
    )


def _message(source: str, error: Exception, module: torch.nn.Module, images: torch.Tensor) -> str:
    """One line: the layer, the error, and what to do."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None:
        chain.append(str(current))
        current = current.__cause__
    text = "\n".join(reversed(chain))  # the cause comes first
    with _quiet():
        layer = _layer_at_fault(module, images, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    place = f"layer {layer!r}" if layer else "a layer"
    return (
        f"{source}: {place} cannot be exported to ONNX ({reason[:_LONGEST]}); replace it by "
        "operators that ONNX has, or try another --opset"
    )


def _layer_at_fault(module: torch.nn.Module, images: torch.Tensor, text: str) -> str:
    """The innermost module where capturing stops, or that calls the operator in the message.

    Empty if it is not known.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return ""
    running: list[str] = []
    try:
        with watching_modules(module, running):
            program = torch.export.export(module, (images,), strict=False)
        nodes = list(program.run_decompositions().graph.nodes)
    except Exception:  # noqa: BLE001 - the export has failed already; this only looks for the place
        return running[-1] if running else ""
    operator = _OPERATOR.search(text)
    for node in nodes:
        if operator is not None and str(node.target) == operator.group(1).rstrip("."):
            stack = list(node.meta.get("nn_module_stack", {}).values())
            return str(stack[-1][0]) if stack else ""
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide prints, logs and warnings of the exporter in the block; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
