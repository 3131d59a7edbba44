"""Arrays whose element type is known only when they are there: a model's outputs, say."""

from __future__ import annotations

from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""An array of any element type; its shape is told where it is used."""
