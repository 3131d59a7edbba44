"""How results with a value for every filter look in Python and in notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from repairkit.core.errors import SettingsError
from repairkit.notebook import cells, frames, lines, plots
from repairkit.report.curves import curve_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


class ValueTable:
    """What all results share that have a value for every filter.

    Attributes:
        document: what `run.json` says of them.
    """

    document: Mapping[str, Any]

    def table(self) -> list[dict[str, Any]]:
        """A row for each filter, the highest value first, with the columns of `scores.csv`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        folder = getattr(self, "folder", None)
        return lines.values_in_lines(type(self).__name__, self.table(), self.document, folder)

    def _repr_html_(self) -> str:
        """For a notebook: both ends of the ranking with intervals, and the removal curve."""
        return cells.values_cell(type(self).__name__, self.table(), self.document)

    def to_pandas(self) -> DataFrame:
        """The table as a DataFrame.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.frame(self.table())

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the values with their intervals; of a long ranking, both ends.

        Args:
            ax: axes of matplotlib; those of a new figure if None.

        Raises:
            SettingsError: matplotlib is not installed; it comes with `repairkit[plot]`.
        """
        return plots.plot_values(self.table(), lines.steering(self.document)[1], ax)

    def plot_curve(self, ax: Axes | None = None, *, metric: str | None = None) -> Axes:
        """Draw how the model fails as the first filters are frozen, on the test images.

        Args:
            ax: axes of matplotlib; those of a new figure if None.
            metric: the figure to show; the one that ranked the filters if None.

        Raises:
            SettingsError: there is no curve, or none by this metric; or matplotlib is not
                installed.
        """
        curve = self.document.get("curve")
        if curve is None:
            raise SettingsError(
                "this result has no removal curve; repairkit.curve(RUN) draws that of a run folder"
            )
        known = list(curve["measures"])
        if metric is not None and metric not in known:
            raise SettingsError(
                f"the curve has no figures for {metric!r}; it has them for {', '.join(known)}"
            )
        return plots.plot_lines(curve_lines(curve, metric or curve["metric"]), ax)
