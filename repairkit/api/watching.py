"""Runs that nobody watches: structured logs, figures, and an end on request."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from repairkit.core.errors import RunFolderError
from repairkit.core.scores import Progress
from repairkit.jobs.output.destination import check_replaced
from repairkit.jobs.output.figures import prometheus_figures
from repairkit.jobs.output.unattended import heeding_sigterm

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Unattended:
    """How a run makes itself known. It also heeds SIGTERM: it saves itself and raises `Terminated`.

    Attributes:
        log_json: a log of one JSON document a line is appended to this file.
        prometheus_port: where figures for Prometheus are served.
        prometheus_file: where they are written, for Prometheus's textfile collector.
    """

    log_json: Path | None = None
    prometheus_port: int | None = None
    prometheus_file: Path | None = None

    @contextmanager
    def watch(self, on_progress: OnProgress | None) -> Iterator[OnProgress | None]:
        """Log as asked until the block ends; yields what is to be called with the progress.

        Raises:
            RunFolderError: the log cannot be opened.
            SettingsError: figures cannot be served.
        """
        listeners = [] if on_progress is None else [on_progress]
        if self.prometheus_port is not None or self.prometheus_file is not None:
            port, file = self.prometheus_port, self.prometheus_file
            listeners.insert(0, prometheus_figures(port=port, file=file))

        def call_all(progress: Progress) -> None:
            for listener in listeners:
                listener(progress)

        with heeding_sigterm(), _logging_to(self.log_json):
            yield call_all if listeners else None


class JsonLines(logging.FileHandler):
    """A log whose every line is a JSON document: time, level, logger, message and the event."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self._failed = False

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "event", {}),
        }
        return json.dumps(document, default=str)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (logging's)
        """A log that cannot be written, as on a full disk, stops no run; it is said once."""
        if not self._failed:
            self._failed = True
            error = sys.exc_info()[1]
            sys.stderr.write(f"repairkit: {self.baseFilename}: cannot be written ({error})\n")


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    if path.is_file() or not path.exists():  # lines are added to a pipe or a terminal as they are
        check_replaced(path, b'{"time": ', "log of repairkit's")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = JsonLines(path)
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error
    logger = logging.getLogger("repairkit")
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
