"""See and change what convolutions yield, by watching PyTorch's operators as they are called.

Operators are watched below modules: convolutions that are called as functions, TorchScript and
exported programs are seen like any other, and the user's modules keep no hook.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode

from repairkit.core.framework import Images, Layer
from repairkit_adapters.pytorch.modules import (
    ImageModule,
    known_name,
    tensors_in,
    watching_modules,
)

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
_TRANSPOSED = 6  # the argument of a convolution that says whether it is transposed


@dataclass(frozen=True, kw_only=True)
class TracedLayer:
    """A convolution, in the order of calls.

    `call` and `norm_call` count the calls of convolutions and normalisations. `owner` is the module
    that holds the kernel, and `norm` the module of the normalisation that follows alone; both are
    empty where no module holds them.
    """

    layer: Layer
    call: int
    norm_call: int | None
    owner: str
    norm: str
    transposed: bool

    @property
    def read_call(self) -> int:
        """The call whose output holds the filters."""
        return self.call if self.norm_call is None else self.norm_call

    @property
    def read_module(self) -> str:
        """The module of that call."""
        return self.owner if self.norm_call is None else self.norm


@dataclass(kw_only=True)
class _Call:
    """A call of a convolution or a normalisation."""

    is_norm: bool
    source: torch.Tensor
    weight: torch.Tensor
    out: torch.Tensor
    module: str
    transposed: bool


@dataclass
class _Recorder(TorchDispatchMode):
    """Keeps each convolution and normalisation, and who reads each tensor."""

    running: list[str]
    calls: list[_Call] = field(default_factory=list)
    readers: dict[int, list[int | None]] = field(default_factory=dict)
    kept: list[torch.Tensor] = field(default_factory=list)  # so that no identity is used twice

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = operator(*args, **(kwargs or {}))
        name = operator._schema.name
        is_norm = name in _NORMS
        counts = is_norm or name in _CONVOLUTIONS
        reader = len(self.calls) if counts else None
        for tensor in tensors_in((args, kwargs or {})):
            self.readers.setdefault(id(tensor), []).append(reader)
            self.kept.append(tensor)
        if counts:
            out = result[0] if isinstance(result, tuple | list) else result
            self.calls.append(
                _Call(
                    is_norm=is_norm,
                    source=args[0],
                    weight=args[1],
                    out=out,
                    module=self.running[-1] if self.running else "",
                    transposed=not is_norm and bool(args[_TRANSPOSED]),
                )
            )
            self.kept.append(out)
        return result


class Overwriting(TorchDispatchMode):
    """Sets, at one convolution or normalisation, one channel of every image."""

    def __init__(self, call: int, channels: NDArray[np.intp], constants: Images) -> None:
        super().__init__()
        self.call, self.channels, self.constants = call, channels, constants
        self.n_calls = 0

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = operator(*args, **(kwargs or {}))
        name = operator._schema.name
        if name not in _CONVOLUTIONS and name not in _NORMS:
            return result
        if self.n_calls == self.call:
            self._overwrite(result[0] if isinstance(result, tuple | list) else result)
        self.n_calls += 1
        return result

    def _overwrite(self, out: torch.Tensor) -> None:
        # Layers may see several parts of an image, one behind the other along the batch.
        repeats = len(out) // len(self.channels)
        rows = np.arange(len(self.channels) * repeats)
        channels = torch.from_numpy(np.repeat(self.channels, repeats)).to(out.device)
        constants = torch.from_numpy(np.repeat(self.constants, repeats)).to(out)
        ones = (1,) * (out.dim() - 2)
        out[torch.from_numpy(rows).to(out.device), channels] = constants.reshape(-1, *ones)


def trace_layers(source: ImageModule) -> tuple[TracedLayer, ...]:
    """The convolutions that a module calls for a batch of images, in that order."""
    module = source.module
    running: list[str] = []
    recorder = _Recorder(running)
    with source.evaluation(), torch.no_grad(), ExitStack() as stack:
        images = source.example()
        stack.enter_context(watching_modules(module, running))
        stack.enter_context(recorder)
        answer = module(images)
    outputs = {id(tensor) for tensor in tensors_in(answer)}
    holders = _holders(module)
    modules = dict(module.named_modules())
    layers: list[TracedLayer] = []
    names: set[str] = set()
    for position, call in enumerate(recorder.calls):
        if call.is_norm:
            continue
        owner = holders.get(call.weight.data_ptr(), "") or _parametrized(modules, call.module)
        name = _fresh(known_name(module, owner or call.module) or "convolution", names)
        norm = _norm_behind(call, recorder, outputs)
        kind = _kind(modules.get(owner or call.module), call)
        layers.append(
            TracedLayer(
                layer=Layer(name, kind, int(call.out.shape[1])),
                call=position,
                norm_call=norm,
                owner=owner,
                norm="" if norm is None else recorder.calls[norm].module,
                transposed=call.transposed,
            )
        )
    return tuple(layers)


def modules_of_layers(
    module: torch.nn.Module, traced: Iterable[TracedLayer]
) -> dict[str, torch.nn.Module]:
    """The module whose output holds a layer's filters, by the layer's name.

    Layers that no module holds are left out, and those of a module that is called several times.
    """
    modules = dict(module.named_modules())
    places = {each.layer.name: each.read_module for each in traced}
    uses = Counter(places.values())
    return {
        name: modules[place]
        for name, place in places.items()
        if place in modules and uses[place] == 1
    }


def _norm_behind(call: _Call, recorder: _Recorder, outputs: set[int]) -> int | None:
    """The normalisation that alone reads a convolution's output."""
    readers = recorder.readers.get(id(call.out), [])
    if id(call.out) in outputs or len(readers) != 1 or readers[0] is None:
        return None
    reader = recorder.calls[readers[0]]
    return readers[0] if reader.is_norm and reader.source is call.out else None


def _holders(module: torch.nn.Module) -> dict[int, str]:
    """Where each tensor starts in memory, and the module of which it is the weight.

    A tensor that is no weight keeps its own name.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {
        tensor.data_ptr(): name.removesuffix(".weight")
        for name, tensor in reversed(tensors)
        if tensor.numel()
    }


def _parametrized(modules: Mapping[str, torch.nn.Module], name: str) -> str:
    """The module that is being called, if its kernel is computed by a parametrization."""
    module = modules.get(name)
    return name if module is not None and is_parametrized(module, "weight") else ""


def _kind(module: torch.nn.Module | None, call: _Call) -> str:
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
