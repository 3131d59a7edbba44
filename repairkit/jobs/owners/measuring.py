"""Measure what filters yield over all images of an owner, to be shared as common means."""

from __future__ import annotations

import numpy as np

from repairkit.core.errors import ModelError
from repairkit.core.suite import Suite
from repairkit.engine.means import measure_sums
from repairkit.engine.runner import as_declared, settle_batching
from repairkit.graph.kinds.sites import select_sites, survey
from repairkit.jobs.setup.common_means import CommonMeans
from repairkit.jobs.setup.faults import judging_the_model
from repairkit.jobs.setup.inputs import with_inputs
from repairkit.jobs.setup.reading import read_any
from repairkit.jobs.setup.settings import Settings
from repairkit.jobs.setup.subject import Subject

_PROOF_IMAGES = 8


@judging_the_model
def compute_means(subject: Subject, settings: Settings) -> CommonMeans:
    """Sum up what every filter yields over all images that the settings name.

    Raises:
        RepairkitError: anything about model, data or settings that the user can mend.
    """
    dataset = read_any(subject, settings)
    subject = with_inputs(subject, settings, dataset)
    suite = Suite.whole("means", dataset.images, dataset.annotations, dataset.further)
    first = np.arange(min(_PROOF_IMAGES, len(suite)))
    try:
        batching = settle_batching(
            subject.working,
            subject.input_name,
            suite.batch(first),
            outputs=(subject.output,),
            feeds=suite.feeds(first),
            device=settings.device,
        )
    except ModelError:  # an output that is no array with a row per image
        batching = as_declared(subject.working, subject.input_name)
    found = survey(
        batching.model, output=subject.output, at=settings.sites_at, include=settings.include
    )
    sums = measure_sums(
        batching.model,
        select_sites(found, settings.sites),
        suite,
        input_name=subject.input_name,
        step=batching.step,
        device=settings.device,
    )
    return CommonMeans(subject.file.digest, settings.sites_at, (dataset.digest,), len(suite), sums)
