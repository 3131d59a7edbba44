"""Load PyTorch models from factories with a state dict, exported programs and TorchScript."""

import pickle
import zipfile
from pathlib import Path
from typing import TypeAlias

import torch

from repairkit.core import errors, framework
from repairkit.core.process.noise import silenced
from repairkit.core.process.text import first_line
from repairkit.core.process.trust import offer, refuse_untrusted
from repairkit_adapters.foreign_code import (
    PickledNames,
    named_model,
    read_names,
    with_batch,
)
from repairkit_adapters.pytorch.modules import ImageModule, plain_names

_NESTED = ("state_dict", "model_state_dict", "model", "net")
_SHOWN = 3  # names of tensors in a message

StateDict: TypeAlias = dict[str, torch.Tensor]


def load_source(source: str, options: framework.LoadOptions) -> ImageModule:
    """The module of a source, with its wrappers; see `PyTorchAdapter.load`."""
    path = Path(source)
    is_file = path.suffix.lower() in (".pt2", ".pt", ".pth", ".ts", ".torchscript", ".jit")
    if is_file or path.is_file():
        if options.weights is not None:
            raise errors.AdapterError(
                f"{source}: holds its own weights; leave --weights out, or name a factory "
                "(module:function) that they are for"
            )
        return _from_file(path, options)
    if not all(source.partition(":")):
        raise errors.AdapterError(
            f"{source}: is no PyTorch source; give module:factory, a torch.export program (.pt2) "
            "or a TorchScript file"
        )
    module = named_model(source, torch.nn.Module, "torch.nn.Module")
    if options.weights is not None:
        _fill(module, options.weights, source, trust=options.trust)
    return _with_shape(module, source, "a module", options)


def _fill(module: torch.nn.Module, path: Path, source: str, *, trust: bool) -> None:
    """Load a state dict into a module; it must have exactly the same tensors."""
    state = _bare(_read_state(path, trust=trust), module)
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    misfits = [
        f"{name} is {tuple(state[name].shape)} and {tuple(wanted[name].shape)} was expected"
        for name in wanted
        if name in state
        and hasattr(wanted[name], "shape")
        and state[name].shape != wanted[name].shape
    ]
    faults = [
        *([f"{len(missing)} tensors are missing ({_some(missing)})"] if missing else []),
        *([f"{len(unknown)} are not the model's ({_some(unknown)})"] if unknown else []),
        *([f"{len(misfits)} have another shape ({misfits[0]})"] if misfits else []),
    ]
    if faults:
        raise errors.AdapterError(
            f"{path}: does not fit {source}: {'; '.join(faults)}; name the factory that the "
            "weights were saved from"
        )
    module.load_state_dict(state)


def _bare(state: StateDict, module: torch.nn.Module) -> StateDict:
    """The state dict inside a checkpoint, without the name prefixes of wrappers."""
    for name in _NESTED:
        if isinstance(state.get(name), dict):
            state = state[name]
            break
    tensors = {n: t for n, t in state.items() if isinstance(t, torch.Tensor)}
    wanted = module.state_dict()
    if set(tensors) == set(wanted):
        return tensors
    given, taken = plain_names(tensors), plain_names(wanted)
    if set(given) != set(taken):
        return tensors
    return {taken[name]: tensors[old] for name, old in given.items()} | {
        name: wanted[name] for name in wanted if name not in taken.values()
    }


def _read_state(path: Path, *, trust: bool) -> StateDict:
    """A state dict; without trust, only types that PyTorch considers safe are unpickled."""
    if not path.is_file():
        raise errors.AdapterError(f"{path}: there is no such file; give --weights a state dict")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    try:
        with silenced():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        pickled = read_names(path)
        if not pickled.foreign:
            reasons = "; ".join([first_line(error), *pickled.faults])
            raise errors.AdapterError(
                f"{path}: is no state dict that can be read safely ({reasons}); save it "
                "with torch.save(model.state_dict(), ...) or as safetensors"
            ) from error
        state = _unpickle(path, pickled, trust=trust)
    if isinstance(state, torch.nn.Module):
        state = state.state_dict()
    if not isinstance(state, dict):
        raise errors.AdapterError(
            f"{path}: holds a {type(state).__name__}, and a state dict was expected; save it with "
            "torch.save(model.state_dict(), ...)"
        )
    return state


def _unpickle(path: Path, pickled: PickledNames, *, trust: bool) -> object:
    """Unpickle a trusted file; its classes may be in the working folder.

    Raises:
        AdapterError: the file is not trusted, or cannot be read.
    """
    refuse_untrusted(errors.AdapterError, path, [*pickled.foreign, *pickled.faults], trust=trust)
    for name in pickled.foreign:
        offer(name.partition(":")[0])
    try:
        with silenced():
            return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise errors.AdapterError(
            f"{path}: cannot be unpickled ({first_line(error)}); run where its classes are, or "
            "save it with torch.save(model.state_dict(), ...)"
        ) from error


def _read_safetensors(path: Path) -> StateDict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise errors.AdapterError(
            f"{path}: reading safetensors needs the package of that name ({error}); install it "
            "with `pip install 'repairkit[pytorch]'`"
        ) from error
    try:
        state: StateDict = load_file(path)
    except SafetensorError as error:
        raise errors.AdapterError(
            f"{path}: is no safetensors file ({first_line(error)})"
        ) from error
    return state


def _from_file(path: Path, options: framework.LoadOptions) -> ImageModule:
    """A `torch.export` program, a TorchScript file, or a module that was pickled whole."""
    if not path.is_file():
        raise errors.AdapterError(
            f"{path}: there is no such file; give the path of a PyTorch model"
        )
    names = _archive(path)
    if any(name.endswith("constants.pkl") for name in names):
        return _from_script(path, options)
    if any("models/" in n or n.endswith("serialized_exported_program.json") for n in names):
        return _from_program(path, options)
    pickled = read_names(path)
    if pickled.foreign:
        module = _unpickle(path, pickled, trust=options.trust)
        if isinstance(module, torch.nn.Module):
            return _with_shape(module, str(path), "a module", options)
    faults = f" ({'; '.join(pickled.faults)})" if pickled.faults else ""
    raise errors.AdapterError(
        f"{path}: is neither a torch.export program nor TorchScript{faults}; of a file with "
        "weights alone, give --weights and name the model's factory (module:function) as the source"
    )


def _archive(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        return []


def _from_script(path: Path, options: framework.LoadOptions) -> ImageModule:
    code = [name for name in _archive(path) if "/code/" in name and name.endswith(".py")]
    refuse_untrusted(
        errors.AdapterError,
        path,
        [f"the TorchScript program {name.partition('/code/')[2]}" for name in code]
        or ["a TorchScript program"],
        trust=options.trust,
    )
    try:
        with silenced():
            module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise errors.AdapterError(
            f"{path}: cannot be read as TorchScript ({first_line(error)})"
        ) from error
    return _with_shape(module, str(path), "TorchScript", options)


def _with_shape(
    module: torch.nn.Module, source: str, kind: str, options: framework.LoadOptions
) -> ImageModule:
    if options.input_shape is None:
        raise errors.AdapterError(
            f"{source}: {kind} does not say which images it takes; give --input-shape, such as "
            "3,224,224"
        )
    return ImageModule(module=module, input_shape=options.input_shape, step=None, source=source)


def _from_program(path: Path, options: framework.LoadOptions) -> ImageModule:
    refuse_untrusted(errors.AdapterError, path, _code_of_program(path), trust=options.trust)
    try:
        with silenced():
            program = torch.export.load(str(path))
            module = program.module(check_guards=False)
    except Exception as error:
        raise errors.AdapterError(
            f"{path}: cannot be read as a torch.export program ({first_line(error)}); export it "
            "again with this version of PyTorch"
        ) from error
    shape, step = _input_of(program, path)
    if options.input_shape not in (None, shape):
        if options.input_shape[1:] == shape:
            raise errors.AdapterError(f"{path}: {with_batch(options.input_shape)}")
        raise errors.AdapterError(
            f"{path}: takes images of shape {shape}, not {options.input_shape}; leave "
            "--input-shape out"
        )
    return ImageModule(module=module, input_shape=shape, step=step, source=str(path))


def _code_of_program(path: Path) -> list[str]:
    """What loading an exported program runs: names in its pickles, and its operators."""
    pickled = read_names(path)
    names = [f"the pickle's {name}" for name in (*pickled.foreign, *pickled.names)]
    return [*dict.fromkeys(names), *pickled.faults, "the program's operators"]


def _input_of(
    program: torch.export.ExportedProgram, path: Path
) -> tuple[tuple[int, ...], int | None]:
    """The shape of one image, and the fixed batch size of the program, if any."""
    wanted = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]
    values = [n.meta.get("val") for n in nodes]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor) or values[0].dim() < 2:
        raise errors.AdapterError(
            f"{path}: takes {len(values)} inputs, and one batch of images was expected; export a "
            "program that takes just the images"
        )
    batch, *shape = values[0].shape
    if not all(isinstance(size, int) for size in shape):
        raise errors.AdapterError(
            f"{path}: takes images of any size; export the program with the size that it is used at"
        )
    return tuple(shape), batch if isinstance(batch, int) else None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
