"""Find the few filters that make a trained image model fail, and freeze them in the ONNX file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repairkit.api import apply, attack, export, means, merge, patch, revert, score, verify
    from repairkit.jobs.score.methods import ScoreSettings
    from repairkit.jobs.setup.settings import Settings

    __version__: str

__all__ = [
    "ScoreSettings",
    "Settings",
    "__version__",
    "apply",
    "attack",
    "export",
    "means",
    "merge",
    "patch",
    "revert",
    "score",
    "verify",
]

# Looked up when first used: importing a noun of repairkit.core must not load ONNX.
_HOMES = {
    "apply": "repairkit.api",
    "attack": "repairkit.api",
    "export": "repairkit.api",
    "means": "repairkit.api",
    "merge": "repairkit.api",
    "patch": "repairkit.api",
    "revert": "repairkit.api",
    "score": "repairkit.api",
    "verify": "repairkit.api",
    "ScoreSettings": "repairkit.jobs.score.methods",
    "Settings": "repairkit.jobs.setup.settings",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("repairkit")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'repairkit' has no attribute {name!r}")
