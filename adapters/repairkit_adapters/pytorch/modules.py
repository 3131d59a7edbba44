"""Prepare PyTorch modules: without wrappers, in 32 bits, in evaluation mode; write them as ONNX.

`DataParallel`, `torch.compile` and weight averaging wrap a module and add a prefix to the names of
its layers. A module in 16 or 64 bits is exported with its weights in 32 bits, which every runtime
supports. What the exporter prints is hidden, and its errors become one line.
"""

import copy
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from repairkit.core import errors, framework
from repairkit.core.process.noise import silenced
from repairkit.core.process.text import first_line
from repairkit_adapters.foreign_code import with_batch

_COMPILED = "_orig_mod"
_WRAPPED = "module"
_INPUT, _OUTPUT = "images", "output"
_LARGE = 1_500_000_000
_LONGEST = 200
_MISFIT = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)
_OPERATOR = re.compile(r"target=torch\.ops\.([\w.]+)")


@dataclass(frozen=True, kw_only=True)
class ImageModule:
    """A module that takes images. After each call it is back in its previous mode.

    Attributes:
        module: the user's module without wrappers, or a copy in 32 bits.
        input_shape: of one image.
        step: the required number of images per call; None if any number works.
        source: what messages call it.
    """

    module: torch.nn.Module
    input_shape: tuple[int, ...]
    step: int | None
    source: str

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Put all parts of the module into evaluation mode in the block, without compilation."""
        parts = [part for part in self.module.modules() if part.training]
        for part in parts:
            part.training = False
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for part in parts:
                part.training = True

    def tensor(self, images: framework.Images) -> torch.Tensor:
        """Images on the device of the weights."""
        weights = next(self.module.parameters(), None)
        tensor = torch.from_numpy(np.ascontiguousarray(images, np.float32))
        return tensor if weights is None else tensor.to(weights.device)

    def example(self) -> torch.Tensor:
        """A batch of noise."""
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((self.step or 2, *self.input_shape)).astype(np.float32)
        return self.tensor(noise)

    def batches(
        self, n_images: int, at_most: int | None = None
    ) -> Iterator[tuple[NDArray[np.intp], int]]:
        """The rows of images for each call, and how many of them are real.

        The rows after these repeat the last image: some modules take only one batch size.

        Args:
            n_images: in total.
            at_most: images per call if any number works; all if None.
        """
        size = self.step or at_most
        if size is None:
            yield np.arange(n_images), n_images
            return
        for start in range(0, n_images, size):
            n_real = min(size, n_images - start)
            yield start + np.minimum(np.arange(self.step or n_real), n_real - 1), n_real

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The first output, with one row per image.

        Raises:
            AdapterError: the module cannot take the images, or gives no such output.
        """
        try:
            answer = self.module(tensor)
        except _MISFIT as error:
            if self._takes(tensor[:, 0]):
                fault = with_batch(self.input_shape)
            else:
                fault = (
                    f"cannot take images of shape {self.input_shape} ({first_line(error)}); give "
                    "the right --input-shape, of one image without the batch"
                )
            raise errors.AdapterError(f"{self.source}: {fault}") from error
        outputs = tensors_in(answer)
        if not outputs or outputs[0].dim() == 0 or len(outputs[0]) != len(tensor):
            raise errors.AdapterError(
                f"{self.source}: gives no tensor with one row per image as its first output; "
                "wrap the module so that it gives one"
            )
        return outputs[0]

    def _takes(self, tensor: torch.Tensor) -> bool:
        """Whether the module runs on a batch and gives a row for each image."""
        if tensor.dim() < 2:
            return False
        try:
            outputs = tensors_in(self.module(tensor))
        except _MISFIT:
            return False
        return bool(outputs) and outputs[0].dim() > 0 and len(outputs[0]) == len(tensor)


def ready_module(
    module: torch.nn.Module, input_shape: tuple[int, ...], *, step: int | None, source: str
) -> ImageModule:
    """A module without its wrappers, in 32 bits; see `ImageModule` for the arguments.

    Raises:
        AdapterError: the module cannot be used; see `in_32_bits`.
    """

    def ready(inner: torch.nn.Module) -> ImageModule:
        return ImageModule(module=inner, input_shape=input_shape, step=step, source=source)

    given = ready(unwrapped(module))
    with given.evaluation():
        return ready(in_32_bits(given.module, given.example(), source))


@contextmanager
def watching_modules(module: torch.nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the running modules in `running` in the block, innermost last.

    The hooks for this are removed at the end.
    """
    handles = []

    def enter(name: str) -> object:
        return lambda *_: running.append(name)

    def leave(*_: object) -> None:
        running.pop()

    if not isinstance(module, torch.jit.ScriptModule):
        for name, part in module.named_modules():
            if name and not isinstance(part, torch.jit.ScriptModule):
                handles.append(part.register_forward_pre_hook(enter(name)))
                handles.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(tree: object) -> list[torch.Tensor]:
    """The tensors in nested lists, tuples and dictionaries."""
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The user's module inside wrappers: the same object, not a copy."""
    while (inner := _inside(module)) is not None:
        module = module.get_submodule(inner)
    return module


def known_name(module: torch.nn.Module, name: str) -> str:
    """The name of a part of a module, without the names of wrappers.

    Args:
        module: any `nn.Module`.
        name: of a part, as `named_modules` gives it.
    """
    kept = []
    current = module
    for part in name.split(".") if name else ():
        if part != _inside(current):
            kept.append(part)
        current = getattr(current, part, None)
    return ".".join(kept)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """The names of a state dict without the prefixes of wrappers, with the original names.

    The count that weight averaging adds is left out.
    """
    plain = {name: name for name in names}
    while (prefix := _common_prefix(plain)) is not None:
        plain = {n.removeprefix(prefix): old for n, old in plain.items() if n.startswith(prefix)}
    return {_without_compiled(name): old for name, old in plain.items()}


def in_32_bits(module: torch.nn.Module, example: torch.Tensor, source: str) -> torch.nn.Module:
    """The module, or a copy in 32 bits if all its numbers have 16 or 64.

    A module whose code casts images to its own type is not copied: it needs that type.

    Args:
        module: in evaluation mode.
        example: images in 32 bits to call the module with.
        source: what messages call the module.

    Raises:
        AdapterError: the module has no weights yet, or its weights are quantized integers.
    """
    _refuse_unfit(module, source)
    tensors = [*module.parameters(), *module.buffers()]
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if len(kinds) != 1 or kinds == {torch.float32}:
        return module
    converted = copy.deepcopy(module, _computed(module)).float()
    try:
        with torch.no_grad():
            converted(example)
    except RuntimeError:  # the module's code names a type, so the copy does not work
        return module
    return converted


def _computed(module: torch.nn.Module) -> dict[int, object]:
    """Copies of tensors that were computed from parameters, which PyTorch does not copy.

    `torch.nn.utils.weight_norm` keeps such a weight and computes it again at each call.
    """
    values = [value for part in module.modules() for value in vars(part).values()]
    tensors = [t for t in values if isinstance(t, torch.Tensor) and not t.is_leaf]
    return {id(tensor): tensor.detach().clone() for tensor in tensors}


def _inside(module: torch.nn.Module | None) -> str | None:
    """The name of the wrapped module; None if a module is not a wrapper."""
    if isinstance(module, torch.jit.ScriptModule) or not isinstance(module, torch.nn.Module):
        return None
    if _COMPILED in module._modules:
        return _COMPILED
    parallel = torch.nn.parallel
    wrappers = (
        parallel.DataParallel,
        parallel.DistributedDataParallel,
        torch.optim.swa_utils.AveragedModel,
    )
    return _WRAPPED if isinstance(module, wrappers) else None


def _common_prefix(names: Iterable[str]) -> str | None:
    """The wrapper's prefix that all names share, if any."""
    counted = [name for name in names if name != "n_averaged"]
    for prefix in (f"{_WRAPPED}.", f"{_COMPILED}."):
        if counted and all(name.startswith(prefix) for name in counted):
            return prefix
    return None


def _without_compiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def _refuse_unfit(module: torch.nn.Module, source: str) -> None:
    for name, part in module.named_modules():
        if type(part).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise errors.AdapterError(
                f"{source}: layer {name!r} holds quantized integers, which PyTorch cannot export; "
                "export the model as it was before quantization, and quantize the ONNX file"
            )
    empty = (torch.nn.parameter.UninitializedParameter, torch.nn.parameter.UninitializedBuffer)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, empty) or tensor.is_meta:
            raise errors.AdapterError(
                f"{source}: {name!r} has no numbers yet (a lazy module, or one on the device "
                "`meta`); load the trained weights first"
            )


def write_onnx(model: ImageModule, path: Path, *, opset: int | None) -> None:
    """Write a module in evaluation mode, with a free batch size unless it takes only one.

    Raises:
        AdapterError: onnxscript, which PyTorch's exporter needs, is missing.
        ExportError: a layer cannot be exported.
    """
    try:
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise errors.AdapterError(
            f"PyTorch's exporter needs onnxscript ({error}); install it with `pip install "
            "'repairkit[pytorch]'`"
        ) from error
    module, images = model.module, model.example()
    with torch.no_grad():
        model(images)  # where it cannot take them, the exporter's message would be about a layer
    write = _from_script if isinstance(module, torch.jit.ScriptModule) else _from_program
    try:
        with _quiet(), torch.no_grad():
            write(module, images, path, opset=opset, fixed=model.step is not None)
    except (errors.AdapterError, OSError, MemoryError):
        raise
    except Exception as error:
        raise errors.ExportError(_message(model.source, error, module, images)) from error


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


def _quiet() -> AbstractContextManager[None]:
    """Keep back prints, logs and warnings of the exporter; errors are still raised."""
    return silenced("torch", "onnxscript", "onnx_ir", prints=True)
