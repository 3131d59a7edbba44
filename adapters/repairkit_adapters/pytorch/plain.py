"""The module behind what training puts around it, and in 32-bit numbers.

`DataParallel`, `torch.compile` and weight averaging wrap a module and put a prefix before the names
of its layers. A module in 16 or 64 bits is exported with the same weights in 32 bits, which every
runtime computes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch

from repairkit.core.errors import AdapterError

_COMPILED = "_orig_mod"
_WRAPPED = "module"


def unwrapped(module: Any) -> Any:
    """The user's own module: the very object, not a copy."""
    while (inner := _inside(module)) is not None:
        module = module.get_submodule(inner)
    return module


def known_name(module: Any, name: str) -> str:
    """The name of a part of a module without the wrappers that it lies in.

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
    """The names of a state dict without the prefixes of wrappers, each with the name it had.

    A count that weight averaging adds is left out.
    """
    plain = {name: name for name in names}
    while (prefix := _common_prefix(plain)) is not None:
        plain = {n.removeprefix(prefix): old for n, old in plain.items() if n.startswith(prefix)}
    return {_without_compiled(name): old for name, old in plain.items()}


def in_32_bits(module: Any, example: Any, source: str) -> Any:
    """The module, or a copy in 32 bits where all its numbers have 16 or 64.

    A module that casts images to its own type keeps that type, since it could not take others.

    Args:
        module: in evaluation mode.
        example: images in 32 bits, as the module would be called with.
        source: what messages call the module.

    Raises:
        AdapterError: the module holds no weights yet, or its weights are of quantized integers.
    """
    _refuse_unfit(module, source)
    kinds = {tensor.dtype for tensor in _tensors(module) if tensor.is_floating_point()}
    if len(kinds) != 1 or kinds == {torch.float32}:
        return module
    converted = copy.deepcopy(module, _computed(module)).float()
    try:
        with torch.no_grad():
            converted(example)
    except RuntimeError:  # its own code names the type: it can only be taken as it is
        return module
    return converted


def _computed(module: Any) -> dict[int, Any]:
    """Copies of tensors that PyTorch does not copy, since they were computed from parameters.

    `torch.nn.utils.weight_norm` keeps such a weight, and computes it anew at every call.
    """
    held = [value for part in module.modules() for value in vars(part).values()]
    tensors = [t for t in held if isinstance(t, torch.Tensor) and not t.is_leaf]
    return {id(tensor): tensor.detach().clone() for tensor in tensors}


def _tensors(module: Any) -> list[Any]:
    return [*module.parameters(), *module.buffers()]


def _inside(module: Any) -> str | None:
    """The name of what a wrapper wraps; None where a module is no wrapper."""
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
    """The prefix of a wrapper that all names have."""
    counted = [name for name in names if name != "n_averaged"]
    for prefix in (f"{_WRAPPED}.", f"{_COMPILED}."):
        if counted and all(name.startswith(prefix) for name in counted):
            return prefix
    return None


def _without_compiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def _refuse_unfit(module: Any, source: str) -> None:
    for name, part in module.named_modules():
        if type(part).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise AdapterError(
                f"{source}: layer {name!r} holds quantized integers, which PyTorch cannot export; "
                "export the model as it was before quantization, and quantize the ONNX file"
            )
    empty = (torch.nn.parameter.UninitializedParameter, torch.nn.parameter.UninitializedBuffer)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, empty) or tensor.is_meta:
            raise AdapterError(
                f"{source}: {name!r} has no numbers yet (a lazy module, or one on the device "
                "`meta`); load the trained weights first"
            )
