"""Options that name a framework's model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from repairkit import api
from repairkit.cli.options.groups import option
from repairkit.core.errors import SettingsError

if TYPE_CHECKING:
    from repairkit.api import Source


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The model of a framework that the ONNX model came from, or another one."""

    title: ClassVar = "Framework's model"
    source: str | None = option("The framework's model that gives gradients: module:factory.")
    weights: Path | None = option("State dict of the source, if it is a factory.")
    framework: str | None = option("Whose the source is, if that is not clear.")
    input_shape: str | None = option("Of one image of the source, if not the ONNX model's.")

    def named(self) -> Source | None:
        """The model that the options name; None where they name none.

        Raises:
            SettingsError: an option makes no sense, or is given without a source.
        """
        if self.source is None:
            for name in ("weights", "framework", "input_shape"):
                if getattr(self, name) is not None:
                    given = "--" + name.replace("_", "-")
                    raise SettingsError(f"{given} is of a source, and none was given; add --source")
            return None
        return api.Source(
            self.source,
            weights=self.weights,
            framework=self.framework,
            input_shape=read_shape(self.input_shape),
        )


def read_shape(text: str | None) -> tuple[int, ...] | None:
    """`3,224,224` or `3x224x224` as three numbers; None stays None.

    Raises:
        SettingsError: it is neither.
    """
    if text is None:
        return None
    parts = [part.strip() for part in re.split("[,x]", text)]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError(
            f"--input-shape {text!r} is no shape; give the sizes of one image, such as 3,224,224"
        )
    return tuple(map(int, parts))
