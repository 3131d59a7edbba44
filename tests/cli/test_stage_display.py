"""No command is silent for long: every stage has a name, and time that passes is told."""

from __future__ import annotations

import inspect
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from repairkit.cli import app, stage_display
from repairkit.core.process.stages import listening, stage
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
SILENT, MARGIN = 0.2, 0.3


class Recorder:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.open: list[str] = []
        self.counts: dict[str, list[int]] = {}

    def begin(self, name: str, total: int | None, unit: str) -> None:  # noqa: ARG002 (a Listener)
        self.names.append(name)
        self.open.append(name)

    def advance(self, done: int) -> None:
        self.counts.setdefault(self.open[-1], []).append(done)

    def end(self) -> None:
        self.open.pop()


class Timed(io.StringIO):
    """A stream that remembers when each line was written."""

    def __init__(self) -> None:
        super().__init__()
        self.times = [time.monotonic()]

    def write(self, text: str) -> int:
        self.times.append(time.monotonic())
        return super().write(text)


def impatient(monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Standard error as a log from now on, with a twentieth of the usual times."""
    log = Timed()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(stage_display, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(stage_display, "BETWEEN_SECONDS", 0.05)
    monkeypatch.setattr(stage_display, "SILENT_SECONDS", SILENT)
    monkeypatch.setattr(stage_display, "_LOOK_SECONDS", 0.01)
    return log


def test_a_slow_stage_is_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    log = impatient(monkeypatch)
    with stage_display.shown(quiet=False), stage("looking hard", total=7, unit="stones") as tell:
        tell(3)
        time.sleep(1.0)
    told = log.getvalue().splitlines()
    assert len(told) >= 3
    assert all(line.startswith("looking hard: 3 of 7 stones, ") for line in told)
    gaps = [b - a for a, b in zip(log.times, log.times[1:], strict=False)]
    assert max(gaps) < SILENT + MARGIN


def test_a_long_stage_shows_its_share_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    log = impatient(monkeypatch)
    monkeypatch.setattr(stage_display, "_FORECAST_SECONDS", 0.05)
    with stage_display.shown(quiet=False), stage("looking hard", total=8, unit="stones") as tell:
        time.sleep(0.1)
        tell(2)
        time.sleep(0.6)
    assert "looking hard: 2 of 8 stones (25%), about " in log.getvalue()
    assert " left, " in log.getvalue()


def test_what_belongs_to_no_stage_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    log = impatient(monkeypatch)
    with stage_display.shown(quiet=False):
        time.sleep(0.5)
    assert "working: " in log.getvalue()


def test_a_stage_that_begins_late_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log = impatient(monkeypatch)
    with stage_display.shown(quiet=False):
        with stage("first"):
            time.sleep(0.12)
        with stage("second\x1b[31m"):
            pass
    assert log.getvalue().splitlines()[-1] == "second\\x1b[31m"


def test_the_same_stage_again_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    log = impatient(monkeypatch)
    with stage_display.shown(quiet=False):
        for _ in range(4):
            with stage("one of many"):
                time.sleep(0.06)
    assert log.getvalue().splitlines().count("one of many") <= 1


def test_a_quick_command_says_nothing(repairkit: Command, project: Project) -> None:
    answer = repairkit("inspect", project.model)
    assert (answer.code, answer.err) == (0, "")


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    log = impatient(monkeypatch)
    with stage_display.shown(quiet=True), stage("looking hard"):
        time.sleep(0.4)
    assert log.getvalue() == ""


def test_a_stage_that_fails_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    log = impatient(monkeypatch)
    recorder = Recorder()
    with listening(recorder), pytest.raises(ValueError, match="odd"), stage("odd"):
        raise ValueError("odd")
    assert not recorder.open
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar_and_standard_output_stays_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(stage_display, "Console", lambda **_: console)
    with stage_display.shown(quiet=False), stage("outer"):
        with stage("inner", total=9) as tell:
            tell(4)
            sys.stdout.write("the answer\n")
            time.sleep(0.3)
        stage_display.show_facts("3 undecided", 1, 2)
        time.sleep(0.3)
    told = screen.getvalue()
    for part in ("outer", "inner", "4 of 9 images", "3 undecided"):
        assert part in told
    assert "the answer" not in told
    assert capsys.readouterr().out == "the answer\n"


def test_every_command_shows_its_stages() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert inspect.unwrap(command.callback) is not command.callback, command.name


def test_the_stages_of_a_repair_have_names(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    recorder = Recorder()
    with listening(recorder):
        first = repairkit("score", project.model, "--data", project.data, "-o", tmp_path / "run")
        second = repairkit(
            "patch", project.model, "--data", project.data, "--remove", "conv:0", "-o",
            tmp_path / "p.onnx",
        )  # fmt: skip
    assert (first.code, second.code) == (0, 0), (first, second)
    assert not recorder.open
    assert {
        "opening the model",
        "finding filters",
        "reading images",
        "checking batches",
        "measuring means",
        "compiling",
        "playing with all filters and with none",
        "scoring",
        "baking",
        "proving the patch",
        "judging on the test part",
        "writing",
        "writing the page",
    } <= set(recorder.names)
    assert any(name.startswith("proving blocked weights") for name in recorder.names)
    assert recorder.counts["measuring means"][-1] > 0
