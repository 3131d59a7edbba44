"""The command line and the functions of `repairkit.api` share their words and defaults."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from repairkit import ScoreSettings, Settings, api
from repairkit.api.atlases import AtlasKeywords
from repairkit.api.concept_jobs import DissectKeywords
from repairkit.api.estimating import AskKeywords, ScoreKeywords, Unattended
from repairkit.api.job_settings import JobKeywords, job_settings
from repairkit.api.models import AttackKeywords, DreamKeywords, ExportKeywords
from repairkit.api.proving import VerifyKeywords
from repairkit.api.repairing import PatchKeywords
from repairkit.api.watching import MonitorKeywords
from repairkit.attacks import Pgd, Square
from repairkit.cli import app
from repairkit.core.errors import SettingsError, TargetNotMetError
from repairkit.core.framework import Source
from repairkit.core.scores import Budget
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.estimators.walking.tmab import Tmab
from repairkit.jobs.repair.repair_settings import PatchSettings
from tests.conftest import Project

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

# Options that are about the terminal alone.
PRINTED = {"json", "quiet", "debug", "details", "yes", "help", "exit_code"}
# Options that Python says in the plural, or with the noun that its settings have for it.
OTHER_WORDS = {
    "group": "groups", "class": "class_name", "classes": "class_names", "batch": "batch_size",
    "metric": "metrics", "input": "inputs", "target": "targets", "transfer": "transfers",
    "share": "share_to", "floor": "floors",
    "set": "options", "patch": "patch_file", "range": "pixel_range", "images": "at_most",
    "steps": "n_steps", "queries": "n_queries", "time_limit": "time_limit_seconds",
}  # fmt: skip
# Functions whose command has the name of something else in Python.
OTHER_NAMES = {"list": "listing"}
# Settings of estimators: `score` takes them in `options`, by the same names.
OF_ESTIMATORS = {"top_k", "side", "epsilon", "delta", "truncate_at"}
SETTINGS = (Settings, PartPlan, Preprocessing)
# What each function takes besides its own parameters: keywords, and records of settings that it
# has a parameter for.
TAKES: dict[str, tuple[Any, ...]] = {
    "score": (ScoreKeywords, Unattended),
    "ask": (AskKeywords,),
    "atlas": (AtlasKeywords,),
    "patch": (PatchKeywords, Source),
    "attack": (AttackKeywords, Source, Pgd, Square),
    "dream": (DreamKeywords, Source),
    "export": (ExportKeywords,),
    "dissect": (DissectKeywords,),
    "verify": (VerifyKeywords,),
    "monitor": (MonitorKeywords,),
    **dict.fromkeys(
        ("init", "inspect", "list", "diff", "instrument", "means", "apply", "overlay"),
        (JobKeywords,),
    ),
}


def options_of(command: str) -> dict[str, Any]:
    return {
        next(name for name in each.opts if name.startswith("--"))[2:].replace("-", "_"): each
        for each in COMMANDS[command].params
        if each.param_type_name == "option"
    }


def words_of(command: str) -> set[str]:
    words = set(inspect.signature(getattr(api, OTHER_NAMES.get(command, command))).parameters)
    for kind in TAKES.get(command, ()):
        words |= (
            set(inspect.get_annotations(kind))
            if not dataclasses.is_dataclass(kind)
            else {each.name for each in dataclasses.fields(kind)}
        )
    return words | (OF_ESTIMATORS if command in ("score", "patch") else set())


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"demo"}))
def test_every_option_is_an_argument_of_the_function(command: str) -> None:
    words = words_of(command)
    missing = {
        option
        for option in set(options_of(command)) - PRINTED
        if option not in words and OTHER_WORDS.get(option) not in words
    }
    assert missing == set()


def test_settings_of_estimators_have_the_names_of_their_options() -> None:
    assert {each.name for each in dataclasses.fields(Tmab)} >= OF_ESTIMATORS


def test_defaults_are_the_same() -> None:
    settings = {each.name: each.default for kind in SETTINGS for each in dataclasses.fields(kind)}
    choices = {each.name: each.default for each in dataclasses.fields(PatchSettings)}
    checked = set()
    for command, known in (("score", settings), ("patch", settings | choices)):
        for option, parameter in options_of(command).items():
            name = OTHER_WORDS.get(option, option)
            if parameter.default not in (None, False) and name in known:
                assert parameter.default == known[name], option
                checked.add(option)
    assert checked >= {"batch", "device", "sites_at", "absent", "mend", "beam", "promise"}


def test_an_unknown_keyword_is_refused_as_by_any_function() -> None:
    for function in (api.score, api.patch, api.attack, api.export):
        with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'colour'"):
            function("model.onnx", out="out", colour="red")


def test_words_of_any_job_are_said_in_the_call_as_in_settings(project: Project) -> None:
    said = api.score(
        project.model, project.data, method="exact", groups="group", seed=3, test=0.4, workers=1
    )
    settings = Settings(
        groups=("group",), seed=3, parts=PartPlan(test="0.4"), preprocessing=Preprocessing()
    )
    meant = api.score(project.model, project.data, method="exact", settings=settings)
    assert said.document["key"] == meant.document["key"]
    assert said.table() == meant.table()
    # They come before those of the settings, and leave the others as they are.
    changed = api.score(
        project.model, project.data, method="exact", settings=settings, seed=4, scale="1/2"
    )
    assert changed.document["settings"]["seed"] == 4
    assert changed.document["settings"]["groups"] == ["group"]
    assert changed.document["settings"]["preprocessing"]["scale"] == 0.5
    with pytest.raises(TypeError, match=r"score\(\) got an unexpected keyword argument 'grups'"):
        api.score(project.model, project.data, grups="group")  # type: ignore[call-arg]


def test_patch_takes_the_words_of_scoring_or_one_object(project: Project) -> None:
    said, meant = (project.model.with_name(f"{name}.onnx") for name in ("said", "meant"))
    goal: dict[str, Any] = {"objective": "accuracy", "at_most": 1}
    budget = {"method": "leave-one-out", "max_evaluations": 50}
    plan = ScoreSettings("leave-one-out", budget=Budget(50))
    answers = []
    for out, words in ((said, budget), (meant, {"score": plan})):
        try:
            api.patch(project.model, project.data, out=out, **goal, **words)
            answers.append((out.read_bytes(), ""))
        except TargetNotMetError as error:
            answers.append((b"", str(error)))
    assert answers[0] == answers[1]
    with pytest.raises(TypeError, match="score and max_evaluations; give one"):
        api.patch(project.model, project.data, out=said, score=plan, max_evaluations=9, **goal)


def test_every_setting_of_a_job_is_a_word_that_functions_take() -> None:
    elsewhere = {
        "data": "a parameter of each function",
        "metrics": "`metric`, which also takes functions",
        "preprocessing": "its parts are words: scale, mean and so on",
        "parts": "its parts are words: calibration, selection, test",
        "named_by": "no option: repairkit says there who named what",
        "trust": "only functions that may run code have it",
        "accept_preprocessing": "only functions that check it have it",
    }
    settings = {each.name for each in dataclasses.fields(Settings)}
    parts = {each.name for kind in SETTINGS[1:] for each in dataclasses.fields(kind)}
    words = set(JobKeywords.__annotations__)
    assert settings - words == set(elsewhere)
    assert words - settings <= parts


@given(
    scale=st.sampled_from([None, 0.5, "1/255"]),
    groups=st.sampled_from([None, "group", ["group", "label"]]),
    columns=st.sampled_from([None, (0, 2), "0:2", "1"]),
    seed=st.one_of(st.none(), st.integers(0, 99)),
    test=st.sampled_from([None, 0.25, "all"]),
    features=st.sampled_from([None, ["a", "b"], "a"]),
)
def test_words_make_the_settings_that_they_name(**given: Any) -> None:
    words = {name: value for name, value in given.items() if value is not None}
    said = job_settings(Path("model.onnx"), None, Settings(), words)
    meant = Settings()
    if "scale" in words:
        factor = 1 / 255 if words["scale"] == "1/255" else 0.5
        meant = dataclasses.replace(meant, preprocessing=Preprocessing(scale=factor))
    if "test" in words:
        meant = dataclasses.replace(meant, parts=PartPlan(test=str(words["test"])))
    if "seed" in words:
        meant = dataclasses.replace(meant, seed=words["seed"])
    if "columns" in words:
        meant = dataclasses.replace(meant, columns=(1, 2) if words["columns"] == "1" else (0, 2))
    for name in ("groups", "features"):
        if name in words:
            value = words[name]
            several = (value,) if isinstance(value, str) else tuple(value)
            meant = dataclasses.replace(meant, **{name: several})
    assert said == meant


def test_verify_diff_and_means_take_the_words_and_the_data(project: Project) -> None:
    out = project.model.with_name("repaired.onnx")
    api.patch(project.model, project.data, out=out, remove=["conv:1"])
    noise = api.verify(project.model, out, noise=True)
    assert api.verify(project.model, out, project.data, scale=0.5).images != noise.images
    with pytest.raises(SettingsError, match="scale"):
        api.verify(project.model, out, project.data, scale="half")
    difference = api.diff(project.model, out, project.data, groups="group")
    assert [each["filter"] for each in difference.document["filters"]["frozen_in_b"]] == ["conv:1"]
    assert len(difference.document["images"]["answers"]["groups"]) == 2
    file = api.means(project.model, project.data, out=out.with_name("m.json"), test="none", seed=1)
    assert file.to_json() == api.means(
        project.model, out=out.with_name("n.json"),
        settings=Settings(data=project.data, parts=PartPlan(test="none"), seed=1),
    ).to_json()  # fmt: skip
