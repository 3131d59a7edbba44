"""Packages whose names load when they are first used, so that importing them is quick."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def loader(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """The `__getattr__` of such a package.

    Args:
        package: its name.
        homes: the names by the module that they are in.
    """
    modules = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return load
