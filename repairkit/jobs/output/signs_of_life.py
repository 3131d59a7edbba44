"""How far a scoring is, for the caller, the run folder and Prometheus; SIGTERM is heeded."""

import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from repairkit.core import errors, scores
from repairkit.core.process import stages, writing
from repairkit.estimators.driving.driver import undecided
from repairkit.formats.documents import write_json
from repairkit.formats.run_file import RunFolder
from repairkit.jobs.output.destination import check_replaced

logger = logging.getLogger(__name__)

OnProgress = Callable[[scores.Progress], None] | None
"""Called now and then while filters are scored."""

BEAT_SECONDS = 10.0
_SECONDS = 0.3
_LOG_SECONDS = 10.0
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


def reporter(
    on_progress: OnProgress, budget: scores.Budget, n_filters: int
) -> Callable[[scores.Run, scores.Spent], None] | None:
    """Tells `on_progress` now and then, since reading a run costs time."""
    if on_progress is None:
        return None
    due = [0.0]
    first: list[tuple[float, int]] = []

    def report(run: scores.Run, spent: scores.Spent) -> None:
        now = time.monotonic()
        if not first:
            first.append((now, spent.evaluations))
        if now < due[0]:
            return
        rate = (spent.evaluations - first[0][1]) / max(now - first[0][0], 1e-9)
        left, seconds = None, None
        if budget.max_evaluations is not None:
            left = max(budget.max_evaluations - spent.evaluations, 0)
            seconds = left / rate if rate > 0 else None
        if budget.time_limit_seconds is not None:
            remaining = max(budget.time_limit_seconds - spent.seconds, 0.0)
            seconds = remaining if seconds is None else min(seconds, remaining)
        on_progress(
            scores.Progress(
                n_filters=n_filters,
                n_undecided=undecided(run),
                spent=spent,
                evaluations_per_second=rate,
                evaluations_left=left,
                seconds_left=seconds,
            )
        )
        due[0] = time.monotonic() + _SECONDS

    return report


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Inside this context, SIGTERM raises `Terminated` in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the signal's)
        raise errors.Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Watch:
    """Reports what has been spent so far to the log and to `heartbeat.json`, every few seconds.

    The file holds two times: `time`, when it was written, also during a long round, and
    `last_round`. A separate thread writes it, starting at the first round.

    Args:
        folder: the run folder; None for a log alone.
        n_filters: how many are scored.
        every_seconds: between beats.
    """

    def __init__(
        self, folder: RunFolder | None, n_filters: int, *, every_seconds: float = BEAT_SECONDS
    ) -> None:
        self.folder, self.n_filters, self.every_seconds = folder, n_filters, every_seconds
        self.spent = scores.Spent()
        self._first: tuple[float, int] | None = None
        self._undecided: int | None = None
        self._last_round = ""
        self._log_at = 0.0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def on_round(self, run: scores.Run, spent: scores.Spent) -> None:
        """To be called after every round; cheap."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, spent.evaluations)
        self.spent, self._last_round = spent, _now()
        # A run that must be read to count the undecided filters takes too long here.
        self._undecided = undecided(run) if hasattr(run, "n_undecided") else None
        if self.folder is not None and self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
            self._thread.start()
        if now >= self._log_at:
            self._log_at = now + _LOG_SECONDS
            facts = self.facts("running")
            del facts["time"]
            logger.info(
                "%s evaluations", spent.evaluations, extra=stages.event("progress", **facts)
            )

    def facts(self, state: str) -> dict[str, Any]:
        """What a beat says."""
        rate = None
        if self._first is not None:
            began, evaluations = self._first
            elapsed = time.monotonic() - began
            rate = round((self.spent.evaluations - evaluations) / elapsed, 3) if elapsed else None
        return {
            "time": _now(),
            "state": state,
            "host": platform.node(),
            "process": os.getpid(),
            "last_round": self._last_round,
            "rounds": self.spent.rounds,
            "evaluations": self.spent.evaluations,
            "evaluations_per_second": rate,
            "undecided": self._undecided,
            "n_filters": self.n_filters,
            "seconds": round(self.spent.seconds, 3),
        }

    def close(self, state: str) -> None:
        """The last beat: `finished`, `unfinished` or `failed`."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._write(self.facts(state))

    def _beat(self) -> None:
        while not self._done.is_set():
            self._write(self.facts("running"))
            self._done.wait(self.every_seconds)

    def _write(self, facts: Mapping[str, Any]) -> None:
        assert self.folder is not None
        try:
            write_json(self.folder.heartbeat_file, dict(facts))
        except errors.RunFolderError as error:  # the run may yet end well
            logger.warning("%s", error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def prometheus_library(file: Path | None) -> Any:
    """The library that writes figures for Prometheus.

    Args:
        file: to which they will be written; None where they are only served.

    Raises:
        SettingsError: the library is missing.
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
    return prometheus


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
    prometheus = prometheus_library(file)
    registry = prometheus.CollectorRegistry()
    gauges = [prometheus.Gauge(name, text, registry=registry) for name, text in _FIGURES.items()]
    if port is not None:
        try:
            prometheus.start_http_server(port, registry=registry)
        except (OSError, OverflowError) as error:
            raise errors.SettingsError(
                f"--prometheus-port {port} cannot be used ({error}); choose another"
            ) from error
    due = [0.0]

    def tell(progress: scores.Progress) -> None:
        for gauge, value in zip(gauges, _values(progress), strict=True):
            gauge.set(value)
        if file is not None and time.monotonic() >= due[0]:
            due[0] = time.monotonic() + _FILE_SECONDS
            try:
                writing.write_whole(file, prometheus.generate_latest(registry))
            except OSError as error:  # the run continues without the file
                logger.warning("%s: cannot be written (%s)", file, error.strerror or error)

    return tell


def _values(progress: scores.Progress) -> tuple[float, ...]:
    """A value for each of `_FIGURES`."""
    spent, n_undecided = progress.spent, progress.n_undecided
    return (
        progress.n_filters,
        float("nan") if n_undecided is None else n_undecided,
        spent.evaluations,
        spent.image_passes,
        spent.rounds,
        spent.seconds,
        time.time(),
    )
