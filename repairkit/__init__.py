"""Find the few filters that make a trained image model fail, and freeze them in the ONNX file."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from repairkit.core.process.lazy import loader

if TYPE_CHECKING:
    from repairkit.api import (
        ScoreSettings,
        Settings,
        Source,
        apply,
        ask,
        atlas,
        attack,
        compare,
        compare_concepts,
        curve,
        diff,
        dissect,
        dream,
        export,
        init,
        inspect,
        inspect_patch,
        instrument,
        listing,
        means,
        merge,
        monitor,
        overlay,
        patch,
        report,
        revert,
        score,
        verify,
    )

    __version__: str

__all__ = [
    "ScoreSettings",
    "Settings",
    "Source",
    "__version__",
    "apply",
    "ask",
    "atlas",
    "attack",
    "compare",
    "compare_concepts",
    "curve",
    "diff",
    "dissect",
    "dream",
    "export",
    "init",
    "inspect",
    "inspect_patch",
    "instrument",
    "listing",
    "means",
    "merge",
    "monitor",
    "overlay",
    "patch",
    "report",
    "revert",
    "score",
    "verify",
]

_load = loader(__name__, {"repairkit.api": [name for name in __all__ if name != "__version__"]})


class _Package(ModuleType):
    """This package, in which `report` is the function, whatever was imported.

    Python would put the folder `repairkit.report` in its place once that is imported. It is
    imported with `from repairkit.report import ...`.
    """

    @property
    def report(self) -> object:
        """See `repairkit.api.report`."""
        return _load("report")

    @report.setter
    def report(self, folder: ModuleType) -> None:
        """The import of the folder changes nothing here; `sys.modules` has it."""


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    """The public names, for `dir` and completion."""
    return __all__


def __getattr__(name: str) -> object:
    """Looked up when first used: importing a noun of `repairkit.core` must not load ONNX."""
    if name == "__version__":
        from importlib.metadata import version

        return version("repairkit")
    return _load(name)
