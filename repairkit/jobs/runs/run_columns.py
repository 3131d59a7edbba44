"""The values of every metric that a run has scored."""

from __future__ import annotations

from repairkit.formats.score_table import FURTHER
from repairkit.jobs.runs.run_folder import RunFolder, unreadable


def read_columns(folder: RunFolder) -> dict[str, dict[str, float]]:
    """The values of every metric by filter id; the metric that steered comes first.

    Raises:
        RunFolderError: the run or its scores are missing or broken.
    """
    document, rows = folder.read(), folder.read_rows()
    try:
        further = [name for name in (rows[0] if rows else {}) if name.startswith(FURTHER)]
        others = [name.removeprefix(FURTHER) for name in further]
        # A pattern such as recall:* stands for the first of those that it was spelt out to.
        spelt = [*document["metrics"], *document["settings"]["metrics"]]
        names = [next(name for name in spelt if name not in others), *others]
        return {
            metric: {row["filter"]: float(row[column]) for row in rows}
            for metric, column in zip(names, ["value", *further], strict=True)
        }
    except (KeyError, ValueError, TypeError, StopIteration) as error:
        raise unreadable(folder.scores_file, error) from error
