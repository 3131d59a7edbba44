"""Leave out of a ranking the filters that matter to everything, to see those of one class.

A filter that the whole network lives on is worth much for the recall of any class. The filters that
are critical for one class alone show once the top share by overall accuracy is left out of the
ranking (Ghorbani & Zou, "Neuron Shapley", 2020, section 4: a fifth). They stay in the game: values
are those of all filters together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repairkit.core.errors import RunFolderError
from repairkit.formats.effects import Affects
from repairkit.formats.run_file import ExcludedFilters, RunFolder
from repairkit.jobs.runs.run_settings import differing, settings_at, settings_in
from repairkit.jobs.setup.workbench import Bench, Exclusion


@dataclass(frozen=True)
class Excluded:
    """The players left out, and what `run.json` says of it."""

    players: frozenset[int] = frozenset()
    document: ExcludedFilters | None = None

    @property
    def keyed(self) -> dict[str, Any]:
        """What the key of the run depends on, wherever the other run lies."""
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


NOTHING = Excluded()
"""No filter is left out."""


def find_excluded(exclusion: Exclusion, bench: Bench) -> Excluded:
    """The filters that a run ranks highest, by the metric that steered it.

    Raises:
        RunFolderError: the run is broken, unfinished, of another model, about filters read or
            silenced otherwise, or it leaves nothing to rank.
    """
    folder = RunFolder(exclusion.run)
    run = folder.read()
    if run["model"]["digest"] != bench.subject.file.digest:
        raise RunFolderError(
            f"{exclusion.run}: holds scores of another model ({run['model']['path']}), which say "
            f"nothing of {bench.subject.file.path}; score it first, then name that run"
        )
    run = folder.read_finished()
    for setting in differing(
        settings_in(run), settings_at(bench.settings, bench.common), Affects.FILTERS
    ):
        raise RunFolderError(
            f"{exclusion.run}: was scored with {setting.name} {setting.first!r}, and this job has "
            f"{setting.second!r}; give both the same"
        )
    columns = folder.read_metric_values()
    metric = next(iter(columns))
    values = columns[metric]
    n_top = max(1, round(exclusion.share * len(values)))
    # Where less is better, the filters that the model lives on have the lowest values.
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
