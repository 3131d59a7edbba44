"""What a cure is: one way to change a model, chosen on some images and applied to all.

Freezing filters, class biases and a refitted last layer are cures. They all go through the same
cross-confirmation, and are baked, proven and undone by the same patch file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from repairkit.core.patch import Patch
from repairkit.core.suite import Indices
from repairkit.repairs import Bound, Criterion

CriterionOn = Callable[[Indices], Criterion]
"""Positions of selection images to the criterion of just these images, in this order.

The columns and figures of that criterion are of these images, and so are the limits to which it
objects.
"""


@dataclass(frozen=True, eq=False)
class Cured:
    """What a cure makes of the model, chosen on some of the selection images.

    Attributes:
        patch: what is to be baked.
        outputs: of the model with that patch, for all selection images in order.
        gain: of the smooth criterion on the images that chose, cross-fitted inside them.
        story: how it was chosen, ready for JSON.
    """

    patch: Patch
    outputs: NDArray[Any]
    gain: Bound
    story: dict[str, Any] = field(default_factory=dict)


class Cure(Protocol):
    """One way to change a model."""

    @property
    def name(self) -> str:
        """As `--repair` names it: `freeze`, `bias` or `last-layer`."""
        ...

    def on(self, within: Indices) -> Cured | None:
        """Choose on the selection images at the positions `within`, and on nothing else.

        Returns:
            None where nothing is to be gained.
        """
        ...
