"""Find the convolutions that a PyTorch model calls, change what they yield, and freeze channels.

Tracing watches calls of PyTorch's operators, below modules. So it also sees convolutions called
as functions, TorchScript and exported programs, and leaves no hook in the user's modules. Freezing
sets the kernel of a channel to zero, and puts its constant into the bias or the normalisation.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import parametrize as parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from repairkit.core import errors, framework
from repairkit_adapters.pytorch.modules import ImageModule, known_name, tensors_in, watching_modules
from repairkit_adapters.way_back import FrozenChannel, channels_by_layer

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
_TRANSPOSED = 6  # position of the argument `transposed` of a convolution


@dataclass(frozen=True, kw_only=True)
class TracedLayer:
    """A convolution, in the order of calls.

    `call` and `norm_call` count the calls of convolutions and normalisations. `owner` is the module
    with the kernel; `norm` is the module of the normalisation, if it is the only reader. Both are
    empty if no module has them.
    """

    layer: framework.Layer
    call: int
    norm_call: int | None
    owner: str
    norm: str
    transposed: bool

    @property
    def read_call(self) -> int:
        """The call whose output is the filters."""
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


class OperatorWatch(TorchDispatchMode):
    """Calls a function after each operator that PyTorch runs in the block.

    Args:
        see: takes the operator's name, its arguments and its result, which it may change in place.
    """

    def __init__(
        self, see: Callable[[str, tuple[object, ...], Mapping[str, object], object], None]
    ) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = operator(*args, **(kwargs or {}))
        self._see(operator._schema.name, args, kwargs or {}, result)
        return result


@dataclass
class _Record:
    """The calls of convolutions and normalisations, and the readers of each tensor."""

    running: list[str]
    calls: list[_Call] = field(default_factory=list)
    readers: dict[int, list[int | None]] = field(default_factory=dict)
    kept: list[torch.Tensor] = field(default_factory=list)  # keeps ids unique

    def see(
        self, name: str, args: tuple[object, ...], named: Mapping[str, object], result: object
    ) -> None:
        """Keep a call; see `OperatorWatch`."""
        is_norm = name in _NORMS
        counts = is_norm or name in _CONVOLUTIONS
        reader = len(self.calls) if counts else None
        for tensor in tensors_in((args, named)):
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


def overwriting(call: int, frozen: NDArray[np.bool_], constants: framework.Images) -> OperatorWatch:
    """Set some channels of each image to constants, at one convolution or normalisation.

    Args:
        call: its number, in the order of calls.
        frozen: whether a channel of an image is set, (n_images, n_channels).
        constants: of each image's channels, (n_images, n_channels).
    """

    def overwrite(number: int, out: torch.Tensor) -> None:
        if number != call:
            return
        # A layer may see several parts of each image, one after the other along the batch.
        repeats = len(out) // len(frozen)
        rows, channels = np.nonzero(np.repeat(frozen, repeats, axis=0))
        numbers = torch.from_numpy(np.repeat(constants, repeats, axis=0)[rows, channels]).to(out)
        places = [torch.from_numpy(index).to(out.device) for index in (rows, channels)]
        out[places[0], places[1]] = numbers.reshape(-1, *(1,) * (out.dim() - 2))

    return at_layers(overwrite)


def at_layers(see: Callable[[int, torch.Tensor], None]) -> OperatorWatch:
    """Call a function after each convolution and normalisation.

    Args:
        see: takes the number of the call and its result, which it may change in place.
    """
    n_calls = 0

    def count(
        name: str, args: tuple[object, ...], named: Mapping[str, object], result: object
    ) -> None:
        nonlocal n_calls
        del args, named
        if name in _CONVOLUTIONS or name in _NORMS:
            see(n_calls, result[0] if isinstance(result, tuple | list) else result)
            n_calls += 1

    return OperatorWatch(count)


def trace_layers(source: ImageModule) -> tuple[TracedLayer, ...]:
    """The convolutions that a module calls for a batch of images, in order."""
    module = source.module
    running: list[str] = []
    record = _Record(running)
    with source.evaluation(), torch.no_grad(), ExitStack() as stack:
        images = source.example()
        stack.enter_context(watching_modules(module, running))
        stack.enter_context(OperatorWatch(record.see))
        answer = module(images)
    outputs = {id(tensor) for tensor in tensors_in(answer)}
    holders = _holders(module)
    modules = dict(module.named_modules())
    layers: list[TracedLayer] = []
    names: set[str] = set()
    for position, call in enumerate(record.calls):
        if call.is_norm:
            continue
        owner = holders.get(call.weight.data_ptr(), "") or _parametrized(modules, call.module)
        name = _fresh(known_name(module, owner or call.module) or "convolution", names)
        norm = _norm_behind(call, record, outputs)
        kind = _kind(modules.get(owner or call.module), call)
        layers.append(
            TracedLayer(
                layer=framework.Layer(name, kind, int(call.out.shape[1])),
                call=position,
                norm_call=norm,
                owner=owner,
                norm="" if norm is None else record.calls[norm].module,
                transposed=call.transposed,
            )
        )
    return tuple(layers)


def modules_of_layers(
    module: torch.nn.Module, traced: Iterable[TracedLayer]
) -> dict[str, torch.nn.Module]:
    """The module whose output is a layer's filters, by the layer's name.

    Without layers that belong to no module, or to a module that is called several times.
    """
    modules = dict(module.named_modules())
    places = {each.layer.name: each.read_module for each in traced}
    uses = Counter(places.values())
    return {
        name: modules[place]
        for name, place in places.items()
        if place in modules and uses[place] == 1
    }


def _norm_behind(call: _Call, record: _Record, outputs: set[int]) -> int | None:
    """The normalisation, if it is the only reader of a convolution's output."""
    readers = record.readers.get(id(call.out), [])
    if id(call.out) in outputs or len(readers) != 1 or readers[0] is None:
        return None
    reader = record.calls[readers[0]]
    return readers[0] if reader.is_norm and reader.source is call.out else None


def _holders(module: torch.nn.Module) -> dict[int, str]:
    """The module of each weight, by the address of the tensor.

    Tensors other than weights keep their own names.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {
        tensor.data_ptr(): name.removesuffix(".weight")
        for name, tensor in reversed(tensors)
        if tensor.numel()
    }


def _parametrized(modules: Mapping[str, torch.nn.Module], name: str) -> str:
    """The module, if its kernel is computed by a parametrization; else empty."""
    module = modules.get(name)
    return name if module is not None and parametrizations.is_parametrized(module, "weight") else ""


def _kind(module: torch.nn.Module | None, call: _Call) -> str:
    if module is not None:
        name = str(getattr(module, "original_name", type(module).__name__))
        if "Conv" in name:
            return name
    return f"Conv{'Transpose' if call.transposed else ''}{call.out.dim() - 2}d"


def _fresh(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken: the layer is called again."""
    fresh, number = name, 1
    while fresh in taken:
        number += 1
        fresh = f"{name}#{number}"
    taken.add(fresh)
    return fresh


class Frozen(torch.nn.Module):
    """A parametrization that keeps some numbers of a tensor fixed during training.

    Args:
        mask: true where a number is fixed.
        held: the fixed numbers, in the shape of the mask.
    """

    def __init__(self, mask: torch.Tensor, held: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.register_buffer("held", held)

    def forward(self, original: torch.Tensor) -> torch.Tensor:
        """The tensor with the fixed numbers in place."""
        return torch.where(self.mask, self.held.to(original.dtype), original)


@dataclass(frozen=True)
class _Change:
    """Numbers to fix in one tensor of one module."""

    module: torch.nn.Module
    name: str
    mask: torch.Tensor
    held: torch.Tensor


def freeze_channels(
    module: torch.nn.Module,
    traced: Sequence[TracedLayer],
    channels: Sequence[FrozenChannel],
    *,
    parametrize: bool,
) -> None:
    """Freeze channels in place; see `repairkit_adapters.pytorch.apply_patch`.

    Raises:
        AdapterError: the module has no such channel, or cannot freeze it; nothing was changed.
    """
    layers = {each.layer.name: each for each in traced}
    frozen = channels_by_layer(channels, [each.layer for each in traced])
    for name in frozen:
        _refuse_shared(layers[name], traced)
    changes = [
        change
        for name, constants in frozen.items()
        for change in _changes(module, layers[name], constants, lasting=parametrize)
    ]
    for change in changes:
        _make(change, lasting=parametrize)


def _changes(
    module: torch.nn.Module, layer: TracedLayer, constants: Mapping[int, float], *, lasting: bool
) -> list[_Change]:
    """The numbers to fix, by tensor; changes nothing yet."""
    conv = _part(module, layer.owner, layer)
    if not lasting and parametrizations.is_parametrized(conv):
        raise errors.AdapterError(
            f"layer {layer.layer.name!r} is parametrized, so its weights cannot be set; give "
            "parametrize=True, or remove the parametrizations first"
        )
    channels, n_channels = sorted(constants), layer.layer.n_channels
    levels = torch.tensor([constants[c] for c in channels], dtype=conv.weight.dtype)
    zeros = torch.zeros(len(channels), dtype=conv.weight.dtype)
    changes = [_kernel(conv, layer, channels)]
    norm = _part(module, layer.norm, layer) if layer.norm_call is not None else None
    if norm is None:
        return [*changes, _vector(conv, "bias", channels, levels, n_channels)]
    if conv.bias is not None:
        changes.append(_vector(conv, "bias", channels, zeros, n_channels))
    if norm.weight is not None and norm.bias is not None:
        return [
            *changes,
            _vector(norm, "weight", channels, zeros, n_channels),
            _vector(norm, "bias", channels, levels, n_channels),
        ]
    if lasting:
        raise errors.AdapterError(
            f"layer {layer.norm!r} has no weight and bias that could be held through training; "
            "leave parametrize out, or make it affine"
        )
    spread = torch.sqrt(norm.running_var[channels] + norm.eps)
    means = -levels.to(spread) * spread
    return [*changes, _vector(norm, "running_mean", channels, means, n_channels)]


def _part(module: torch.nn.Module, name: str, layer: TracedLayer) -> torch.nn.Module:
    modules = dict(module.named_modules())
    if not name or name not in modules or not hasattr(modules[name], "weight"):
        raise errors.AdapterError(
            f"layer {layer.layer.name!r} is computed by a function, or its weights are not "
            "parameters of a module; only modules such as nn.Conv2d can be frozen in PyTorch"
        )
    return modules[name]


def _refuse_shared(layer: TracedLayer, traced: Sequence[TracedLayer]) -> None:
    calls = Counter(name for t in traced for name in (t.owner, t.norm) if name)
    for name in (layer.owner, layer.norm):
        if name and calls[name] > 1:
            raise errors.AdapterError(
                f"module {name!r} is called {calls[name]} times, and its channels can only be "
                "frozen in all of them; keep the repair in the ONNX file"
            )


def _kernel(conv: torch.nn.Module, layer: TracedLayer, channels: Sequence[int]) -> _Change:
    weight = conv.weight
    mask = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    for channel in channels:
        if layer.transposed:
            rows = weight.shape[0] // conv.groups
            group, within = divmod(channel, weight.shape[1])
            mask[group * rows : (group + 1) * rows, within] = True
        else:
            mask[channel] = True
    return _Change(conv, "weight", mask, torch.zeros_like(weight.detach()))


def _vector(
    module: torch.nn.Module,
    name: str,
    channels: list[int],
    values: torch.Tensor,
    n_channels: int,
) -> _Change:
    like = module.weight if module.weight is not None else module.running_mean
    mask = torch.zeros(n_channels, dtype=torch.bool, device=like.device)
    held = torch.zeros(n_channels, dtype=like.dtype, device=like.device)
    mask[channels] = True
    held[channels] = values.to(held)
    return _Change(module, name, mask, held)


def _make(change: _Change, *, lasting: bool) -> None:
    module, name = change.module, change.name
    if getattr(module, name) is None:
        zeros = torch.zeros_like(change.held)
        module.register_parameter(name, torch.nn.Parameter(zeros))
    if lasting:
        parametrizations.register_parametrization(module, name, Frozen(change.mask, change.held))
        return
    with torch.no_grad():
        tensor = getattr(module, name)
        tensor[change.mask] = change.held[change.mask]
