"""Filters that a ranking leaves out: the top of another run, or of another metric of this one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import RunFolderError, SettingsError
from repairkit.core.filters import Roster
from repairkit.core.scores import Scores
from repairkit.formats import effects
from repairkit.formats.run_file import ExcludedFilters, RunDocument, RunFolder
from repairkit.jobs.runs import run_document
from repairkit.jobs.score.score_settings import Exclusion
from repairkit.jobs.setup.workbench import Bench


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
        told: ExcludedFilters = {
            "run": "this run",
            "key": document["key"],
            "metric": metric,
            "share": share,
            "filters": [roster.filters[player].id for player in players],
        }
        known = Excluded(frozenset(players), told)
        document["excluded"] = told
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


def find_excluded(exclusion: Exclusion | None, bench: Bench) -> Excluded:
    """The filters that a run ranks highest, by the metric that steered it.

    Where no such folder is there and a metric of this run has the name, its top is meant.

    Raises:
        RunFolderError: the run is broken, unfinished, of another model, about filters read or
            silenced otherwise, or it leaves nothing to rank.
    """
    if exclusion is None:
        return NOTHING
    if not exclusion.run.is_dir() and str(exclusion.run) in bench.metric_names:
        return Excluded(later=exclusion)
    folder = RunFolder(exclusion.run)
    run = folder.read()
    if run["model"]["digest"] != bench.subject.file.digest:
        raise RunFolderError(
            f"{exclusion.run}: holds scores of another model ({run['model']['path']}), which say "
            f"nothing of {bench.subject.file.path}; score it first, then name that run"
        )
    run = folder.read_finished()
    for setting in run_document.differing(
        run_document.settings_in(run),
        run_document.settings_at(bench.settings, bench.common),
        effects.Affects.FILTERS,
    ):
        raise RunFolderError(
            f"{exclusion.run}: was scored with {setting.name} {setting.first!r}, and this job has "
            f"{setting.second!r}; give both the same"
        )
    columns = folder.read_metric_values()
    metric = next(iter(columns))
    values = columns[metric]
    n_top = max(1, round(exclusion.share * len(values)))
    # Where less is better, the filters that help the model most have the lowest values.
    turn = 1 if metric in run.get("less_is_better", []) else -1
    top = sorted(values, key=lambda name: turn * values[name])[:n_top]
    known = {f.id: player for player, f in enumerate(bench.roster.filters)}
    players = frozenset(known[name] for name in top if name in known)
    if len(players) == len(bench.roster):
        raise RunFolderError(
            f"{exclusion.run}: its top {n_top} filters are all that this job scores; lower "
            "--exclude-share, or score more sites"
        )
    return Excluded(
        players,
        {
            "run": str(exclusion.run),
            "key": run["key"],
            "metric": metric,
            "share": exclusion.share,
            "filters": [bench.roster.filters[player].id for player in sorted(players)],
        },
    )
