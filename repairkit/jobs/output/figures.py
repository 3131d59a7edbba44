"""A run's figures for Prometheus, by its own library and on request alone."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from repairkit.core import errors, scores
from repairkit.core.process.writing import write_whole
from repairkit.jobs.output.destination import check_replaced

logger = logging.getLogger(__name__)

_FILE_SECONDS = 2.0
_FIGURES = {
    "repairkit_filters": "Filters that are scored.",
    "repairkit_undecided_filters": "Filters whose question is open; NaN where telling takes long.",
    "repairkit_evaluations": "Coalitions tried so far, those of before a resumption included.",
    "repairkit_image_passes": "Images that went through the model so far.",
    "repairkit_rounds": "Rounds played so far.",
    "repairkit_spent_seconds": "Seconds spent so far, those of before a resumption included.",
    "repairkit_last_round_timestamp_seconds": "When the last round was told (Unix time).",
}


def prometheus_figures(
    *, port: int | None = None, file: Path | None = None
) -> Callable[[scores.Progress], None]:
    """A function that takes progress and shows it to Prometheus.

    Args:
        port: where the figures are served, on all addresses of this machine.
        file: where they are written, for the node exporter's textfile collector.

    Raises:
        SettingsError: the library is missing, or the port is taken.
        RunFolderError: another file is in the place of ours.
    """
    try:
        import prometheus_client as prometheus
    except ImportError:
        raise errors.SettingsError(
            "figures for Prometheus need its library; pip install 'repairkit[prometheus]'"
        ) from None
    if file is not None:
        check_replaced(file, b"# HELP repairkit_", "file of repairkit's figures")
    registry = prometheus.CollectorRegistry()
    gauges = {
        name: prometheus.Gauge(name, text, registry=registry) for name, text in _FIGURES.items()
    }
    if port is not None:
        try:
            prometheus.start_http_server(port, registry=registry)
        except (OSError, OverflowError) as error:
            raise errors.SettingsError(
                f"--prometheus-port {port} cannot be used ({error}); choose another"
            ) from error

    due = [0.0]

    def tell(progress: scores.Progress) -> None:
        undecided = progress.n_undecided
        values = (
            progress.n_filters,
            float("nan") if undecided is None else undecided,
            progress.spent.evaluations,
            progress.spent.image_passes,
            progress.spent.rounds,
            progress.spent.seconds,
            time.time(),
        )
        for gauge, value in zip(gauges.values(), values, strict=True):
            gauge.set(value)
        if file is not None and time.monotonic() >= due[0]:
            due[0] = time.monotonic() + _FILE_SECONDS
            try:
                write_whole(file, prometheus.generate_latest(registry))
            except OSError as error:  # the run goes on without
                logger.warning("%s: cannot be written (%s)", file, error.strerror or error)

    return tell
