"""The atlas of a run: what its filters look at, and whom they serve."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from repairkit.api.job_settings import Metrics, check_keywords, metric_names
from repairkit.core.process.text import clean
from repairkit.data.given import GivenAs
from repairkit.jobs.atlas import atlas_cards, further, making_atlas
from repairkit.jobs.runs import reopening
from repairkit.notebook.progress import shown_in_cell


class AtlasKeywords(TypedDict, total=False):
    """Further arguments of `atlas`: where the files of the run are now.

    Attributes:
        model: the path of the model, if it was moved.
        data: the data, if they were moved or given in memory.
        means: the path of the common means, if they were moved.
        trust: run code that the run names, such as a metric of the user's.
        metric: the functions that the run was scored by, where they were given.
        progress: in a notebook, show a bar while the job runs; True if left out.
    """

    model: str | Path | None
    data: GivenAs | None
    means: str | Path | None
    trust: bool
    metric: Metrics | None
    progress: bool


@shown_in_cell
def atlas(
    run: str | Path,
    *,
    out: str | Path | None = None,
    filters: int = 50,
    dreams: bool = True,
    dissection: str | Path | None = None,
    between: Sequence[str] = (),
    **more: Unpack[AtlasKeywords],
) -> making_atlas.Atlas:
    """Write the atlas of a run: one page about the filters that matter, and its numbers as JSON.

    Args:
        run: what `score` wrote.
        out: the page; `atlas.html` in the folder if None. The numbers lie beside it.
        filters: how many to show: the best of each layer, the most valuable, the most harmful.
        dreams: make an image that excites each filter.
        dissection: a folder that `dissect` wrote for this model, whose concepts are shown.
        between: two classes or groups whose shared filters are shown; the two whose values differ
            most if empty.
        more: see `AtlasKeywords`.

    Raises:
        RepairkitError: the run is not finished, or the model or data are not those of the run.
    """
    check_keywords("atlas", more, AtlasKeywords)
    settings = making_atlas.AtlasSettings(
        filters=filters,
        dreams=dreams,
        dissection=None if dissection is None else Path(dissection),
        between=tuple(map(clean, (between,) if isinstance(between, str) else between)),
    )
    jobs = atlas_cards.OtherJobs(dreams=further.dreams_of, concepts=further.concepts_in)
    places = reopening.places_of(
        more.get("model"),
        more.get("data"),
        more.get("means"),
        trust=more.get("trust", False),
        metrics=metric_names(more.get("metric")),
    )
    return making_atlas.make_atlas(
        Path(run), settings, jobs, out=None if out is None else Path(out), places=places
    )
