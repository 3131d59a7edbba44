"""The filters of highest value of a run, to be frozen whatever that does.

This is the removal experiment of Ghorbani & Zou ("Neuron Shapley", NeurIPS 2020): how a model fails
without the filters on which it lives.
"""

from repairkit.core import errors, filters
from repairkit.formats.effects import Affects
from repairkit.formats.run_file import RunFolder
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.runs import run_document
from repairkit.jobs.setup.workbench import Bench


def filters_said(asked: PatchSettings, digest: str) -> tuple[filters.Filter, ...]:
    """The filters that are said, by their ids or as the top of a run; none where some are chosen.

    Args:
        asked: the settings.
        digest: of the model that is to be patched.

    Raises:
        RunFolderError: the run is unfinished, of another model, or ranks fewer filters.
    """
    n_top, run = asked.remove_top, asked.scores
    if n_top is None or run is None:
        return asked.remove
    folder = RunFolder(run)
    document = folder.read_finished()
    if document["model"]["digest"] != digest:
        raise errors.RunFolderError(
            f"{run}: holds scores of another model ({document['model']['path']})"
        )
    rows = folder.read_rows()
    if n_top > len(rows):
        raise errors.RunFolderError(
            f"{run}: ranks {len(rows)} filters and --remove-top asks for {n_top}; give "
            f"{len(rows)} at most"
        )
    return tuple(filters.Filter.parse(row.filter) for row in rows[:n_top])


def check_run_of_top(bench: Bench, asked: PatchSettings) -> None:
    """Refuse a run whose top cannot be frozen, or be judged, by this job as it stands.

    Raises:
        RunFolderError: absent filters had other levels, or test images may have scored them.
    """
    if asked.remove_top is None or asked.scores is None:
        return
    run = RunFolder(asked.scores).read()
    job = run_document.settings_at(bench.settings, bench.common)
    for setting in run_document.differing(run_document.settings_in(run), job, Affects.FILTERS):
        raise errors.RunFolderError(
            f"{asked.scores}: was scored with {setting.name} {setting.first!r}, and this job has "
            f"{setting.second!r}; give both the same"
        )
    same_data = bench.dataset.digest == run["data"]["digest"] and not bench.unjudged
    if same_data and not run_document.same_parts(run, bench.settings.parts, bench.parts):
        theirs = run_document.parts_in_words(run)
        raise errors.RunFolderError(
            f"{asked.scores}: was scored with parts of other images ({theirs}) than this job has "
            f"({bench.parts.summary.rstrip('.')}), so that images which judge may have scored; "
            f"give both the same{run_document.options_in_words(run)}"
        )
