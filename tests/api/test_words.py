"""The command line and the functions of `repairkit.api` share their words and defaults."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import typer

from repairkit import ScoreSettings, Settings, api
from repairkit.api.estimating import AskKeywords, ScoreKeywords, Unattended
from repairkit.api.models import AttackKeywords, ExportKeywords
from repairkit.api.repairing import PatchKeywords
from repairkit.attacks import Pgd, Square
from repairkit.cli import app
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
    "share": "share_to",
    "set": "options", "patch": "patch_file", "range": "pixel_range", "images": "at_most",
    "steps": "n_steps", "queries": "n_queries", "time_limit": "time_limit_seconds",
}  # fmt: skip
# Functions whose command has the name of something else in Python.
OTHER_NAMES = {"list": "listing"}
# Settings of estimators: `score` takes them in `options`, by the same names.
OF_ESTIMATORS = {"top_k", "side", "epsilon", "delta", "truncate_at"}
SETTINGS = (Settings, PartPlan, Preprocessing)
# What each function takes besides its own parameters.
TAKES: dict[str, tuple[Any, ...]] = {
    "score": (*SETTINGS, ScoreKeywords, Unattended),
    "ask": (AskKeywords,),
    "patch": (*SETTINGS, PatchKeywords, ScoreSettings, Budget, Source),
    "attack": (*SETTINGS, AttackKeywords, Source, Pgd, Square),
    "export": (*SETTINGS, ExportKeywords),
    **dict.fromkeys(
        ("init", "inspect", "list", "diff", "instrument", "means", "verify", "apply"), SETTINGS
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
def test_every_option_is_an_argument_of_the_function_or_of_its_settings(command: str) -> None:
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
    assert checked >= {"batch", "device", "sites_at", "absent", "at_most", "max_drop", "promise"}


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
