"""A repair shares its time out, so that choosing is not left without."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from repairkit.core.process.stages import Deadline
from repairkit.core.scores import Budget
from repairkit.jobs.repair.repair_settings import PatchTime
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scoring import score_bench
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.conftest import Project, write_project


@pytest.fixture
def wide(tmp_path: Path) -> Project:
    return write_project(tmp_path)


def test_scoring_for_a_repair_takes_no_more_than_it_would_without_a_limit(wide: Project) -> None:
    bench = prepare(read_subject(wide.model), Settings(data=wide.data, metrics=("loss",)))
    free = score_bench(bench, ScoreSettings("repair"))
    limited = ScoreSettings("repair", budget=Budget(None, 3600.0)).begun()
    whole = PatchTime.of(limited, bench)
    assert whole is not None
    shared = whole.for_scoring(limited)
    assert 0 < (shared.budget.time_limit_seconds or 0) < 3600
    scored = score_bench(bench, shared)
    assert scored.document["evaluations"] == free.document["evaluations"]


def test_one_who_only_scores_gets_all_the_time(wide: Project) -> None:
    assert ScoreSettings("repair").takes_usual
    assert not ScoreSettings("repair", budget=Budget(None, 60.0)).takes_usual
    assert not ScoreSettings("repair", budget=Budget(50)).takes_usual
    bench = prepare(read_subject(wide.model), Settings(data=wide.data))
    few = ScoreSettings("repair", budget=Budget(50, 60.0)).begun()
    whole = PatchTime.of(few, bench)
    assert whole is not None
    assert not whole.for_scoring(few).takes_usual


def test_messages_name_the_limit_that_was_given() -> None:
    part = Deadline(time.monotonic() - 5, 3.0, whole=4.0)
    assert part.limit == 4.0
    assert part.left < 0
    assert Deadline(time.monotonic(), 3.0).limit == 3.0
