"""Common means: measured over all images of an owner, or added up from the sums of several."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters
from repairkit.core.suite import Suite
from repairkit.engine.activations import measure_sums
from repairkit.engine.batching import as_declared, settle_batching
from repairkit.formats import documents, means_file
from repairkit.graph.kinds.sites import select_sites, survey
from repairkit.jobs.output.destination import check_replaced
from repairkit.jobs.setup import preparing, workbench
from repairkit.jobs.setup.subject import judging_the_model

_PROOF_IMAGES = 8


@judging_the_model
def compute_means(
    subject: workbench.Subject, settings: workbench.Settings
) -> means_file.CommonMeans:
    """Sum up what every filter yields over all images that the settings name.

    Raises:
        RepairkitError: anything about model, data or settings that the user can mend.
    """
    dataset = preparing.read_any(subject, settings)
    subject = preparing.with_inputs(subject, settings, dataset)
    suite = Suite.whole("means", dataset.images, dataset.annotations, dataset.further)
    first = np.arange(min(_PROOF_IMAGES, len(suite)))
    declared = subject.opened(device=settings.device)
    try:
        batching = settle_batching(
            declared, suite.batch(first), outputs=(subject.output,), feeds=suite.feeds(first)
        )
    except errors.ModelError:  # an output that is no array with a row per image
        batching = as_declared(declared)
    model = batching.opened.model
    surveyed = survey(model, output=subject.output, at=settings.sites_at, include=settings.include)
    sums = measure_sums(batching.opened, select_sites(surveyed, settings.sites), suite)
    return means_file.CommonMeans(
        model=subject.file.digest,
        sites_at=settings.sites_at,
        data=(dataset.digest,),
        n_images=len(suite),
        sums=sums,
    )


def merge_means(paths: Sequence[Path]) -> means_file.CommonMeans:
    """Add up the sums of several owners; their order does not change the result.

    Raises:
        SettingsError: they are of different models or sites, or of the same images.
        RunFolderError: a file cannot be read.
    """
    files = [means_file.read_means(path) for path in paths]
    if len(files) < 2:
        raise errors.SettingsError("one file of means is nothing to merge; name two or more")
    first = files[0]
    for path, other in zip(paths[1:], files[1:], strict=True):
        if (other.model, other.sites_at, _shapes(other)) != (
            first.model,
            first.sites_at,
            _shapes(first),
        ):
            raise errors.SettingsError(
                f"{path}: holds means of another model or of other sites than {paths[0]}; compute "
                "them with the same model, --sites, --sites-at and --include"
            )
    digests = [digest for file in files for digest in file.data]
    if len(set(digests)) < len(digests):
        raise errors.SettingsError(
            "two of the files hold means of the same images; name each owner once"
        )
    sums = {name: _add([file.sums[name] for file in files]) for name in first.sums}
    n_images = sum(file.n_images for file in files)
    return means_file.CommonMeans(
        model=first.model,
        sites_at=first.sites_at,
        data=tuple(sorted(digests)),
        n_images=n_images,
        sums=sums,
    )


def check_means_place(path: Path) -> None:
    """Before anything is computed: means may replace means alone.

    Raises:
        RunFolderError: something else is there.
    """
    check_replaced(path, f'"kind": "{means_file.KIND}"'.encode(), "file of means")


def write_means(path: Path, means: means_file.CommonMeans) -> None:
    """Write the file whole or not at all.

    Raises:
        RunFolderError: something else is there, or nothing can be written.
    """
    check_means_place(path)
    documents.write_json(path, means.to_json())


def _shapes(means: means_file.CommonMeans) -> dict[str, tuple[int, ...]]:
    return {name: sums.total.shape for name, sums in means.sums.items()}


def _add(sums: Sequence[filters.Sums]) -> filters.Sums:
    """The sum, rounded once, so that the order of the owners does not matter."""
    totals = np.stack([s.total.reshape(-1) for s in sums], axis=1)
    exact: NDArray[np.float64] = np.array([math.fsum(row) for row in totals.tolist()])
    return filters.Sums(exact.reshape(sums[0].total.shape), sum(s.count for s in sums))
