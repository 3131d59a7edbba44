"""Options that name a framework's model, and how they become one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from repairkit.core.errors import SettingsError
from repairkit.core.framework import FrameworkModel, LoadOptions
from repairkit.jobs.export.adapters import load_framework_model
from repairkit.jobs.setup.subject import Subject

Source = Annotated[
    str | None,
    typer.Option("--source", help="The framework's model that gives gradients: module:factory."),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="State dict of the source, if it is a factory.")
]
Framework = Annotated[
    str | None, typer.Option("--framework", help="Whose the source is, if that is not clear.")
]
InputShape = Annotated[
    str | None,
    typer.Option("--input-shape", help="Of one image of the source, if not the ONNX model's."),
]


def load_source(given: Mapping[str, Any], subject: Subject) -> tuple[str, FrameworkModel] | None:
    """The name and the model that the options name; None where they name none.

    Raises:
        SettingsError: an option makes no sense, or is given without a source.
        AdapterError: the model cannot be loaded.
    """
    source = given.get("source")
    if source is None:
        for name in ("weights", "framework", "input_shape"):
            if given.get(name) is not None:
                option = "--" + name.replace("_", "-")
                raise SettingsError(f"{option} is of a source, and none was given; add --source")
        return None
    options = LoadOptions(
        weights=given.get("weights"),
        input_shape=_shape(given.get("input_shape"), subject),
        trust=bool(given.get("trust")),
    )
    model = load_framework_model(source, options, framework=given.get("framework"))
    return str(source), model


def _shape(text: str | None, subject: Subject) -> tuple[int, ...] | None:
    """Of one image; that of the ONNX model, channels first, where it fixes one."""
    if text is None:
        spec = subject.spec
        sizes = [spec.channels, spec.height, spec.width]
        known = [size for size in sizes if size is not None]
        return tuple(known) if len(known) == len(sizes) else None
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise SettingsError(f"--input-shape {text!r} is no shape; give one such as 3,224,224")
    return shape
