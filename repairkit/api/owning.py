"""Data of several owners: means and values, added up where the data could not leave its owner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repairkit.api.job_settings import open_job
from repairkit.core.errors import SettingsError
from repairkit.formats.means_file import CommonMeans
from repairkit.jobs.owners import merging
from repairkit.jobs.owners.measuring import (
    check_means_place,
    compute_means,
    merge_means,
    write_means,
)
from repairkit.jobs.setup.settings import Settings


def means(
    model: str | Path | None = None,
    data: str | Path | None = None,
    *,
    out: str | Path,
    merge: Sequence[str | Path] = (),
    settings: Settings | None = None,
) -> CommonMeans:
    """Compute what absent filters yield over all images, as `repairkit means` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: a file that `Settings.means` can name.
        merge: files of several owners to add up; then there is no model and no data.
        settings: preprocessing, sites, device; see `score`.

    Raises:
        RepairkitError: anything that the user can mend.
    """
    place = Path(out)
    if merge:
        if model is not None or data is not None:
            raise SettingsError("--merge needs no model and no data; leave them out")
        common = merge_means([Path(file) for file in merge])
    else:
        if model is None:
            raise SettingsError("means are of a model, and none was given; name an ONNX file")
        subject, job = open_job(model, data, settings)
        check_means_place(place)
        common = compute_means(subject, job)
    write_means(place, common)
    return common


def merge(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    by: merging.By = "images",
    weights: Sequence[float] | None = None,
) -> merging.Merged:
    """Add up values over data that could not leave its owners; see `jobs.owners.merging.merge`.

    Raises:
        RepairkitError: the runs do not add up, or cannot be read.
    """
    place = None if out is None else Path(out)
    return merging.merge([Path(run) for run in runs], out=place, by=by, weights=weights)
