"""The values of every metric that a run has scored."""

from __future__ import annotations

import csv

from repairkit.core.text import from_cell
from repairkit.workflows.run_folder import RunFolder, unreadable
from repairkit.workflows.score_table import FURTHER


def read_columns(folder: RunFolder) -> dict[str, dict[str, float]]:
    """The values of every metric by filter id; the metric that steered comes first.

    Raises:
        RunFolderError: the run or its scores are missing or broken.
    """
    document = folder.read()
    try:
        with folder.scores_file.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        further = [name for name in (rows[0] if rows else {}) if name.startswith(FURTHER)]
        others = [name.removeprefix(FURTHER) for name in further]
        # A pattern such as recall:* stands for the first of those that it was spelt out to.
        spelt = [*document["metrics"], *document["settings"]["metrics"]]
        names = [next(name for name in spelt if name not in others), *others]
        return {
            metric: {from_cell(row["filter"]): float(row[column]) for row in rows}
            for metric, column in zip(names, ["value", *further], strict=True)
        }
    except (OSError, KeyError, ValueError, TypeError, StopIteration, csv.Error) as error:
        raise unreadable(folder.scores_file, error) from error
