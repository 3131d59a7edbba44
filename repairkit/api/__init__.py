"""repairkit from Python: one function per command, and the types of arguments and results.

A name loads what it needs when it is first used.
"""

from typing import TYPE_CHECKING

from repairkit.core.process.lazy import loader

if TYPE_CHECKING:
    from repairkit.api.atlases import atlas
    from repairkit.api.concept_jobs import compare_concepts, dissect
    from repairkit.api.estimating import (
        Unattended,
        ask,
        compare,
        curve,
        means,
        merge,
        report,
        score,
    )
    from repairkit.api.job_settings import find_job, find_settings
    from repairkit.api.listings import Listing, listing
    from repairkit.api.models import (
        Inspected,
        Instrumented,
        attack,
        diff,
        dream,
        export,
        inspect,
        inspect_patch,
        instrument,
    )
    from repairkit.api.projects import Begun, init
    from repairkit.api.proving import verify
    from repairkit.api.repairing import (
        apply,
        copy_sample,
        overlay,
        patch,
        patch_document,
        revert,
    )
    from repairkit.api.watching import monitor
    from repairkit.attacks import Pgd, Square
    from repairkit.core.errors import Terminated
    from repairkit.core.framework import Source
    from repairkit.core.results import Applied, Attacked, Exported, Reverted, Verified
    from repairkit.core.scores import Budget, Progress
    from repairkit.core.suite import IN_WORDS
    from repairkit.formats.means_file import CommonMeans
    from repairkit.jobs.ask.asking import Asked
    from repairkit.jobs.atlas.making_atlas import Atlas
    from repairkit.jobs.curve.overlaying import Curves
    from repairkit.jobs.diff.differing import Diff
    from repairkit.jobs.dissect.dissected import Detected, Dissected
    from repairkit.jobs.dissect.valued_concepts import ValuedConcepts
    from repairkit.jobs.dream.dream_writing import Dreamt
    from repairkit.jobs.look.patch_facts import PatchInspected
    from repairkit.jobs.monitor.monitored import Monitored
    from repairkit.jobs.owners.merging import By, Merged
    from repairkit.jobs.repair.patched import Patched
    from repairkit.jobs.runs.comparing import Agreement, Agreements
    from repairkit.jobs.score.score_settings import ScoreSettings
    from repairkit.jobs.score.scored import Scored
    from repairkit.jobs.setup.first_look import FirstLook
    from repairkit.jobs.setup.workbench import Settings

__all__ = [
    "IN_WORDS",
    "Agreement",
    "Agreements",
    "Applied",
    "Asked",
    "Atlas",
    "Attacked",
    "Begun",
    "Budget",
    "By",
    "CommonMeans",
    "Curves",
    "Detected",
    "Diff",
    "Dissected",
    "Dreamt",
    "Exported",
    "FirstLook",
    "Inspected",
    "Instrumented",
    "Listing",
    "Merged",
    "Monitored",
    "PatchInspected",
    "Patched",
    "Pgd",
    "Progress",
    "Reverted",
    "ScoreSettings",
    "Scored",
    "Settings",
    "Source",
    "Square",
    "Terminated",
    "Unattended",
    "ValuedConcepts",
    "Verified",
    "apply",
    "ask",
    "atlas",
    "attack",
    "compare",
    "compare_concepts",
    "copy_sample",
    "curve",
    "diff",
    "dissect",
    "dream",
    "export",
    "find_job",
    "find_settings",
    "init",
    "inspect",
    "inspect_patch",
    "instrument",
    "listing",
    "means",
    "merge",
    "monitor",
    "overlay",
    "patch",
    "patch_document",
    "report",
    "revert",
    "score",
    "verify",
]

_HOMES = {
    "repairkit.api.concept_jobs": "compare_concepts dissect",
    "repairkit.api.atlases": "atlas",
    "repairkit.api.estimating": "Unattended ask compare curve means merge report score",
    "repairkit.api.job_settings": "find_job find_settings",
    "repairkit.api.listings": "Listing listing",
    "repairkit.api.models": "Inspected Instrumented attack diff dream export inspect "
    "inspect_patch instrument",
    "repairkit.api.watching": "monitor",
    "repairkit.api.proving": "verify",
    "repairkit.api.repairing": "apply copy_sample overlay patch patch_document revert",
    "repairkit.api.projects": "Begun init",
    "repairkit.attacks": "Pgd Square",
    "repairkit.core.errors": "Terminated",
    "repairkit.core.framework": "Source",
    "repairkit.core.results": "Applied Attacked Exported Reverted Verified",
    "repairkit.core.scores": "Budget Progress",
    "repairkit.core.suite": "IN_WORDS",
    "repairkit.formats.means_file": "CommonMeans",
    "repairkit.jobs.ask.asking": "Asked",
    "repairkit.jobs.atlas.making_atlas": "Atlas",
    "repairkit.jobs.curve.overlaying": "Curves",
    "repairkit.jobs.diff.differing": "Diff",
    "repairkit.jobs.dissect.dissected": "Detected Dissected",
    "repairkit.jobs.dissect.valued_concepts": "ValuedConcepts",
    "repairkit.jobs.dream.dream_writing": "Dreamt",
    "repairkit.jobs.look.patch_facts": "PatchInspected",
    "repairkit.jobs.monitor.monitored": "Monitored",
    "repairkit.jobs.owners.merging": "By Merged",
    "repairkit.jobs.repair.patched": "Patched",
    "repairkit.jobs.runs.comparing": "Agreement Agreements",
    "repairkit.jobs.score.score_settings": "ScoreSettings",
    "repairkit.jobs.score.scored": "Scored",
    "repairkit.jobs.setup.first_look": "FirstLook",
    "repairkit.jobs.setup.workbench": "Settings",
}


def __dir__() -> list[str]:
    """The public names, for `dir` and completion."""
    return __all__


__getattr__ = loader(__name__, {module: names.split() for module, names in _HOMES.items()})
