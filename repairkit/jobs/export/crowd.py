"""Tell the outputs of many filters apart: whether one of them is unlike all others."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.core import suite
from repairkit.core.framework import Images

_MOST_COLUMNS = 64


@dataclass
class Crowd:
    """The outputs with each of many filters frozen, and with none.

    Only the 64 numbers that vary most are compared: outputs that differ there differ. Call `add`
    for every layer, then `settle`, then `is_apart`.
    """

    base: Images
    _parts: dict[str, Images] = field(default_factory=dict)
    _channels: dict[str, NDArray[np.intp]] = field(default_factory=dict)

    def add(self, layer: str, channels: NDArray[np.intp], outputs: Images) -> None:
        """The outputs for some channels of a layer, ascending, shape (n_channels, n_numbers)."""
        self._parts[layer] = outputs
        self._channels[layer] = channels

    def settle(self) -> None:
        """Choose the numbers to compare, and sort all outputs by the first of them."""
        everything = list(self._parts.values())
        variances = np.mean([_variances(part) for part in everything], axis=0)
        self._columns = np.argsort(-variances, kind="stable")[:_MOST_COLUMNS]
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
        """Whether each output differs by more than its limit from those of all other filters.

        Args:
            layer: of the filters.
            channels: shape (n,), among those that were added.
            outputs: shape (n, n_numbers).
            limits: shape (n,).
        """
        projected = outputs[:, self._columns]
        low = np.searchsorted(self._rows[:, 0], projected[:, 0] - limits, "left")
        high = np.searchsorted(self._rows[:, 0], projected[:, 0] + limits, "right")
        places = self._starts[layer] + np.searchsorted(self._channels[layer], channels)
        return np.array(
            [
                self._is_alone(
                    projected[i], int(low[i]), int(high[i]), int(places[i]), float(limits[i])
                )
                for i in range(len(projected))
            ],
            bool,
        )

    def _is_alone(self, output: Images, low: int, high: int, place: int, limit: float) -> bool:
        near: suite.Array = np.arange(low, high)
        near = near[self._order[near] != place]
        for column in range(1, self._rows.shape[1]):
            if not len(near):
                return True
            near = near[np.abs(self._rows[near, column] - output[column]) <= limit]
        return not len(near)


def _variances(part: Images) -> NDArray[np.float64]:
    finite = np.nan_to_num(part.astype(np.float64), posinf=0.0, neginf=0.0)
    spread: NDArray[np.float64] = finite.var(0)
    return spread
