"""A question to kept rows: the run's own is answered as the run did, bit for bit, and so on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import repairkit
from repairkit.core.errors import DataError, RunFolderError, SettingsError
from repairkit.core.game import Outcomes, Round
from repairkit.core.scores import Scores
from repairkit.data.parts import PartPlan
from repairkit.engine.model_game import ModelGame
from repairkit.formats.rows_file import read_rows
from repairkit.jobs.score.scored import Scored
from tests.conftest import Project, write_project

N_ROWS = 1_500
FIELDS = ("values", "std_errors", "ci_low", "ci_high", "samples", "decided")


def settings_of(project: Project, **more: object) -> repairkit.Settings:
    settings = repairkit.Settings(
        data=project.data,
        groups=("group",),
        parts=PartPlan(calibration="all", selection="all", test="none"),
    )
    return replace(settings, **more)  # type: ignore[arg-type]


def scored(
    project: Project,
    out: Path | None,
    *,
    metric: str | tuple[str, ...] = "accuracy",
    method: str = "regression",
    rows: int = N_ROWS,
    options: dict[str, object] | None = None,
    **more: object,
) -> Scored:
    return repairkit.score(
        project.model,
        metric=metric,
        method=method,
        settings=settings_of(project, **more),
        max_evaluations=rows,
        options=options or {},
        out=out,
        keep_rows=out is not None,
    )


def assert_same(one: Scores, other: Scores) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    assert one.interval == other.interval


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return write_project(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("method", ["regression", "repair"])
@pytest.mark.parametrize("metric", ["accuracy", ("group_loss", "recall:*"), "worst_group_accuracy"])
def test_the_runs_own_question_has_the_runs_own_answer(
    whole: Project, tmp_path: Path, workers: int, method: str, metric: str
) -> None:
    rows = 300 if metric == "worst_group_accuracy" else N_ROWS
    run = scored(whole, tmp_path / "run", metric=metric, method=method, rows=rows, workers=workers)
    plain = scored(whole, None, metric=metric, method=method, rows=rows, workers=workers)
    assert_same(run.scores, plain.scores)  # keeping rows changes nothing
    asked = repairkit.ask(tmp_path / "run")
    assert_same(asked.scores, run.scores)
    assert asked.document["metrics"] == run.document["metrics"]
    assert asked.document["statistics"] == run.document["statistics"]
    assert asked.table() == run.table()


def test_any_number_of_workers_keeps_the_same_rows(whole: Project, tmp_path: Path) -> None:
    for workers in (1, 2):
        scored(whole, tmp_path / str(workers), workers=workers)
    for name in ("parts", "coalitions", "images", "outputs", "ends"):
        one, two = ((tmp_path / n / "rows" / f"{name}.npy").read_bytes() for n in ("1", "2"))
        assert one == two


@pytest.mark.parametrize("asked", ["loss", "group_accuracy", "accuracy", "recall:1"])
def test_another_question_is_answered_as_a_run_of_these_rows_would(
    whole: Project, tmp_path: Path, asked: str
) -> None:
    """Accuracy and loss draw images alike, so that a run by the other has the same rows."""
    first = "loss" if asked == "accuracy" else "accuracy"
    scored(whole, tmp_path / "run", metric=first)
    found = repairkit.ask(tmp_path / "run", metric=asked).scores
    if asked in ("loss", "accuracy"):
        assert_same(found, scored(whole, None, metric=asked).scores)
        return
    # The rows are drawn evenly whatever is asked: a second metric of the same run.
    beside = repairkit.ask(tmp_path / "run", metric=(first, asked)).scores
    np.testing.assert_allclose(found.values[:, 0], beside.values[:, 1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.std_errors[:, 0], beside.std_errors[:, 1], rtol=1e-4)


def test_a_metric_that_stood_beside_the_first_can_be_asked_first(
    whole: Project, tmp_path: Path
) -> None:
    run = scored(whole, tmp_path / "run", metric=("accuracy", "group_loss"))
    found = repairkit.ask(tmp_path / "run", metric="group_loss").scores
    np.testing.assert_allclose(found.values[:, 0], run.scores.values[:, 1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.std_errors[:, 0], run.scores.std_errors[:, 1], rtol=1e-4)


@pytest.mark.parametrize("method", ["regression", "repair"])
def test_some_images_are_those_of_the_run_cut_to_them(
    whole: Project, tmp_path: Path, method: str
) -> None:
    run = scored(whole, tmp_path / "run", method=method)
    stored = np.load(whole.data)
    of_b = np.flatnonzero(stored["group"] == "b")
    expected = run.on(of_b)
    assert expected is not None
    numbers = ",".join(map(str, of_b.tolist()))
    for question in ({"where": "group == 'b'"}, {"images": numbers}, {"images": of_b.tolist()}):
        asked = repairkit.ask(tmp_path / "run", **question)  # type: ignore[arg-type]
        assert_same(asked.scores, expected)
        assert asked.document["asked"]["n_images"] == len(of_b)


def test_a_class_is_the_images_of_that_label(whole: Project, tmp_path: Path) -> None:
    scored(whole, tmp_path / "run")
    by_class = repairkit.ask(tmp_path / "run", class_name=1)
    by_label = repairkit.ask(tmp_path / "run", where="label == 1")
    recall = repairkit.ask(tmp_path / "run", metric="recall:1")
    assert_same(by_class.scores, by_label.scores)
    ends = by_class.document["metrics"]["accuracy"]
    assert ends == pytest.approx(recall.document["metrics"]["recall:1"])
    gap = abs(by_class.scores.values[:, 0] - recall.scores.values[:, 0])
    assert (gap <= 3 * recall.scores.std_errors[:, 0]).all()


def test_groups_may_be_other_columns_than_those_of_the_run(whole: Project, tmp_path: Path) -> None:
    scored(whole, tmp_path / "run")
    settings = settings_of(whole, groups=("label",))
    expected = repairkit.score(
        whole.model, metric=("accuracy", "group_accuracy"), method="regression",
        settings=settings, max_evaluations=N_ROWS,
    )  # fmt: skip
    asked = repairkit.ask(tmp_path / "run", metric="group_accuracy", groups="label")
    names = asked.document["metrics"]["group_accuracy"]
    assert names == pytest.approx(expected.document["metrics"]["group_accuracy"])
    assert asked.document["settings"]["groups"] == ["label"]


@pytest.mark.parametrize("metric", ["accuracy", "worst_group_accuracy"])
def test_rows_of_all_images_answer_any_metric(whole: Project, tmp_path: Path, metric: str) -> None:
    scored(whole, tmp_path / "run", metric="worst_group_accuracy", rows=300)
    asked = repairkit.ask(tmp_path / "run", metric=metric, where="label != 0")
    about = read_rows(tmp_path / "run").scored.annotations
    kept = np.flatnonzero(about.labels != 0)
    ends = read_rows(tmp_path / "run").ends[0][kept].argmax(axis=1) == about.labels[kept]
    assert about.groups is not None
    groups = about.groups[kept]
    right = ends.mean() if metric == "accuracy" else min(ends[groups == g].mean() for g in (0, 1))
    assert asked.document["metrics"][metric]["all"] == pytest.approx(right)


def test_a_users_own_metric_judges_kept_outputs(
    whole: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "def hits(outputs, labels, attributes):\n    return 1.0 * (outputs.argmax(1) == labels)\n"
    )
    monkeypatch.chdir(tmp_path)
    run = scored(whole, tmp_path / "run")
    asked = repairkit.ask(tmp_path / "run", metric="mine:hits")
    np.testing.assert_allclose(asked.scores.values, run.scores.values, rtol=0, atol=1e-6)
    scored(whole, tmp_path / "own", metric="mine:hits")
    with pytest.raises(SettingsError, match="add --trust"):
        repairkit.ask(tmp_path / "own")
    assert_same(repairkit.ask(tmp_path / "own", trust=True).scores,
                repairkit.ask(tmp_path / "own", metric="mine:hits").scores)  # fmt: skip


def test_a_few_rows_say_so(whole: Project, tmp_path: Path) -> None:
    scored(whole, tmp_path / "run", rows=N_ROWS)
    one = repairkit.ask(tmp_path / "run", images="7", metric="loss")
    n_rows = one.document["asked"]["n_rows"]
    assert 0 < n_rows < 32
    assert np.isinf(one.scores.std_errors).all()
    assert any("32 are needed" in note for note in one.document["notes"])
    some = repairkit.ask(tmp_path / "run", images="0-9", metric="loss")
    assert np.isfinite(some.scores.std_errors).all()


def test_the_top_by_another_metric_of_the_same_rows_is_left_out(
    whole: Project, tmp_path: Path
) -> None:
    scored(whole, tmp_path / "run", metric=("recall:1", "accuracy"))
    accuracy = repairkit.ask(tmp_path / "run", metric="accuracy").table()
    asked = repairkit.ask(
        tmp_path / "run", metric="recall:1", exclude_top_of="accuracy", exclude_share=0.25
    )
    assert asked.document["excluded"]["filters"] == [accuracy[0]["filter"]]
    assert {row["filter"] for row in asked.table()} == {row["filter"] for row in accuracy[1:]}
    within = repairkit.score(
        whole.model, metric=("recall:1", "accuracy"), method="regression", exclude_share=0.25,
        settings=settings_of(whole), max_evaluations=N_ROWS, exclude_top_of="accuracy",
    )  # fmt: skip
    best = max(range(4), key=lambda player: within.scores.values[player, 1])
    assert within.excluded == {best}
    assert len(within.table()) == 3


@pytest.mark.parametrize(
    ("question", "kind", "said"),
    [
        ({"metric": "worst_group_accuracy"}, SettingsError, "judges images together"),
        ({"metric": "accuracies"}, SettingsError, "did you mean accuracy"),
        ({"metric": "robustness"}, Exception, "repairkit attack"),
        ({"metric": "mean_absolute_error"}, SettingsError, "for regressors"),
        ({"where": "age > 3"}, SettingsError, "the columns are label, group"),
        ({"where": "group == 'c'"}, DataError, "none of the 120 scored images"),
        ({"class_name": "9"}, SettingsError, "there is no such class"),
        ({"images": "120"}, SettingsError, "the data has 120, numbered from 0 to 119"),
        ({"images": "no-such-file"}, SettingsError, "neither numbers such as"),
        ({"groups": "races", "metric": "group_accuracy"}, DataError, "unknown group column"),
        ({"exclude_top_of": "accuracy", "exclude_share": 1.5}, SettingsError, "between 0 and 1"),
        ({"metric": "group_accuracy", "where": "group == 'a'"}, DataError, "is of group 'b'"),
    ],
)
def test_what_rows_cannot_answer_is_told_in_one_line(
    whole: Project, tmp_path: Path, question: dict[str, str], kind: type[Exception], said: str
) -> None:
    scored(whole, tmp_path / "run", rows=400)
    with pytest.raises(kind, match=said) as caught:
        repairkit.ask(tmp_path / "run", **question)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_image_that_was_not_scored_is_told(whole: Project, tmp_path: Path) -> None:
    parts = PartPlan(calibration="all", selection="0.5", test="0.5")
    scored(whole, tmp_path / "run", rows=400, parts=parts)
    numbers = read_rows(tmp_path / "run").scored.numbers
    other = next(n for n in range(120) if n not in numbers)
    with pytest.raises(DataError, match=f"no row saw image {other}: the run scored 60 images"):
        repairkit.ask(tmp_path / "run", images=str(other))


@pytest.mark.parametrize("method", ["permutation", "exact", "leave-one-out", "weight-norm"])
def test_methods_without_rows_say_so_before_anything_is_computed(
    whole: Project, tmp_path: Path, method: str
) -> None:
    with pytest.raises(SettingsError, match="rows are kept by regression, repair and auto"):
        scored(whole, tmp_path / "run", method=method)
    assert not (tmp_path / "run").exists()


def test_auto_says_so_where_it_takes_another_method(whole: Project, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="auto, which takes exact here"):
        scored(whole, tmp_path / "run", method="auto")


def test_a_run_without_rows_says_what_would_have_them(whole: Project, tmp_path: Path) -> None:
    repairkit.score(whole.model, settings=settings_of(whole), out=tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"kept no rows.*--keep-rows"):
        repairkit.ask(tmp_path / "run")


def test_rows_need_a_folder(whole: Project) -> None:
    with pytest.raises(SettingsError, match="name one with out"):
        repairkit.score(
            whole.model, settings=settings_of(whole), method="regression", keep_rows=True
        )


def test_rows_of_another_run_are_refused(whole: Project, tmp_path: Path) -> None:
    scored(whole, tmp_path / "one", seed=1)
    scored(whole, tmp_path / "two", seed=2)
    for name in ("parts", "coalitions", "images", "outputs", "ends"):
        source = tmp_path / "two" / "rows" / f"{name}.npy"
        source.replace(tmp_path / "one" / "rows" / f"{name}.npy")
    with pytest.raises(RunFolderError, match="not those of the run's checkpoint"):
        repairkit.ask(tmp_path / "one")


def test_a_share_of_the_disk_is_not_overrun(
    whole: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repairkit.jobs.ask import keeping

    free = type("Usage", (), {"free": 10_000})()
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: free)
    with pytest.raises(RunFolderError, match="1,500 rows would take about 25 kB and 10 kB are"):
        scored(whole, tmp_path / "run")


@pytest.mark.parametrize("method", ["regression", "repair"])
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_run_that_was_interrupted_keeps_its_rows(
    whole: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stop: int
) -> None:
    expected = scored(whole, None, method=method)
    play, n_played = ModelGame.play, 0

    def play_until(self: ModelGame, round: Round) -> Outcomes:
        nonlocal n_played
        n_played += 1
        if n_played > stop + 1:  # the ends come first
            raise KeyboardInterrupt
        return play(self, round)

    monkeypatch.setattr(ModelGame, "play", play_until)
    with pytest.raises(KeyboardInterrupt):
        scored(whole, tmp_path / "run", method=method)
    monkeypatch.setattr(ModelGame, "play", play)
    with pytest.raises(RunFolderError, match="is not finished"):
        repairkit.ask(tmp_path / "run")
    resumed = repairkit.score(
        whole.model,
        metric="accuracy",
        method=method,
        settings=settings_of(whole),
        max_evaluations=N_ROWS,
        out=tmp_path / "run",
        resume=True,
    )
    assert_same(resumed.scores, expected.scores)
    assert_same(repairkit.ask(tmp_path / "run").scores, expected.scores)
    assert resumed.document["rows"]["rows"] == len(read_rows(tmp_path / "run").coalitions)


def test_a_finished_run_that_goes_on_keeps_all_its_rows(whole: Project, tmp_path: Path) -> None:
    scored(whole, tmp_path / "run", rows=600)
    longer = repairkit.score(
        whole.model,
        metric="accuracy",
        method="regression",
        settings=settings_of(whole),
        max_evaluations=N_ROWS,
        out=tmp_path / "run",
        resume=True,
    )
    assert_same(repairkit.ask(tmp_path / "run").scores, longer.scores)
    assert longer.document["rows"]["rows"] > 600


def test_a_run_that_kept_no_rows_cannot_begin_to(whole: Project, tmp_path: Path) -> None:
    for keep in (False, True):
        if keep:
            with pytest.raises(RunFolderError, match="kept from the start on"):
                scored(whole, tmp_path / "run", rows=600)
            continue
        repairkit.score(
            whole.model,
            metric="accuracy",
            method="regression",
            settings=settings_of(whole),
            max_evaluations=600,
            out=tmp_path / "run",
        )
