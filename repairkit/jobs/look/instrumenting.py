"""Write a model with run-time mask inputs, for other tools to drive."""

from __future__ import annotations

from pathlib import Path

from repairkit.core.filters import Site
from repairkit.core.process.stages import stage
from repairkit.graph.baking import representable
from repairkit.graph.kinds.sites import bias_levels, instrument, select_sites, survey, zero_levels
from repairkit.graph.stored.model_files import write_model
from repairkit.jobs.output.destination import INSTRUMENTED, check_model_place, is_instrumented
from repairkit.jobs.setup.subject import judging_the_model
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.jobs.setup.workbench import Settings, Subject


@stage("instrumenting")
@judging_the_model
def write_instrumented(subject: Subject, settings: Settings, out: Path) -> tuple[Site, ...]:
    """Write the instrumented model; means are measured unless filters are absent otherwise.

    Returns:
        The sites that got a mask input.

    Raises:
        SettingsError: means are wanted and there is no data.
        RepairkitError: anything else that the user can mend.
    """
    check_model_place(out, subject, settings.data)
    surveyed = survey(
        subject.model, output=settings.output, at=settings.sites_at, include=settings.include
    )
    sites = select_sites(surveyed, settings.sites)
    if settings.absent == "mean":
        bench = prepare_unjudged(subject, settings, sites=[site.name for site in sites])
        levels = bench.working.levels
    else:
        wanted = zero_levels(sites) if settings.absent == "zero" else bias_levels(surveyed, sites)
        levels = representable(surveyed, wanted)
    result = instrument(subject.model, sites, levels)
    if not is_instrumented(result):
        result.metadata_props.add(key=INSTRUMENTED, value=subject.file.digest)
    write_model(result, out)
    return sites
