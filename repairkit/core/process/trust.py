"""The one rule for code: code that the user names may run, code that a file names may not.

A file may name code (a metric in `repairkit.toml` or in a run folder, a layer's class) or hold some
(a pickle, a Lambda layer, a TorchScript program). It runs only after `--trust`, in Python `trust=`.
Without that the command ends before anything is imported, in one line that names file and code.

Python looks for a named module in its usual places first, and then in the working folder. That
folder is never on `sys.path`: a finder, which Python asks last, finds the modules that were named,
and the modules beside them for their code alone. No other code can import from the folder.

Where the user's code calls `sys.exit`, that is an error of the code and does not end the command.
"""

import importlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from traceback import walk_tb
from types import FrameType, MappingProxyType, ModuleType

from repairkit.core.errors import RepairkitError, SettingsError

TRUST_HELP = "Run code that files name or hold (settings, runs, saved models)."
"""What `--trust` does, in every command that has it."""

NOTHING: Mapping[str, str] = MappingProxyType({})
"""No code was named by a file."""

_GIVEN = "given"


class GivenName(str):
    """The name of code, with the code itself where it was given in Python.

    Attributes:
        target: the function, class or object.
    """

    __slots__ = ("target",)
    target: object

    @classmethod
    def of(cls, target: object) -> "GivenName":
        """Named `module:function` where that can be imported anew, else `given:function`."""
        module, name = (str(getattr(target, key, "")) for key in ("__module__", "__qualname__"))
        known = module != "__main__" and getattr(sys.modules.get(module), name, None) is target
        if not known:
            module, name = _GIVEN, name.rpartition(".")[2] or type(target).__name__
        named = cls(f"{module}:{name}")
        named.target = target
        return named

    def __reduce__(self) -> tuple[object, ...]:
        """With the code, so that a worker has it; what cannot travel is an error of pickle."""
        return _named_again, (str(self), self.target)

    @property
    def only_given(self) -> bool:
        """Whether no module has the code, so that it must be given again."""
        return self.startswith(f"{_GIVEN}:")


def _named_again(name: str, target: object) -> GivenName:
    named = GivenName(name)
    named.target = target
    return named


def needed_again(name: str) -> str:
    """The message about code that was given in Python, and now is named alone; empty for other."""
    if not name.startswith(f"{_GIVEN}:"):
        return ""
    return (
        f"{name} was given in Python and lies in no file; give the function or object itself "
        "again (`metric=` or `method=`), or put it into a module and name it module:name"
    )


_MACHINERY = ("importlib", "_frozen_importlib", __name__)
_SHOWN = 3


def refusal(file: object, code: Sequence[str]) -> str:
    """The message about a file whose code was not run, in one line."""
    more = f" and {len(code) - _SHOWN} more" if len(code) > _SHOWN else ""
    return (
        f"{file}: names or holds code that would run: {', '.join(code[:_SHOWN])}{more}; none of "
        "it was run: add --trust (in Python trust=True) if you trust the author of the file"
    )


def check_trusted(name: str, named_by: Mapping[str, str]) -> None:
    """Refuse code that only a file named.

    Args:
        name: as `module:function`.
        named_by: code that files named and the user does not trust, with the file.

    Raises:
        SettingsError: the code is among that.
    """
    if name in named_by:
        if needed_again(name):
            raise SettingsError(needed_again(name))
        raise SettingsError(refusal(named_by[name], [name]))


def without(named_by: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """What only files named, once the keyboard has named `names`."""
    named = set(names)
    return {name: file for name, file in named_by.items() if name not in named}


def import_named(module: str, folder: Path | None = None) -> ModuleType:
    """Import a module that the user named, or that a trusted file did.

    Args:
        module: such as `package.module`.
        folder: where it may lie besides Python's own places; the working folder if None.

    Raises:
        Exception: whatever importing it raises.
    """
    offer(module, folder)
    return importlib.import_module(module)


def offer(module: str, folder: Path | None = None) -> None:
    """Let a module that was named be found in a folder, and its neighbours by code of that folder.

    Args:
        module: such as `package.module`.
        folder: the working folder if None.
    """
    try:
        place = (Path.cwd() if folder is None else folder).resolve()
    except OSError:  # the working folder is gone
        return
    finders = (f for f in sys.meta_path if isinstance(f, _Neighbours) and f.folder == place)
    finder = next(finders, None)
    if finder is None:
        finder = _Neighbours(place)
        sys.meta_path.append(finder)
    finder.named.add(module.partition(".")[0])


class _Neighbours:
    """Finds in a folder what was named, and for code of that folder what else lies there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.named: set[str] = set()

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if path is not None:  # a part of a package, which knows where its parts are
            return None
        if fullname not in self.named and not self._is_ours(sys._getframe(1)):
            return None
        return PathFinder.find_spec(fullname, [str(self.folder)], target)

    def _is_ours(self, frame: FrameType | None) -> bool:
        """Whether the code that imports lies in the folder, and is no package installed there."""
        while frame is not None and str(frame.f_globals.get("__name__")).startswith(_MACHINERY):
            frame = frame.f_back
        if frame is None or not frame.f_globals.get("__file__"):
            return False
        file = Path(frame.f_globals["__file__"]).resolve()
        if not file.is_relative_to(self.folder):
            return False
        installed = (Path(place).resolve() for place in sys.path if place)
        return not any(
            place != self.folder
            and place.is_relative_to(self.folder)
            and file.is_relative_to(place)
            for place in installed
        )


def refuse_untrusted(
    error: type[RepairkitError], file: object, code: Sequence[str], *, trust: bool
) -> None:
    """Refuse a file with code in it, unless the user trusts it.

    Raises:
        RepairkitError: of the kind `error`: there is such code.
    """
    if code and not trust:
        raise error(refusal(file, code))


_LIBRARIES = tuple(
    str(Path(path).resolve()) for path in set(sysconfig.get_paths().values()) if path
)


@contextmanager
def no_exit(what: str, error: type[RepairkitError]) -> Iterator[None]:
    """Turn a call of `sys.exit` in the block into an error that says which code called it.

    Args:
        what: whose code it is, such as `metric a:b`.
        error: the kind to raise.

    Raises:
        RepairkitError: `sys.exit` was called; of the kind asked for.
    """
    try:
        yield
    except SystemExit as stop:
        raise error(f"{what}: {exit_words(stop)}") from stop


def exit_words(stop: SystemExit) -> str:
    """Which code called `sys.exit`, where, and with what."""
    code = stop.code
    said = "no message" if code is None else f"{code!r}"
    if isinstance(code, str):
        said = f"the message {' '.join(code.split())!r}"
    return f"{_caller(stop)} called sys.exit with {said}; let it raise an error or return instead"


def _caller(stop: SystemExit) -> str:
    """The module nearest to the call that is no library, such as argparse, and its line."""
    frames = [
        (frame.f_globals.get("__name__", "?"), frame.f_code.co_filename, line)
        for frame, line in walk_tb(stop.__traceback__)
    ]
    if not frames:
        return "code of the user's"
    of_user = [f for f in frames if not f[0].startswith("repairkit") and not _is_library(f[1])]
    name, file, line = (of_user or frames)[-1]
    return f"module {name} ({Path(file).name}, line {line})"


def _is_library(file: str) -> bool:
    return file.startswith(("<frozen", *_LIBRARIES))
