"""`repairkit init` writes a project file with which the next command runs as it stands."""

from __future__ import annotations

import json
import shlex
import shutil
import tomllib
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import repairkit as kit
from repairkit.cli.commands import init
from repairkit.core.errors import SettingsError
from repairkit.data.given import as_data
from repairkit.data.preprocessing import Preprocessing
from repairkit.data.project import read_project
from repairkit.jobs.look.starting import Proposal, preprocessing_words, toml_value
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
SAMPLE = Path(__file__).parents[2] / "samples/digits"
DATA = ("--data", "digits.npz")


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A quarter of the packaged sample without its settings, as a newcomer has one."""
    shutil.copy(SAMPLE / "model.onnx", tmp_path)
    with np.load(SAMPLE / "digits.npz") as data:
        np.savez(tmp_path / "digits.npz", **{name: array[::4] for name, array in data.items()})
    return tmp_path


def run_next(repairkit: Command, answer: Answer, *more: str) -> Answer:
    """The command that `init` says comes next, as it stands."""
    (line,) = (line for line in answer.out.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words[0] == "repairkit"
    return repairkit(*words[1:], *more)


def test_a_wrong_scale_and_order_are_mended_and_the_next_command_runs(
    repairkit: Command, digits: Path
) -> None:
    wrong = ("--scale", "1/255", "--mean", "0.5", "--classes", "9,8,7,6,5,4,3,2,1,0")
    answer = repairkit("init", "model.onnx", *DATA, *wrong, "--yes")
    assert answer.code == 0, answer.err
    project = tomllib.loads((digits / "repairkit.toml").read_text())
    assert project["model"] == "model.onnx"
    assert project["data"] == "digits.npz"
    assert project["classes"] == list("0123456789")
    assert project["groups"] == ["polarity"]
    scored = run_next(repairkit, answer)
    assert scored.code == 0, scored.err
    assert "the model is right on 8" in scored.err


def test_the_api_begins_a_project_too(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits)
    begun = kit.init("model.onnx", "digits.npz")
    assert begun.next_commands[0] == "repairkit score"
    settings = read_project(begun.project_file)
    assert settings.groups == ("polarity",)


def test_a_doubt_that_stays_is_told_and_the_next_command_shows_it(
    repairkit: Command, digits: Path
) -> None:
    with np.load(digits / "digits.npz") as data:
        arrays = dict(data)
    arrays["y"] = np.random.default_rng(0).permutation(arrays["y"])
    np.savez(digits / "digits.npz", **arrays)
    answer = repairkit("init", "model.onnx", *DATA)
    assert answer.code == 0, answer.err
    assert "note: the preprocessing is doubtful" in answer.out
    shown = run_next(repairkit, answer)
    assert shown.code == 0, shown.err


def test_a_file_that_is_there_stays_unless_forced(repairkit: Command, digits: Path) -> None:
    (digits / "repairkit.toml").write_text("seed = 7\n")
    answer = repairkit("init", "model.onnx", *DATA)
    assert answer.code == 1
    assert answer.err.splitlines()[-1].endswith(
        "repairkit.toml: exists already; replace it with --force, or name another folder with -o"
    )
    assert (digits / "repairkit.toml").read_text() == "seed = 7\n"
    answer = repairkit("init", "model.onnx", *DATA, "--force", "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["next"] == ["repairkit score", "repairkit patch --fairness"]
    assert "seed" not in tomllib.loads((digits / "repairkit.toml").read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.onnx", "--data", "no.csv"), "no.csv: does not exist"),
        (("model.onnx",), "no images were given"),
        (("no.onnx", *DATA), "no.onnx: there is no such file"),
        (("model.onnx", *DATA, "-o", "nowhere"), "nowhere: is no folder"),
        (("model.onnx", *DATA, "--label", "z"), "has no column 'z'"),
        (("model.onnx", "--data", "broken.csv"), "broken.csv: has no column path"),
    ],
)
def test_wrong_data_is_one_line_and_nothing_is_written(
    repairkit: Command, digits: Path, words: tuple[str, ...], message: str
) -> None:
    (digits / "broken.csv").write_text("file,label\na.png,1\n")
    answer = repairkit("init", *words)
    assert answer.code == 1
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not (digits / "repairkit.toml").exists()


def test_answers_at_a_terminal_are_taken_and_wrong_ones_asked_again(
    repairkit: Command, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "_may_ask", lambda *_: True)
    monkeypatch.setattr("sys.stdin", StringIO("grup\nnone\n"))
    (project.folder / "repairkit.toml").unlink()
    answer = repairkit("init", project.model, "--data", project.data, "-o", project.folder)
    assert answer.code == 0, answer.err
    assert "there is no column 'grup'; choose group" in answer.err
    assert "group: 2 values (a 80, b 40)" in answer.err
    assert read_project(project.folder / "repairkit.toml").groups == ()
    assert f"next: cd {project.folder} && repairkit score" in answer.out


def test_data_in_memory_have_no_path_to_write(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits)
    data = (np.zeros((4, 8, 8), np.uint8), np.zeros(4, int))
    settings = kit.Settings(data=as_data(data))
    with pytest.raises(SettingsError, match="save them"):
        kit.init("model.onnx", settings=settings)
    assert not (digits / "repairkit.toml").exists()


NAME = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
NUMBER = st.floats(-4, 4, allow_nan=False)
PREPARED = st.builds(
    Preprocessing,
    resize=st.none() | st.integers(1, 99) | st.tuples(st.integers(1, 99), st.integers(1, 99)),
    color=st.sampled_from([None, "bgr"]),
    scale=st.sampled_from([1.0, 1 / 255, 1 / 127.5, 0.3]),
    mean=st.lists(NUMBER, max_size=3).map(tuple),
    std=st.lists(st.floats(0.1, 4), max_size=3).map(tuple),
)


@given(NAME, st.lists(NAME, max_size=3, unique=True), PREPARED, st.dictionaries(NAME, NAME))
def test_what_is_written_is_what_is_read(
    label: str, classes: list[str], prepared: Preprocessing, inputs: dict[str, str]
) -> None:
    folder = Path("/p")
    settings = kit.Settings(
        data=folder / "d.npz", label=label, class_names=tuple(classes), preprocessing=prepared,
        inputs=inputs, columns=(1, 3), seed=5, threshold=0.25,
    )  # fmt: skip
    proposal = Proposal(
        model=folder / "m.onnx", settings=settings, sentences=(), group_columns=(), doubt=""
    )
    read = tomllib.loads(proposal.toml(folder))
    assert (read["model"], read["data"], read["label"]) == ("m.onnx", "d.npz", label)
    assert read.get("classes", []) == classes
    assert (read["columns"], read["seed"], read["threshold"]) == ("1:3", 5, 0.25)
    assert Preprocessing.from_mapping(read.get("preprocessing", {}), "") == prepared
    assert read.get("inputs", {}) == inputs


def test_no_value_is_written_that_no_project_file_could_hold() -> None:
    for value in (float("nan"), float("inf"), {"a": 1}, None):
        with pytest.raises(TypeError):
            toml_value(value)
    assert preprocessing_words(Preprocessing(scale=1 / 255)) == {"scale": "1/255"}
