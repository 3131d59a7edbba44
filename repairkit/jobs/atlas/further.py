"""What other jobs tell of the filters of an atlas: dreams, and concepts of a dissection."""

from collections.abc import Sequence
from pathlib import Path

from repairkit.core import errors
from repairkit.core.filters import Filter
from repairkit.formats.dissection_file import read_dissection
from repairkit.formats.looks.atlas_file import AtlasConcept, AtlasDream
from repairkit.jobs.atlas.atlas_cards import Dreams
from repairkit.jobs.dissect.dissected import concepts_of
from repairkit.jobs.dream.dream import Dream, DreamSettings
from repairkit.jobs.dream.dreaming import dream_filters
from repairkit.jobs.setup.workbench import Bench


def dreams_of(bench: Bench, filters: Sequence[Filter]) -> Dreams:
    """A dream of each filter, by forward passes; none, and a note, where nothing can be dreamt.

    Raises:
        ModelError: ONNX Runtime fails on the model.
    """
    with_maps = {site.name for site in bench.roster.sites if site.yields_one_number}
    wanted = [filter for filter in filters if filter.site in with_maps]
    if not wanted or bench.image_size is None:
        return Dreams(notes=("there are no dreams: the model takes no images",))
    try:
        made = dream_filters(bench, wanted, DreamSettings())
    except errors.SettingsError as error:
        return Dreams(notes=(f"there are no dreams: {error}",))
    return Dreams(
        records={dream.filter.id: _record(dream) for dream in made},
        pictures={dream.filter.id: dream.image for dream in made},
    )


def _record(dream: Dream) -> AtlasDream:
    return {
        "response": dream.response,
        "best_real": None if dream.real is None else dream.real.best,
        "excess": dream.excess,
        "control": dream.control,
        "way": dream.way,
    }


def concepts_in(
    folder: Path, digest: str, filters: Sequence[Filter]
) -> dict[str, list[AtlasConcept]]:
    """The concepts that each filter detects, by a dissection of the model.

    Args:
        folder: that `dissect` wrote, or its JSON file.
        digest: of the model.
        filters: any; those that the dissection does not hold have none.

    Raises:
        RunFolderError: there is no dissection, or it is of another model.
    """
    document = read_dissection(folder)
    if document["model"]["digest"] != digest:
        raise errors.RunFolderError(
            f"{folder}: is a dissection of another model (digest "
            f"{document['model']['digest'][:12]}, and the run's is {digest[:12]}); dissect the "
            "model of the run"
        )
    return {
        wanted.id: [
            {
                "measure": one.measure,
                "concept": one.concept,
                "score": one.score,
                "ci_low": one.low,
                "ci_high": one.high,
                "chance": one.chance,
                "named": one.named,
            }
            for one in concepts_of(document, wanted.id)
        ]
        for wanted in filters
    }
