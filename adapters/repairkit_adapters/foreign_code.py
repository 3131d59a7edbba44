"""Code of users and frameworks: load it by name, find it in pickles, and name what is wrong."""

import inspect
import io
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from repairkit.core.errors import AdapterError, RepairkitError
from repairkit.core.process.text import first_line
from repairkit.core.process.trust import import_named, no_exit

_MOST_BYTES = 1 << 28
_MOST_NESTED = 3
_TEXT_BYTES = 1 << 24
_LEGACY_PICKLES = 5  # followed by numbers, in a file of `torch.save` that is not a zip
_ENDINGS = (".pkl", ".pickle")
_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))
# Parts of tensors and state dicts.
_TENSORS = ("torch._utils", "torch.storage", "torch._tensor", "torch.nn.parameter")
_PLAIN = {"collections:OrderedDict", "torch:Size", "torch:device", "torch:dtype"}


def with_batch(shape: tuple[int, ...]) -> str:
    """What to say of an input shape that has the batch in front of the shape of one image."""
    given, one = (",".join(map(str, sizes)) for sizes in (shape, shape[1:]))
    return (
        f"--input-shape {given} is not of one image: {len(shape)} numbers were given, with the "
        f"batch first, and {len(shape) - 1} were expected; write --input-shape {one}"
    )


def named_model(
    source: str, kind: type, kind_name: str, calling: AbstractContextManager[None] | None = None
) -> object:
    """The model that a source names, or that its function or class returns without arguments.

    Args:
        source: `module:factory`, where `factory` may be a path of attributes.
        kind: the framework's class of models.
        kind_name: name of that class in messages.
        calling: open while the factory is called.

    Raises:
        AdapterError: the module cannot be imported, or returns no such model.
    """
    factory = _named(source)
    model = factory
    if not isinstance(factory, kind) and callable(factory):
        try:
            inspect.signature(factory).bind()
        except (TypeError, ValueError) as error:
            raise AdapterError(
                f"{source}: cannot be called without arguments ({first_line(error)}); name a "
                "function that needs none and gives the model"
            ) from error
        try:
            with calling or nullcontext(), no_exit(source, AdapterError):
                model = factory()
        except RepairkitError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise AdapterError(
                f"{source}: raised an error ({first_line(error)}); name a function that gives the "
                "model without arguments"
            ) from error
    if not isinstance(model, kind):
        raise AdapterError(
            f"{source}: gives a {type(model).__name__}, and a {kind_name} was expected; name a "
            "function or class that gives the model"
        )
    return model


def _named(source: str) -> object:
    module, _, path = source.partition(":")
    try:
        with no_exit(source, AdapterError):
            named: object = import_named(module)
    except RepairkitError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise AdapterError(
            f"{source}: the module {module!r} cannot be imported ({first_line(error)}); run in "
            "the folder where it is, or install it"
        ) from error
    for part in path.split("."):
        if not hasattr(named, part):
            raise AdapterError(
                f"{source}: the module {module!r} has no {path!r}; check the name after the colon"
            )
        named = getattr(named, part)
    return named


@dataclass(frozen=True)
class PickledNames:
    """What the pickles in a file would import.

    Attributes:
        names: as `module:name`, sorted.
        faults: in words, what could not be read; names may be missing there.
    """

    names: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def foreign(self) -> tuple[str, ...]:
        """The names that a plain state dict does not need."""
        return tuple(name for name in self.names if not _is_plain(name))


@dataclass
class _Findings:
    """The names and faults so far."""

    names: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def read_names(path: Path) -> PickledNames:
    """The names in the pickles of a file: in every such member of a zip, also in zips inside it.

    Nothing is run. Where a pickle is broken, the names before that place are kept.
    """
    findings = _Findings()
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            _read_members(file, _MOST_NESTED, findings)
        else:
            file.seek(0)
            content = file.read(_TEXT_BYTES)
            whole, fault = _read_pickles(content, findings.names)
            if fault and whole < _LEGACY_PICKLES and content[:1] == b"\x80":
                findings.faults.append(f"a pickle is broken {fault}")
    return PickledNames(tuple(sorted(findings.names)), tuple(findings.faults))


def _read_members(file: IO[bytes], depth: int, findings: _Findings) -> None:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        file.seek(0)
        if file.read(4) == b"PK\x03\x04":  # not just numbers of a tensor
            findings.faults.append(f"a zip cannot be read ({error})")
        return
    with archive:
        for member, content in _contents(archive, findings):
            is_pickle = member.endswith(_ENDINGS) or content[:2] in _STARTS
            if content[:2] == b"PK" and depth:
                _read_members(io.BytesIO(content), depth - 1, findings)
            elif is_pickle or content[:1] == b"\x80":  # numbers of a tensor may start so too
                whole, fault = _read_pickles(content, findings.names)
                if fault and is_pickle and not whole:
                    findings.faults.append(f"the pickle {member} is broken {fault}")


def _contents(archive: zipfile.ZipFile, findings: _Findings) -> Iterator[tuple[str, bytes]]:
    """The members of an archive that are not too large, with their names."""
    for member in archive.infolist():
        if member.file_size > _MOST_BYTES and member.filename.endswith(_ENDINGS):
            findings.faults.append(f"the pickle {member.filename} is too large to be looked into")
        if member.file_size > _MOST_BYTES or not member.file_size:
            continue
        try:
            content = archive.read(member)
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
            findings.faults.append(f"{member.filename} cannot be read ({error})")
            continue
        yield member.filename, content


def _read_pickles(content: bytes, names: set[str]) -> tuple[int, str]:
    """Add names; return the number of whole pickles, and where and why the next one is broken.

    In an old file, the numbers of tensors follow the pickles; they look like a broken pickle.
    """
    stream, whole = io.BytesIO(content), 0
    while stream.tell() < len(content):
        try:
            _read_one(stream, names)
        except Exception as error:  # noqa: BLE001 - pickletools raises many kinds of errors
            return whole, f"at byte {stream.tell():,} ({str(error) or type(error).__name__})"
        whole += 1
    return whole, ""


def _read_one(stream: io.BytesIO, names: set[str]) -> None:
    texts: list[str] = []
    memo: dict[int, str | None] = {}
    top: str | None = None  # the text on top of the stack, if it is one
    for code, argument, _ in pickletools.genops(stream):
        if code.name == "MEMOIZE" or code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else int(argument)] = top
            continue
        if code.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            names.add(f"{module}:{name}")
        elif code.name == "STACK_GLOBAL":
            names.add(":".join(texts[-2:]) if len(texts) > 1 else "a name made at run time")
        top = None
        if code.name in ("GET", "BINGET", "LONG_BINGET"):
            top = memo.get(int(str(argument)))
        elif isinstance(argument, str) and code.name not in ("GLOBAL", "INST", "PERSID"):
            top = argument
        if top is not None:
            texts.append(top)


def _is_plain(name: str) -> bool:
    module, _, attribute = name.partition(":")
    storage = module == "torch" and attribute.endswith(("Storage", "Tensor"))
    numbers = module == "torch" and attribute.rstrip("0123456789") in ("float", "int", "bfloat")
    return name in _PLAIN or module in _TENSORS or storage or numbers
