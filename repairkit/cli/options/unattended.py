"""Options for runs that nobody watches: structured logs, figures, and an end on request."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from repairkit.core.errors import RunFolderError
from repairkit.jobs.output.destination import check_replaced
from repairkit.jobs.output.figures import prometheus_figures
from repairkit.jobs.output.progress import Progress
from repairkit.jobs.output.unattended import heeding_sigterm

LogJson = Annotated[
    Path | None,
    typer.Option("--log-json", help="Append a log of one JSON document a line to this file."),
]
PrometheusPort = Annotated[
    int | None,
    typer.Option("--prometheus-port", min=1, max=65535, help="Serve figures for Prometheus here."),
]
PrometheusFile = Annotated[
    Path | None,
    typer.Option("--prometheus-file", help="Write figures for Prometheus's textfile collector."),
]

Tell = Callable[[Progress], None]


class JsonLines(logging.FileHandler):
    """A log whose every line is a JSON document: time, level, logger, message and the event."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self._told = False

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "event", {}),
        }
        return json.dumps(document, default=str)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (logging's)
        """A log that cannot be written, as on a full disk, ends no run; it is told once."""
        if not self._told:
            self._told = True
            error = sys.exc_info()[1]
            sys.stderr.write(f"repairkit: {self.baseFilename}: cannot be written ({error})\n")


@contextmanager
def unattended(
    shown: Tell | None,
    *,
    log_json: Path | None,
    prometheus_port: int | None,
    prometheus_file: Path | None,
) -> Iterator[Tell | None]:
    """Heed SIGTERM and log as asked; whom to tell of progress, in place of `shown` alone.

    Raises:
        RunFolderError: the log cannot be opened.
        SettingsError: figures cannot be served.
    """
    tell = shown
    if prometheus_port is not None or prometheus_file is not None:
        figures = prometheus_figures(port=prometheus_port, file=prometheus_file)

        def tell(progress: Progress) -> None:
            figures(progress)
            if shown is not None:
                shown(progress)

    with heeding_sigterm(), _logging_to(log_json):
        yield tell


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
