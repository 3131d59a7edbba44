"""Progress names the step of how many, and the time left falls."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from repairkit.cli import app, stage_display
from repairkit.cli.steps import STEPS, Forecast, Plan, Step
from repairkit.core.process.stages import listening, stage
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
GAPS = st.lists(st.floats(0.01, 30.0), min_size=1, max_size=30)


@given(GAPS, st.floats(0.5, 1e4))
def test_at_a_constant_speed_the_time_left_only_falls(gaps: list[float], speed: float) -> None:
    total = sum(gaps) * speed
    forecast, now, before, done = Forecast(5.0), 5.0, float("inf"), 0.0
    for gap in gaps:
        for part in (0.3, 0.6, 0.999):
            left = forecast.left(now + part * gap)
            if left is not None:
                assert left <= before * (1 + 1e-6) + 1e-6
                before = left
        now, done = now + gap, done + gap * speed
        forecast.update(done, total, now)  # type: ignore[arg-type]  # any number will do
        left = forecast.left(now)
        assert left is not None
        assert left <= before * (1 + 1e-6) + 1e-6
        assert left == pytest.approx((total - done) / speed, rel=1e-5, abs=1e-5)
        before = left


@given(st.lists(st.tuples(st.floats(0.01, 60.0), st.integers(1, 50)), min_size=2, max_size=30))
def test_a_slow_moment_lengthens_the_time_left_by_little(told: list[tuple[float, int]]) -> None:
    total = sum(work for _, work in told) + 10
    forecast, now, done = Forecast(0.0), 0.0, 0
    for gap, work in told:
        now, done = now + gap, done + work
        before = forecast.left(now)
        forecast.update(done, total, now)
        after = forecast.left(now)
        assert after is not None
        slowest = max(seconds / work for seconds, work in told)
        assert 0 <= after <= (total - done) * slowest * (1 + 1e-9) + sum(g for g, _ in told)
        if before is not None and after > before:
            # No more than a quarter of what the slowest moment would say.
            assert after - before <= 0.25 * (total - done) * slowest + 1e-6


def test_nothing_is_forecast_before_anything_is_done_and_a_stall_keeps_some_time() -> None:
    forecast = Forecast(0.0)
    assert forecast.left(9.0) is None
    forecast.update(1, 10, 1.0)
    assert forecast.left(1.0) == pytest.approx(9.0)
    assert forecast.left(500.0) == pytest.approx(0.9)


NAMES = [word for steps in STEPS.values() for step in steps for word in step.stages]


@given(st.sampled_from(sorted(STEPS)), st.lists(st.sampled_from(NAMES), max_size=30))
def test_steps_are_counted_up_front_and_never_gone_back_to(command: str, names: list[str]) -> None:
    plan, last = Plan.of(command, {"curve": True, "data": "d"}), 0
    totals = set()
    for name in names:
        plan.begin(name)
        if plan.step:
            at, _, rest = plan.step.partition(" of ")
            totals.add(rest.partition(":")[0])
            assert int(at) >= last
            last = int(at)
    assert len(totals) <= 1


def test_options_that_spare_a_step_lower_the_total() -> None:
    def total(command: str, **options: object) -> int:
        plan = Plan.of(command, options)
        plan.begin("opening the model")
        return int(plan.step.split(":")[0].rpartition(" ")[2])

    assert total("score", curve=True) == total("score", curve=False) + 1
    assert total("score", curve=True, score_size="32") == total("score", curve=True) + 1
    assert total("patch") == total("patch", scores="run") + 1 == total("patch", remove="conv:0") + 2
    assert total("inspect", data="d") == 3
    assert Plan.of("inspect", {}).step == ""


def test_each_step_is_of_a_command_that_there_is() -> None:
    commands = {command.name for command in app.registered_commands}
    assert set(STEPS) <= commands


class Steps:
    """A listener that keeps the titles that a plan gives."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.titles: list[str] = []

    def begin(self, name: str, total: int | None, unit: str) -> None:  # noqa: ARG002 (a Listener)
        self.plan.begin(name)
        if self.plan.step not in self.titles:
            self.titles.append(self.plan.step)

    def advance(self, done: int) -> None: ...

    def end(self) -> None: ...


def test_a_score_and_a_patch_go_through_all_their_steps(
    repairkit: Command, project: Project
) -> None:
    words = ("--data", project.data, "--accept-preprocessing", "--quiet")
    for command, options, more in (
        ("score", {"curve": True}, ("-o", "run")),
        ("patch", {"remove": "conv:0"}, ("--remove", "conv:0", "-o", "p.onnx")),
    ):
        steps = Steps(Plan.of(command, options))
        with listening(steps):
            answer = repairkit(command, project.model, *words, *more)
        assert answer.code == 0, answer.err
        total = len([step for step in STEPS[command] if step.taken(options)])
        numbers = [int(title.split(" of ")[0]) for title in steps.titles]
        assert numbers == sorted(numbers)
        assert numbers[0] == 1
        assert numbers[-1] == total, steps.titles


def test_a_line_names_the_step_and_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(stage_display, "FIRST_SECONDS", -1.0)
    monkeypatch.setattr(stage_display, "BETWEEN_SECONDS", -1.0)
    monkeypatch.setattr(stage_display, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(stage_display, "_LOOK_SECONDS", 0.01)
    plan = Plan((Step("reading", ("reading",)), Step("scoring", ("scoring",))))
    with stage_display.shown(quiet=False, plan=plan):
        with stage("reading images"), stage("decoding images"), stage("hashing"):
            pass
        with stage("scoring"):
            stage_display.show_facts("7 filters", 31, 100, 60.0)
            time.sleep(0.4)
    lines = log.getvalue().splitlines()
    assert lines[:2] == ["1 of 2: reading", "2 of 2: scoring"]
    assert lines[2].startswith("2 of 2: scoring, 31 %, 7 filters, at most ")


def test_a_bar_names_the_step_and_stays_with_the_stage_that_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(stage_display, "Console", lambda **_: console)
    plan = Plan((Step("reading", ("reading",)), Step("scoring", ("scoring",))))
    with (
        stage_display.shown(quiet=False, plan=plan),
        stage("reading images"),
        stage("decoding", total=5) as tell,
        stage("running images", total=2),
    ):
        time.sleep(0.2)
        tell(3)
    told = screen.getvalue()
    assert "1 of 2: reading (decoding)" in told
    assert "0 of 5 images" in told
    assert "running images" not in told


def test_a_long_stage_is_told_more_and_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(stage_display, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(stage_display, "_SHARE_OF_SILENCE", 0.5)
    monkeypatch.setattr(stage_display, "_LOOK_SECONDS", 0.005)
    with stage_display.shown(quiet=False), stage("looking hard"):
        time.sleep(1.0)
    # Each line a half later than the one before: 0.05 * 1.5 ** 8 is over 1.
    assert 3 <= len(log.getvalue().splitlines()) <= 11
