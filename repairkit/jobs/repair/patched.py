"""A repair that was made, proven and written, and how it looks in Python and in notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repairkit.core.filters import Patch
from repairkit.core.process.text import counted
from repairkit.core.results import Evaluation, Figure, Verified
from repairkit.formats.patch_file import claimed_patch
from repairkit.notebook import cells, frames, lines, plots
from repairkit.report import repair_page, story
from repairkit.report.charts import LineChart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, repr=False)
class Patched:
    """A patch that was made, proven and written.

    Attributes:
        out: the patched model.
        patch_file: beside it.
        report_file: the numbers of the report.
        patch: what was frozen.
        verified: the proof.
        promise: what the objective surely gains on other images; None where nothing is promised.
        objective: the metric that was to improve; None where no metric was computed.
        before: figures of the model as it was.
        after: figures of the patched model, on the same images.
        change: their differences.
        document: what the report says.
    """

    out: Path
    patch_file: Path
    report_file: Path
    patch: Patch
    verified: Verified
    promise: Figure | None
    objective: str | None
    before: Evaluation
    after: Evaluation
    change: dict[str, Figure]
    document: dict[str, Any]

    @property
    def verdict(self) -> dict[str, str]:
        """The verdict of the report's page: `tone`, `word` and `sentence`."""
        return story.verdict(self._claimed())

    def _claimed(self) -> dict[str, Any]:
        return {**self.document, "patch": claimed_patch(self.patch)}

    def __repr__(self) -> str:
        verdict = self.verdict
        head = "" if self.patch.head is None else f", {lines.short(self.patch.head.layer)} changed"
        n_frozen = lines.in_its_words(counted(len(self.patch.frozen), "filter"), self.document)
        words = lines.in_its_words(verdict["sentence"], self.document)
        sentence = lines.plain(f"{verdict['word']}: {words}")
        return f"Patched: {lines.short(self.out)}, {n_frozen} frozen{head}\n{lines.cut(sentence)}"

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, what changed, figures before and after, the trade-off."""
        head = self.patch.head
        changed = [each.id for each in self.patch.filters]
        changed += [] if head is None else [f"layer {head.layer} ({head.kind})"]
        return cells.patched_cell(self.verdict, changed, self.document, self._trade_off())

    def to_pandas(self) -> DataFrame:
        """Metrics and accuracies of groups before and after, and their differences.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.moved_frame(self.document["evaluations"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the trade-off: what more frozen filters bring, and what they cost.

        With attacked images that is attack success against clean accuracy, else the objective
        against overall accuracy.

        Args:
            ax: axes of matplotlib; those of a new figure if None.

        Raises:
            SettingsError: the search tried fewer than two sets of filters, or matplotlib is not
                installed.
        """
        absent = "there is no trade-off to draw: fewer than two sets of filters were tried"
        return plots.plot_lines(self._trade_off(), ax, absent=absent)

    def _trade_off(self) -> LineChart | None:
        document = self._claimed()
        if self.objective is None:
            return None
        known = repair_page.attack_trade_off(document) or repair_page.trade_off(document)
        return None if known is None else known["lines"]
