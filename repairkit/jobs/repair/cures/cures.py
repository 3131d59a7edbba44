"""What a cure is: one way to change a model, chosen on some images and applied to all.

Freezing filters, class biases and a refitted last layer are cures. They all go through the same
cross-confirmation, and are baked, proven and undone by the same patch file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from repairkit.core.arrays import Array
from repairkit.core.patch import Patch
from repairkit.core.suite import Indices
from repairkit.repairs import Bound


@dataclass(frozen=True, eq=False)
class Cured:
    """What a cure makes of the model, chosen on some of the selection images.

    Attributes:
        patch: what is to be baked.
        outputs: of the model with that patch, for all selection images in order.
        gain: of the smooth criterion on the images that chose, cross-fitted inside them.
        story: how it was chosen, ready for JSON.
        name: of the cure.
        fewer: what the steps before gave, the smallest change first; where one change costs too
            much, a smaller one may not.
    """

    patch: Patch
    outputs: Array
    gain: Bound
    story: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    fewer: tuple[Cured, ...] = ()

    @property
    def n_steps(self) -> int:
        """How many changes there are, each larger than the one before; this is the last."""
        return len(self.fewer) + 1

    def first(self, n_steps: int) -> Cured:
        """What the first steps gave; this one where there are not more."""
        return self if n_steps >= self.n_steps else self.fewer[n_steps - 1]


@dataclass(frozen=True, eq=False)
class Nothing:
    """Why a cure has nothing to offer on the images that were to choose."""

    reason: str
    story: dict[str, Any] = field(default_factory=dict)


class Cure(Protocol):
    """One way to change a model."""

    @property
    def name(self) -> str:
        """As `--repair` names it: `freeze`, `bias` or `last-layer`."""
        ...

    def on(self, within: Indices) -> Cured | Nothing:
        """Choose on the selection images at the positions `within`, and on nothing else."""
        ...


@dataclass(frozen=True, eq=False)
class Remembered:
    """A cure that chooses once for the same images, however often it is asked."""

    cure: Cure
    _known: dict[bytes, Cured | Nothing] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """See `Cure`."""
        return self.cure.name

    def on(self, within: Indices) -> Cured | Nothing:
        """See `Cure`."""
        key = within.tobytes()
        if key not in self._known:
            self._known[key] = self.cure.on(within)
        return self._known[key]


@dataclass(frozen=True)
class BestCure:
    """Of several cures the one that gains most, by cross-fitting on the images that choose."""

    cures: Sequence[Cure]
    name: str = "best"

    def on(self, within: Indices) -> Cured | Nothing:
        """See `Cure`."""
        found = [cure.on(within) for cure in self.cures]
        cured = [one for one in found if isinstance(one, Cured) and one.gain.value > 0]
        if not cured:
            reasons = [
                f"{cure.name}: {one.reason if isinstance(one, Nothing) else 'gains nothing'}"
                for cure, one in zip(self.cures, found, strict=True)
            ]
            return Nothing("; ".join(reasons))
        return max(cured, key=lambda one: one.gain.value)
