"""Tell whether an output is unlike what freezing any other filter gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.core.framework import Images
from repairkit.core.suite import Array

_MOST_NUMBERS = 64


@dataclass
class Crowd:
    """What freezing each of many filters gives, and what freezing none gives.

    Outputs are compared by those of their numbers that vary most, 64 at the most: two that differ
    there differ. Add all, then `settle`, then ask.
    """

    base: Images
    _parts: dict[str, Images] = field(default_factory=dict)
    _channels: dict[str, NDArray[np.intp]] = field(default_factory=dict)

    def add(self, layer: str, channels: NDArray[np.intp], outputs: Images) -> None:
        """The outputs for some channels of a layer, ascending, shape (n_channels, n_numbers)."""
        self._parts[layer] = outputs
        self._channels[layer] = channels

    def settle(self) -> None:
        """Choose the numbers to compare, and put all outputs in the order of the first."""
        everything = list(self._parts.values())
        variances = np.mean([_variances(part) for part in everything], axis=0)
        self._columns = np.argsort(-variances, kind="stable")[:_MOST_NUMBERS]
        starts = np.cumsum([0, *map(len, everything)])
        self._starts = dict(zip(self._parts, starts[:-1].tolist(), strict=True))
        rows = np.concatenate([part[:, self._columns] for part in everything])
        rows = np.concatenate([rows, self.base[None, self._columns]])
        self._order = np.argsort(rows[:, 0], kind="stable")
        self._rows = rows[self._order]
        self._parts = {}

    def is_apart(
        self, layer: str, channels: NDArray[np.intp], outputs: Images, limits: Images
    ) -> NDArray[np.bool_]:
        """Whether each output is farther than its limit from all but its own filter's.

        Args:
            layer: of the filters.
            channels: shape (n,), among those that were added.
            outputs: shape (n, n_numbers).
            limits: shape (n,).
        """
        projected = outputs[:, self._columns]
        low = np.searchsorted(self._rows[:, 0], projected[:, 0] - limits, "left")
        high = np.searchsorted(self._rows[:, 0], projected[:, 0] + limits, "right")
        own = self._starts[layer] + np.searchsorted(self._channels[layer], channels)
        return np.array(
            [
                self._is_alone(
                    projected[i], int(low[i]), int(high[i]), int(own[i]), float(limits[i])
                )
                for i in range(len(projected))
            ],
            bool,
        )

    def _is_alone(self, output: Images, low: int, high: int, own: int, limit: float) -> bool:
        near: Array = np.arange(low, high)
        near = near[self._order[near] != own]
        for column in range(1, self._rows.shape[1]):
            if not len(near):
                return True
            near = near[np.abs(self._rows[near, column] - output[column]) <= limit]
        return not len(near)


def _variances(part: Images) -> NDArray[np.float64]:
    finite = np.nan_to_num(part.astype(np.float64), posinf=0.0, neginf=0.0)
    spread: NDArray[np.float64] = finite.var(0)
    return spread
