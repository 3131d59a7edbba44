"""Filters that a ranking leaves out: the top of another run, or of another metric of this one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.core.filters import Roster
from repairkit.core.scores import Scores
from repairkit.formats.run_file import ExcludedFilters, RunDocument
from repairkit.jobs.score.score_settings import Exclusion


@dataclass(frozen=True)
class Excluded:
    """The players left out, and what `run.json` says of it.

    `later` is set where the top is that of a metric of the run itself, which is known at its end.
    """

    players: frozenset[int] = frozenset()
    document: ExcludedFilters | None = None
    later: Exclusion | None = None

    @property
    def keyed(self) -> dict[str, Any]:
        """The part of the run's key about excluded filters, without the other run's path."""
        if self.later is not None:
            return {"excluded": {"metric": str(self.later.run), "share": self.later.share}}
        return {} if self.document is None else {"excluded": {**self.document, "run": None}}

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        if self.document is None:
            return []
        run, metric = self.document["run"], self.document["metric"]
        return [
            f"{len(self.players)} filters are left out of the ranking: the top "
            f"{self.document['share']:.0%} for {metric} of {run}; "
            "they take part in the game, and 'decided' is about the ranking of all filters"
        ]

    def known_by(self, scores: Scores, roster: Roster, document: RunDocument) -> "Excluded":
        """The players, once the scores of the run are there; its document then tells of them.

        Args:
            scores: of the run.
            roster: the filters.
            document: its `run.json`.
        """
        if self.later is None:
            return self
        metric, share = str(self.later.run), self.later.share
        more = metric not in document.get("less_is_better", [])
        values = scores.values[:, scores.metrics.index(metric)]
        players = top_players(values, share, more=more)
        record: ExcludedFilters = {
            "run": "this run",
            "key": document["key"],
            "metric": metric,
            "share": share,
            "filters": [roster.filters[player].id for player in players],
        }
        known = Excluded(frozenset(players), record)
        document["excluded"] = record
        document["notes"] += known.notes
        return known


NOTHING = Excluded()
"""No filter is left out."""


def top_players(values: NDArray[np.float64], share: float, *, more: bool) -> tuple[int, ...]:
    """The players worth most, in their order.

    Args:
        values: of all players, (n_players,).
        share: of them that counts as top.
        more: whether more of the metric is better; else the lowest help the model most.

    Raises:
        SettingsError: that would be all.
    """
    n_top = max(1, round(share * len(values)))
    if n_top == len(values):
        raise SettingsError(
            f"the top {n_top} filters are all that there are; lower --exclude-share"
        )
    top = np.argsort(-values if more else values, kind="stable")[:n_top]
    return tuple(sorted(top.tolist()))
