"""What a repair is for: the metric that ranks filters, and the one that patches are chosen by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repairkit.core.errors import SettingsError
from repairkit.metrics import RESISTANCE, ROBUSTNESS
from repairkit.workflows.run_folder import RunFolder
from repairkit.workflows.settings import Settings

FAIRNESS_VALUE = "group_accuracy"
FAIRNESS_OBJECTIVE = "worst_group_accuracy"


def aim(
    settings: Settings, *, fairness: bool, robustness: bool, scores: Path | None
) -> tuple[Settings, str]:
    """The settings with the metric that ranks filters, and the metric that patches are chosen by.

    Where more is worse (`robustness`), its opposite is chosen by.

    Raises:
        SettingsError: groups are missing, or the scores are for something else.
        RunFolderError: the scores cannot be read.
    """
    if fairness:
        if not settings.groups:
            raise SettingsError(
                "--fairness needs groups; name the columns with --group, or in repairkit.toml"
            )
        return replace(settings, metrics=(FAIRNESS_VALUE,)), FAIRNESS_OBJECTIVE
    if scores is not None:
        settings = replace(settings, metrics=tuple(RunFolder(scores).read_metrics()[:1]))
    elif robustness:
        settings = replace(settings, metrics=(RESISTANCE,))
    ranking = settings.metrics[0]
    if robustness and ranking not in (ROBUSTNESS, RESISTANCE):
        raise SettingsError(
            f"--robustness needs a run that was scored for robustness and {scores} was for "
            f"{ranking}; leave --scores out, or score with --metric robustness"
        )
    return settings, RESISTANCE if ranking == ROBUSTNESS else ranking
