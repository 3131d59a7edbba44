"""Watch what a repair promised on images that came later."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from repairkit.api.job_settings import JobKeywords, check_keywords, open_job
from repairkit.data.given import GivenAs
from repairkit.jobs.monitor import monitored, monitoring, promised
from repairkit.jobs.setup.workbench import Settings


class MonitorKeywords(JobKeywords, total=False):
    """Further arguments of `monitor`: what is watched, and how surely.

    Attributes:
        state: the file of the images so far; `NAME.monitor.json` beside the model if left out.
        promise: the patch file that `patch` wrote; the one beside the model if left out.
        floors: in place of those of the patch file, such as `("accuracy=0.9", "recall:cat=0.8")`.
        original: the model before, to watch what the repair gains, too.
        confidence: with which an alarm is true, over all looks and figures together; 0.95.
        in_order: the images come in the order of time; else each look counts its images in an order
            that their content gives.
        prometheus_file: a file for the textfile collector of Prometheus's node exporter.
    """

    state: str | Path | None
    promise: str | Path | None
    floors: str | Sequence[str]
    original: str | Path | None
    confidence: float
    in_order: bool
    prometheus_file: str | Path | None


def monitor(
    model: str | Path,
    data: GivenAs,
    *,
    settings: Settings | None = None,
    **more: Unpack[MonitorKeywords],
) -> monitored.Monitored:
    """Add later images to a state and say whether promises hold, as `repairkit monitor` does.

    A promise that surely fails is no error: the result's `verdict` is `fails`.

    Args:
        model: the repaired model.
        data: labelled images that came later; those that were counted before count once.
        settings: groups, preprocessing, inputs and outputs; see `score`. What they leave open is
            taken from the patch file.
        more: see `MonitorKeywords`.

    Raises:
        SettingsError: nothing was promised, or the state watches something else.
        VerificationError: the patch file, the original or the state is not what it claims to be.
        RepairkitError: anything else that the user can correct.
    """
    check_keywords("monitor", more, MonitorKeywords)
    floors = more.get("floors", ())
    asked = monitoring.MonitorSettings(
        state=_path(more.get("state")),
        promise=_path(more.get("promise")),
        floors=tuple(map(promised.read_floor, (floors,) if isinstance(floors, str) else floors)),
        original=_path(more.get("original")),
        confidence=more.get("confidence", 0.95),
        in_order=more.get("in_order", False),
        prometheus=_path(more.get("prometheus_file")),
    )
    subject, job = open_job(model, data, settings, more)
    return monitoring.monitor(subject, job, asked)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
