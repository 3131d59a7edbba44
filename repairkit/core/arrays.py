"""Arrays whose element type is known only when they are there, and how precisely they are made."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""An array of any element type; its shape is told where it is used."""

Precision = Literal["float32", "tf32", "float16"]
"""In which numbers a model is evaluated."""

IN_WORDS: Mapping[Precision, str] = {
    "float32": "32 bits",
    "tf32": "TF32",
    "float16": "half precision",
}
