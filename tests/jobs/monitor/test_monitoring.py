"""Promises on later images: what counts, what is refused, and that many looks say what one says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import repairkit
from repairkit.core.errors import RunFolderError, SettingsError, VerificationError
from repairkit.formats.looks.monitor_file import monitor_text, outcomes_of, read_monitor
from repairkit.formats.patch_file import claim_digest
from repairkit.jobs.monitor.monitored import standings_of
from repairkit.jobs.monitor.promised import PromisedFigure, for_each_group, read_floor
from repairkit.jobs.runs.claiming import locked_file
from tests import models
from tests.conftest import Answer, Project, write_project
from tests.running import run

Command = Callable[..., Answer]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a repaired model, made once."""
    project = write_project(tmp_path_factory.mktemp("made"))
    out = project.folder / "repaired.onnx"
    repairkit.patch(project.model, project.data, out=out, remove=["conv:1"])
    return project.folder


@pytest.fixture
def patched(made: Path, tmp_path: Path) -> Path:
    """A repaired model with its patch file, in a folder of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "project")) / "repaired.onnx"


def later(model: Path, place: Path, n: int, *, right: float, seed: int = 0, **rates: float) -> Path:
    """Images of which so many are right, by what ONNX Runtime itself answers; groups a and b."""
    rng = np.random.default_rng(seed)
    x = models.images(n, seed=1000 + seed)
    answers = run(onnx.load(model), {"image": x})[0].argmax(1)
    group = np.where(np.arange(n) % 3 == 0, "b", "a")
    share = np.array([rates.get(name, right) for name in group])
    y = np.where(rng.random(n) < share, answers, (answers + 1) % 3)
    np.savez(place, x=x, y=y, group=group)
    return place


def rows_of(monitored: Any) -> dict[str, Any]:
    return {row["figure"]: row for row in monitored.to_json()["figures"]}


def without_times(document: dict[str, Any]) -> list[dict[str, Any]]:
    rows = json.loads(json.dumps(document["figures"]))
    for row in rows:
        del row["by_look"]
        if row["alarm"]:
            del row["alarm"]["look"], row["alarm"]["time"]
    return rows


def test_floors_are_the_lower_ends_that_the_report_confirmed(patched: Path, tmp_path: Path) -> None:
    data = later(patched, tmp_path / "new.npz", 90, right=0.9)
    report = json.loads(patched.with_suffix(".report.json").read_text())["evaluations"]
    seen = repairkit.monitor(patched, data)
    rows = rows_of(seen)
    after = report["after"]
    assert rows["accuracy"]["floor"] == after["metrics"]["accuracy"]["ci_low"]
    assert rows["accuracy"]["stated"] == after["metrics"]["accuracy"]["value"]
    for name in "ab":
        assert rows[f"accuracy:{name}"]["floor"] == after["groups"][name]["ci_low"]
    assert set(rows) == {"accuracy", "accuracy:a", "accuracy:b"}
    gains = rows_of(
        repairkit.monitor(
            patched, data, original=patched.with_name("model.onnx"), state=tmp_path / "g.json"
        )
    )
    for name in ("accuracy", "accuracy:a", "accuracy:b"):
        assert gains[f"gain:{name}"]["floor"] == report["difference"][name]["ci_low"]


def test_outcomes_are_what_the_models_answer(patched: Path, tmp_path: Path) -> None:
    """The digests order the images; each outcome is found by its image."""
    data = later(patched, tmp_path / "new.npz", 60, right=0.7)
    original = patched.with_name("model.onnx")
    seen = repairkit.monitor(
        patched, data, floors=["accuracy=0.5", "accuracy:b=0.5", "recall:2=0.5",
                               "gain:accuracy=-0.5"],
        original=original, groups="group",
    )  # fmt: skip
    held = np.load(data)
    after, before = (
        run(onnx.load(path), {"image": held["x"]})[0].argmax(1) == held["y"]
        for path in (patched, original)
    )
    rows = rows_of(seen)
    for name, expected in (
        ("accuracy", after),
        ("accuracy:b", after[held["group"] == "b"]),
        ("recall:2", after[held["y"] == 2]),
        ("gain:accuracy", after.astype(float) - before),
    ):
        assert rows[name]["n_images"] == len(expected)
        assert rows[name]["value"] == pytest.approx(expected.mean(), abs=1e-12)


def test_many_looks_in_order_say_what_one_look_says(patched: Path, tmp_path: Path) -> None:
    data = later(patched, tmp_path / "all.npz", 240, right=0.2, b=0.0)
    held = dict(np.load(data))
    for number, rows in enumerate(np.array_split(np.arange(240), 5)):
        part = tmp_path / f"{number}.npz"
        np.savez(part, **{name: array[rows] for name, array in held.items()})
        words: dict[str, Any] = {"in_order": True, "original": patched.with_name("model.onnx")}
        many = repairkit.monitor(patched, part, state=tmp_path / "many.json", **words)
    one = repairkit.monitor(patched, data, state=tmp_path / "one.json", **words)
    assert many.document["looks"][-1]["in_order"]
    assert len(many.document["looks"]) == 5
    assert without_times(many.to_json()) == without_times(one.to_json())
    assert many.verdict == one.verdict == "fails"
    for name in rows_of(one):
        a, b = (outcomes_of(each.document, name)[0] for each in (many, one))
        assert a.tolist() == b.tolist()


def test_a_look_does_not_depend_on_the_order_of_its_images(patched: Path, tmp_path: Path) -> None:
    """Else a folder, which is sorted by class, would look like a fall where a hard class begins."""
    data = later(patched, tmp_path / "all.npz", 120, right=0.6)
    held = dict(np.load(data))
    by_class = np.argsort(held["y"], kind="stable")
    np.savez(tmp_path / "sorted.npz", **{name: array[by_class] for name, array in held.items()})
    one, other = (
        repairkit.monitor(patched, tmp_path / f"{name}.npz", state=tmp_path / f"{name}.json")
        for name in ("all", "sorted")
    )
    assert one.document["looks"][0]["images"] == other.document["looks"][0]["images"]
    assert without_times(one.to_json()) == without_times(other.to_json())


def test_an_image_counts_once(patched: Path, tmp_path: Path) -> None:
    data = later(patched, tmp_path / "new.npz", 40, right=0.9)
    held = dict(np.load(data))
    twice = np.r_[np.arange(40), np.arange(40)]
    np.savez(tmp_path / "twice.npz", **{name: array[twice] for name, array in held.items()})
    first = repairkit.monitor(patched, tmp_path / "twice.npz")
    assert (first.n_new, first.n_seen, first.n_images) == (40, 40, 40)
    before = first.state.read_bytes()
    again = repairkit.monitor(patched, data)
    assert (again.n_new, again.n_seen, again.n_images) == (0, 40, 40)
    assert first.state.read_bytes() == before
    assert without_times(first.to_json()) == without_times(again.to_json())


def test_a_promise_that_fails_ends_with_4_and_stays_failed(
    repairkit: Command, patched: Path, tmp_path: Path
) -> None:
    good = later(patched, tmp_path / "good.npz", 60, right=1.0)
    bad = later(patched, tmp_path / "bad.npz", 90, right=0.1, seed=1)
    words = ("monitor", patched, "--state", "watch.json")
    first = repairkit(*words, "--data", good)
    assert (first.code, first.err) == (0, "")
    assert "The promise surely held so far" in first.out
    told = repairkit(*words, "--data", bad, "--json", "--prometheus-file", "watch.prom")
    assert told.code == 4
    document = json.loads(told.out)
    assert document["verdict"] == "fails"
    alarm = next(row for row in document["figures"] if row["figure"] == "accuracy")["alarm"]
    assert alarm["look"] == 2
    assert 60 < alarm["image"] <= 150
    assert abs(alarm["since"] - 61) <= 50
    more = later(patched, tmp_path / "more.npz", 60, right=1.0, seed=2)
    last = repairkit(*words, "--data", more)
    assert last.code == 4
    assert "surely fell below the floor" in last.out
    assert "▁" in last.out
    families = text_string_to_metric_families(Path("watch.prom").read_text())
    samples = {
        (sample.name, sample.labels.get("figure")): sample
        for family in families
        for sample in family.samples
    }
    assert samples["repairkit_monitor_fails", "accuracy"].value == 1.0
    assert samples["repairkit_monitor_images", "accuracy"].value == 150
    assert samples["repairkit_monitor_fails", "accuracy"].labels["model"] == "repaired.onnx"
    row = next(row for row in document["figures"] if row["figure"] == "accuracy")
    for name, key in (("floor", "floor"), ("value", "value"), ("low", "ci_low")):
        assert samples[f"repairkit_monitor_{name}", "accuracy"].value == row[key]


def test_settings_that_are_not_given_are_those_of_the_promise(
    project: Project, tmp_path: Path
) -> None:
    """The model and its patch file suffice, where no project file lies beside them."""
    out = project.folder / "repaired.onnx"
    repairkit.patch(project.model, project.data, out=out, remove=["conv:1"], scale="1/64")
    away = tmp_path / "away"
    away.mkdir()
    for name in ("repaired.onnx", "repaired.patch.json"):
        (away / name).write_bytes((project.folder / name).read_bytes())
    x = np.random.default_rng(5).integers(0, 256, (50, 6, 6, 2), np.uint8)
    feeds = {"image": (x.transpose(0, 3, 1, 2) / 64).astype(np.float32)}
    y = run(onnx.load(out), feeds)[0].argmax(1)
    np.savez(away / "new.npz", x=x, y=y, group=np.repeat(["a", "b"], 25))
    seen = repairkit.monitor(away / "repaired.onnx", away / "new.npz")
    assert seen.document["read_as"]["preprocessing"]["scale"] == 1 / 64
    assert {name: row["value"] for name, row in rows_of(seen).items()} == {
        "accuracy": 1.0, "accuracy:a": 1.0, "accuracy:b": 1.0,
    }  # fmt: skip


def resealed(patched: Path, **changes: Any) -> None:
    """The patch file with other parts of its report, and a seal that fits."""
    path = patched.with_suffix(".patch.json")
    document = {**json.loads(path.read_text()), **changes}
    body = {name: value for name, value in document.items() if name != "seal"}
    path.write_text(json.dumps({**body, "seal": claim_digest(body)}))


def test_only_shares_of_right_answers_are_watched_and_the_rest_is_told(
    patched: Path, tmp_path: Path
) -> None:
    data = later(patched, tmp_path / "new.npz", 30, right=0.9)
    report = json.loads(patched.with_suffix(".patch.json").read_text())
    after = report["evaluations"]["after"]
    metrics = {
        "clean_accuracy": {"value": 0.9, "ci_low": 0.8, "ci_high": 0.95},
        "recall:2": {"value": 0.7, "ci_low": 0.6, "ci_high": 0.8},
        "recall:1": {"value": 0.1, "ci_low": 0.0, "ci_high": 0.2},
        "recall:0": {"value": None, "ci_low": None, "ci_high": None},
        "loss": {"value": 0.7, "ci_low": 0.6, "ci_high": 0.8},
    }
    changed = {**report["evaluations"], "after": {**after, "metrics": metrics}}
    # Groups that were found belong to the images that chose.
    resealed(patched, evaluations=changed, read={**report["read"], "slices": {}})
    seen = repairkit.monitor(patched, data, state=tmp_path / "a.json", groups="auto")
    floors = {name: row["floor"] for name, row in rows_of(seen).items()}
    assert floors == {"accuracy": 0.8, "recall:2": 0.6}
    told = " ".join(seen.notes)
    for expected in ("recall of 1 is not", "recall of 0 is not", "loss is not", "groups are not"):
        assert expected in told
    resealed(patched, evaluations={**changed, "after": {"metrics": {}, "groups": {}}})
    with pytest.raises(SettingsError, match="promises no share of right answers"):
        repairkit.monitor(patched, data, state=tmp_path / "b.json")
    resealed(patched, evaluations={**changed, "after": {"metrics": {"accuracy": 0.9}}})
    with pytest.raises(RunFolderError, match="its report is broken"):
        repairkit.monitor(patched, data, state=tmp_path / "b.json")


MARKS = {False: "01.", True: "-=+."}


@settings(max_examples=20)
@given(st.data(), st.integers(1, 120))
def test_however_the_images_are_shared_out_over_looks_they_say_the_same(
    data: st.DataObject, n: int
) -> None:
    figures = {"accuracy": 0.9, "accuracy:a": 0.6, "gain:accuracy": -0.1}
    texts = {
        name: data.draw(st.text(MARKS["gain" in name], min_size=n, max_size=n)) for name in figures
    }
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))

    def standings(ends: list[int]) -> list[dict[str, Any]]:
        looks = [
            {"time": "t", "outcomes": {name: text[i:j] for name, text in texts.items()}}
            for i, j in zip([0, *ends], [*ends, n], strict=True)
        ]
        rows = [{"figure": k, "floor": v, "stated": None} for k, v in figures.items()]
        document: Any = {"confidence": 0.95, "figures": rows, "looks": looks}
        return without_times({"figures": [one.to_json(3) for one in standings_of(document)]})

    assert standings(cuts) == standings([])


def test_names_of_classes_are_not_numbered_anew_where_a_look_lacks_one(
    patched: Path, tmp_path: Path
) -> None:
    """By hand, without the patch file's names: `b` must not become class 0."""
    names = np.array(["a", "b", "c"])
    words: dict[str, Any] = {"floors": "accuracy=0.5", "state": tmp_path / "watch.json"}
    looks = []
    for seed in (0, 4):
        held = dict(np.load(later(patched, tmp_path / "new.npz", 60, right=0.9, seed=seed)))
        looks.append((held["x"], held["y"], names[held["y"]]))
    x, y, named = looks[0]
    assert len(set(y.tolist())) == 3
    first = repairkit.monitor(patched, (x, named), **words)
    right = run(onnx.load(patched), {"image": x})[0].argmax(1) == y
    assert rows_of(first)["accuracy"]["value"] == pytest.approx(right.mean())
    x, y, named = looks[1]
    lacking = y > 0
    for state in (words["state"], tmp_path / "fresh.json"):
        with pytest.raises(SettingsError, match=r"nothing tells which is which.* --classes"):
            repairkit.monitor(patched, (x[lacking], named[lacking]), **{**words, "state": state})
    seen = repairkit.monitor(
        patched, (x[lacking], named[lacking]), class_names=names.tolist(), **words
    )
    right = run(onnx.load(patched), {"image": x[lacking]})[0].argmax(1) == y[lacking]
    assert seen.standings[0].by_look[1] == pytest.approx(right.mean())
    assert "looks" in repr(seen)
    assert len(seen.to_pandas()) == 1
    assert "The promise surely held so far" in seen._repr_html_()


def test_groups_that_are_missing_or_new_are_told(patched: Path, tmp_path: Path) -> None:
    data = later(patched, tmp_path / "new.npz", 40, right=0.9)
    held = dict(np.load(data))
    np.savez(tmp_path / "c.npz", x=held["x"], y=held["y"], group=np.repeat(["a", "c"], 20))
    np.savez(tmp_path / "none.npz", x=held["x"], y=held["y"])
    with_new = repairkit.monitor(patched, tmp_path / "c.npz", state=tmp_path / "c.json")
    assert "nothing was promised of c" in " ".join(with_new.notes)
    assert rows_of(with_new)["accuracy:b"]["n_images"] == 0
    without = repairkit.monitor(patched, tmp_path / "none.npz", state=tmp_path / "none.json")
    assert "groups are not watched: the images have no column group" in " ".join(without.notes)
    assert set(rows_of(without)) == {"accuracy"}
    # Once it is settled what is watched, it stays so.
    with pytest.raises(repairkit.core.errors.DataError, match="group"):
        repairkit.monitor(patched, tmp_path / "none.npz", state=tmp_path / "c.json")


def test_the_floor_of_the_worst_group_is_that_of_each_group(patched: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"floors": "worst_group_accuracy=0.6", "groups": "group"}
    first = later(patched, tmp_path / "first.npz", 60, right=1.0)
    seen = repairkit.monitor(patched, first, **words)
    assert {name: row["floor"] for name, row in rows_of(seen).items()} == {
        "accuracy:a": 0.6, "accuracy:b": 0.6,
    }  # fmt: skip
    second = later(patched, tmp_path / "second.npz", 120, right=1.0, b=0.0, seed=1)
    held = dict(np.load(second))
    alone = held["group"] == "b"
    np.savez(second, **{name: array[alone] for name, array in held.items()})
    failed = repairkit.monitor(patched, second, **words)
    assert {name: row["verdict"] for name, row in rows_of(failed).items()} == {
        "accuracy:a": "holds", "accuracy:b": "fails",
    }  # fmt: skip


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "other floors": (("--floor", "accuracy=0.2"), "floors was"),
    "other confidence": (("--confidence", "0.9"), "confidence was 0.95, and now it is 0.9"),
    "other preprocessing": (("--scale", "1/2"), "preprocessing was"),
    "a gain without the original": (("--floor", "gain:accuracy=0"), "name it with --original"),
    "no floor": (("--floor", "accuracy"), "write FIGURE=NUMBER"),
    "a floor of nothing": (("--floor", "loss=0.2"), "loss cannot be watched"),
    "a floor that always holds": (("--floor", "accuracy=0"), "between 0 and 1"),
    "no class": (("--floor", "recall:cat=0.5", "--state", "n.json"), "no class 'cat'"),
    "a folder": (("--state", "."), "is a folder"),
    "one file for two": (("--prometheus-file", "watch.json"), "is the state, too"),
    "confidence": (("--confidence", "1.5"), "confidence of 1.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_watched_is_one_line(
    case: str, repairkit: Command, patched: Path, tmp_path: Path
) -> None:
    data = later(patched, tmp_path / "new.npz", 30, right=0.9)
    words = ("monitor", patched, "--state", "watch.json", "--data", data)
    assert repairkit(*words).code == 0
    before = Path("watch.json").read_bytes()
    more, expected = REFUSED[case]
    answer = repairkit(*words, *more)
    assert (answer.code, answer.err.count("\n")) == (1, 1), answer.err
    assert expected in answer.err
    assert Path("watch.json").read_bytes() == before
    assert not Path("n.json").exists()
    assert not list(Path().glob("*.lock"))


def test_images_that_made_the_promise_cannot_test_it(repairkit: Command, patched: Path) -> None:
    data = patched.with_name("data.npz")
    answer = repairkit("monitor", patched, "--data", data)
    assert "on which the repair was chosen" in answer.err
    assert "name those that came later" in repairkit("monitor", patched).err
    np.savez("plain.npz", x=models.images(5))
    assert "no array 'y'" in repairkit("monitor", patched, "--data", "plain.npz").err
    alone = repairkit("monitor", patched.with_name("model.onnx"), "--data", data)
    assert "nothing tells what was promised" in alone.err


def test_a_state_of_another_model_and_a_spoiled_one_are_refused(
    patched: Path, tmp_path: Path
) -> None:
    data = later(patched, tmp_path / "new.npz", 30, right=0.9)
    original = patched.with_name("model.onnx")
    seen = repairkit.monitor(patched, data)
    text = seen.state.read_text()
    with pytest.raises(SettingsError, match="the model was"):
        repairkit.monitor(original, data, state=seen.state, floors="accuracy=0.5")
    with pytest.raises(VerificationError, match="is the patch file of another model"):
        repairkit.monitor(original, data, promise=patched.with_suffix(".patch.json"))
    with pytest.raises(VerificationError, match="is not the model that was repaired"):
        repairkit.monitor(patched, data, original=patched)
    for spoiled, error in (
        (text.replace('"confidence": 0.95', '"confidence": 0.96'), VerificationError),
        (text.replace('"schema": 1', '"schema": 9'), RunFolderError),
        ('{"kind": "repairkit report"}', RunFolderError),
        (text[:-20], RunFolderError),
    ):
        seen.state.write_text(spoiled)
        with pytest.raises(error):
            repairkit.monitor(patched, data)
    document = json.loads(text)
    look = document["looks"][0]
    for change in (
        {"looks": [look, look]},
        {"looks": [{**look, "images": look["images"][4:]}]},
        {"looks": [{**look, "outcomes": {**look["outcomes"], "accuracy": "1"}}]},
        {"figures": []},
        {
            "figures": [
                {k: v for k, v in row.items() if k != "stated"} for row in document["figures"]
            ]
        },
        {"confidence": 0.2},
    ):
        seen.state.write_text(monitor_text({**document, **change}))
        with pytest.raises(RunFolderError, match="broken state"):
            repairkit.monitor(patched, data)
    seen.state.write_text(text)
    assert json.loads(monitor_text(read_monitor(seen.state))) == document


def test_one_process_at_a_time_adds_a_look(patched: Path, tmp_path: Path) -> None:
    data = later(patched, tmp_path / "new.npz", 30, right=0.9)
    state = tmp_path / "watch.json"
    with (
        locked_file(state, "--state"),
        pytest.raises(RunFolderError, match=r"is writing into it; .* with --state"),
    ):
        repairkit.monitor(patched, data, state=state)
    assert not state.exists()
    assert repairkit.monitor(patched, data, state=state).n_new == 30
    other = tmp_path / "notes.prom"
    other.write_text("mine")
    with pytest.raises(RunFolderError, match="no file of repairkit's figures"):
        repairkit.monitor(patched, data, state=state, prometheus_file=other)


@given(
    st.sampled_from(["accuracy", "accuracy:a = b", "recall:3", "gain:accuracy:x"]),
    st.floats(0.01, 0.99).map(lambda number: round(number, 4)),
    st.sampled_from(["=", ">=", " >= "]),
)
def test_floors_are_read_as_they_are_written(name: str, floor: float, sign: str) -> None:
    given = read_floor(f"{name}{sign}{floor}")
    assert given == PromisedFigure(name=name, floor=floor)
    assert given.off_scale(given.scaled) == pytest.approx(floor, abs=1e-12)
    assert for_each_group([given], ["x"]) == (given,)
    with pytest.raises(SettingsError, match="two floors"):
        for_each_group([given, given], ["x"])
