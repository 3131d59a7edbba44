"""See and change what convolutions yield, by watching PyTorch's operators as they are called.

Operators are watched below modules: convolutions that are called as functions, TorchScript and
exported programs are seen like any other, and the user's modules get no hook that stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode

from repairkit.core.framework import Images, Layer
from repairkit_adapters.pytorch.plain import known_name

_CONVOLUTIONS = {"aten::convolution", "aten::_convolution"}
_NORMS = {
    "aten::native_batch_norm",
    "aten::_native_batch_norm_legit",
    "aten::_native_batch_norm_legit_no_training",
    "aten::_batch_norm_no_update",
    "aten::_batch_norm_with_update",
    "aten::cudnn_batch_norm",
    "aten::miopen_batch_norm",
    "aten::batch_norm",
}
_TRANSPOSED = 6


@dataclass(frozen=True)
class TracedLayer:
    """A convolution, in the order of calls.

    `owner` is the module that holds the kernel, and `norm` the module of the normalisation that
    follows alone; both are empty where no module holds them.
    """

    layer: Layer
    call: int
    norm_call: int | None
    owner: str
    norm: str
    transposed: bool


@dataclass
class _Call:
    kind: str
    source: Any
    weight: Any
    out: Any
    module: str
    transposed: bool = False


@dataclass
class _Recorder(TorchDispatchMode):
    """Keeps each convolution and normalisation, and who reads each tensor."""

    running: list[str]
    calls: list[_Call] = field(default_factory=list)
    readers: dict[int, list[int | None]] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)  # so that no tensor takes another's identity

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        name = operator._schema.name
        kind = "conv" if name in _CONVOLUTIONS else "norm" if name in _NORMS else ""
        reader = len(self.calls) if kind else None
        for tensor in _tensors((args, kwargs or {})):
            self.readers.setdefault(id(tensor), []).append(reader)
            self.kept.append(tensor)
        if kind:
            out = result[0] if isinstance(result, tuple | list) else result
            module = self.running[-1] if self.running else ""
            transposed = kind == "conv" and bool(args[_TRANSPOSED])
            self.calls.append(_Call(kind, args[0], args[1], out, module, transposed))
            self.kept.append(out)
        return result


class Overwriting(TorchDispatchMode):
    """Sets, at one convolution or normalisation, one channel of every image."""

    def __init__(self, call: int, channels: NDArray[np.intp], constants: Images) -> None:
        super().__init__()
        self.call, self.channels, self.constants = call, channels, constants
        self.n_calls = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        name = operator._schema.name
        if name not in _CONVOLUTIONS and name not in _NORMS:
            return result
        if self.n_calls == self.call:
            self._overwrite(result[0] if isinstance(result, tuple | list) else result)
        self.n_calls += 1
        return result

    def _overwrite(self, out: Any) -> None:
        # Layers may see several parts of an image, one behind the other along the batch.
        repeats = len(out) // len(self.channels)
        rows = np.arange(len(self.channels) * repeats)
        channels = torch.from_numpy(np.repeat(self.channels, repeats)).to(out.device)
        constants = torch.from_numpy(np.repeat(self.constants, repeats)).to(out)
        ones = (1,) * (out.dim() - 2)
        out[torch.from_numpy(rows).to(out.device), channels] = constants.reshape(-1, *ones)


def trace_layers(module: Any, images: Any) -> tuple[TracedLayer, ...]:
    """The convolutions that a module calls for a batch of images, in that order."""
    running: list[str] = []
    recorder = _Recorder(running)
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(watching_modules(module, running))
        stack.enter_context(recorder)
        answer = module(images)
    given = {id(t) for t in _tensors(answer)}
    holders = _holders(module)
    modules = dict(module.named_modules())
    layers: list[TracedLayer] = []
    names: set[str] = set()
    for position, call in enumerate(recorder.calls):
        if call.kind != "conv":
            continue
        owner = _holder(call.weight, holders) or _parametrized(modules, call.module)
        name = _fresh(known_name(module, owner or call.module) or "convolution", names)
        norm = _norm_behind(call, recorder, given)
        kind = _kind(modules.get(owner or call.module), call)
        layers.append(
            TracedLayer(
                Layer(name, kind, int(call.out.shape[1])),
                position,
                norm,
                owner,
                "" if norm is None else recorder.calls[norm].module,
                call.transposed,
            )
        )
    return tuple(layers)


def _norm_behind(call: _Call, recorder: _Recorder, given: set[int]) -> int | None:
    """The normalisation that alone reads a convolution's output."""
    readers = recorder.readers.get(id(call.out), [])
    if id(call.out) in given or len(readers) != 1 or readers[0] is None:
        return None
    reader = recorder.calls[readers[0]]
    return readers[0] if reader.kind == "norm" and reader.source is call.out else None


def _tensors(tree: Any) -> list[Any]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _holders(module: Any) -> dict[int, str]:
    """Where each tensor starts in memory, and the module of which it is the weight.

    A tensor of another name stands for itself.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {
        tensor.data_ptr(): name.removesuffix(".weight")
        for name, tensor in reversed(tensors)
        if tensor.numel()
    }


def _holder(weight: Any, holders: dict[int, str]) -> str:
    return holders.get(weight.data_ptr(), "")


def _parametrized(modules: dict[str, Any], name: str) -> str:
    """The module under way, if its kernel is computed by a parametrization."""
    module = modules.get(name)
    return name if module is not None and is_parametrized(module, "weight") else ""


def _kind(module: Any, call: _Call) -> str:
    if module is not None:
        name = str(getattr(module, "original_name", type(module).__name__))
        if "Conv" in name:
            return name
    return f"Conv{'Transpose' if call.transposed else ''}{call.out.dim() - 2}d"


def _fresh(name: str, taken: set[str]) -> str:
    """A layer that is called again gets a number behind its name."""
    fresh, number = name, 1
    while fresh in taken:
        number += 1
        fresh = f"{name}#{number}"
    taken.add(fresh)
    return fresh


@contextmanager
def watching_modules(module: Any, running: list[str]) -> Iterator[None]:
    """While open, `running` holds the names of the modules under way; hooks are taken off again."""
    handles = []

    def enter(name: str) -> Any:
        return lambda *_: running.append(name)

    def leave(*_: Any) -> None:
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
