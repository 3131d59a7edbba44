"""How precisely coalitions are evaluated: in 32 bits, or in fewer where a user asks for it.

TF32 and half precision round to 11 significant bits, and errors of half a unit there add up through
the depth of a network: a fiftieth of the largest output is what a few hundred layers make of them.
What differs by more has overflowed, or is otherwise broken, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from repairkit.core.suite import Precision


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may lie from those of the instrumented model in 32 bits.

    `relative` to the largest output of a row; `tie`, likewise, is how much less the score of the
    right class may be than that of the class with the largest one.
    """

    relative: float
    tie: float


TOLERANCES: Mapping[Precision, Tolerance] = {
    "float32": Tolerance(1e-5, 1e-6),
    "tf32": Tolerance(2e-2, 2e-2),
    "float16": Tolerance(2e-2, 2e-2),
}
