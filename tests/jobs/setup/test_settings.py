"""A job's settings become options that make the same settings, and no option is forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repairkit.backdoors import Backdoor
from repairkit.cli import app, run
from repairkit.core.errors import SettingsError
from repairkit.core.filters import Filter
from repairkit.core.framework import FreshAttacks
from repairkit.core.scores import Budget
from repairkit.data.parts import PartPlan
from repairkit.jobs.output.destination import Places
from repairkit.jobs.repair.objective import PROMISES, Target
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.repair.telling import patch_again
from repairkit.jobs.score.score_settings import Exclusion, ScoreSettings
from repairkit.jobs.score.scoring import score_again
from repairkit.jobs.setup.settings import METHOD_OPTIONS, NOT_SAID, options_of
from repairkit.jobs.setup.workbench import Settings
from tests.report.test_wording import WAYS
from tests.unfair import write_unfair

TEXT = st.text(st.sampled_from("ab ,\"'$`\\-=;é\u00d7"), min_size=1, max_size=6)
TEXT = TEXT.map(str.strip).filter(bool)
# Names of metrics, filters and inputs have a form of their own.
WORD = st.text(st.sampled_from("abc ,'\"$"), min_size=1, max_size=5).map(str.strip).filter(bool)
NAMES = st.lists(TEXT, max_size=3, unique=True).map(tuple)
PART = st.sampled_from([None, "all", "0.3", "north -x", "none"])
SHARE = st.floats(0.001, 0.999)
OF_SETTINGS: dict[str, Any] = {
    "data": TEXT.map(lambda name: Path(f"d {name}")),
    "metrics": st.lists(st.sampled_from(["accuracy", "loss", "recall:a b"]), min_size=1, max_size=2)
    .map(dict.fromkeys)
    .map(tuple),
    "groups": NAMES,
    "class_names": NAMES,
    "preprocessing": WAYS,
    "parts": st.builds(PartPlan, PART, PART, PART),
    "output": st.sampled_from([None, "logits"]),
    "columns": st.sampled_from([None, (0, 1), (2, 7)]),
    "threshold": st.none() | st.floats(-2, 2),
    "outputs_are": st.sampled_from([None, "logits"]),
    "sites": NAMES,
    "sites_at": st.sampled_from(["pre-activation", "activation"]),
    "include": st.sampled_from([(), ("dense",)]),
    "absent": st.sampled_from(["mean", "zero"]),
    "device": st.sampled_from(["auto", "cpu"]),
    "tf32": st.just(False),
    "half": st.booleans(),
    "batch_size": st.integers(1, 999),
    "seed": st.integers(0, 9),
    "features": NAMES,
    "corruptions": NAMES,
    "trust": st.booleans(),
    "accept_preprocessing": st.booleans(),
    "image_input": st.sampled_from([None, "image"]),
    "label": st.sampled_from([None, "kind"]),
    "inputs": st.dictionaries(WORD, TEXT, max_size=2),
}
SETTINGS = st.builds(Settings, **OF_SETTINGS)
BUDGETS = st.builds(Budget, st.none() | st.integers(1, 999), st.none() | st.floats(0.5, 99))
OPTIONS = st.fixed_dictionaries(
    {},
    optional={"top_k": st.integers(1, 9), "epsilon": SHARE, "delta": SHARE, "truncate_at": SHARE},
)
TARGETS = st.builds(Target, st.just("accuracy"), st.just(">="), SHARE)
OF_REPAIRS: dict[str, Any] = {
    "scores": st.none() | TEXT.map(Path),
    "objective": st.sampled_from(["accuracy", "recall:a b"]),
    "at_most": st.integers(1, 99),
    "max_drop": SHARE,
    "max_group_drop": SHARE,
    "score": st.builds(ScoreSettings, st.sampled_from(["repair", "exact"]), OPTIONS, BUDGETS),
    "targets": st.lists(TARGETS, max_size=2).map(tuple),
    "level": st.sampled_from([None, "zero", "best"]),
    "beam": st.integers(1, 3),
    "confirm_share": st.none() | SHARE,
    "promise": st.sampled_from(PROMISES),
    "baselines": st.booleans(),
    "attacks": st.builds(FreshAttacks, transfers=NAMES.map(lambda names: tuple(map(Path, names)))),
    "repair": st.sampled_from(["freeze", "freeze", "best"]),
    "refit_safe": st.booleans(),
}
REPAIRS = st.builds(PatchSettings, **OF_REPAIRS)
REMOVALS = st.builds(
    PatchSettings,
    remove=st.lists(WORD.map(lambda site: Filter(site, 3)), min_size=1, max_size=3).map(tuple),
)
TOPS = st.builds(PatchSettings, remove_top=st.integers(1, 99), scores=TEXT.map(Path))
SCORINGS = st.builds(
    ScoreSettings,
    st.sampled_from(["auto", "tmab"]),
    st.fixed_dictionaries(
        {}, optional={"side": st.sampled_from(["highest", "both"]), "lanes": st.integers(1, 9)}
    ),
    BUDGETS,
    statistics=st.booleans(),
    exclude=st.none() | st.builds(Exclusion, TEXT.map(Path), SHARE),
    for_patch=st.booleans(),
    curve=st.booleans(),
)
SLOW = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


def options_said(command: str) -> set[str]:
    """The options that a command's settings are said by, if they differ from the usual."""
    everything = {"number": 1, **dict.fromkeys(METHOD_OPTIONS, 1)}
    score = ScoreSettings(options=everything, exclude=Exclusion(Path("run")))
    parts = [score, Settings()] + ([PatchSettings(fairness=True)] if command == "patch" else [])
    return set().union(*(options_of(command, part, Places.here())[0] for part in parts))


@pytest.mark.parametrize("command", ["patch", "score"])
def test_every_option_is_said_again_or_its_absence_has_a_reason(command: str) -> None:
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    known = {
        next(word for word in each.opts if word.startswith("--"))
        for each in parameters
        if each.param_type_name == "option"
    }
    said = options_said(command)
    assert known - said - set(NOT_SAID) == set()
    assert not said & set(NOT_SAID)
    assert said - known == set()


def test_every_setting_is_tried_below() -> None:
    """What is not drawn for the laws has a test of its own, or never affects a result."""
    elsewhere = {"workers", "cache_memory", "named_by", "means", "remove", "fairness", "robustness"}
    elsewhere |= {"remove_top", "known", "fix", "mend", "forget"}
    known = {each.name for kind in (Settings, PatchSettings) for each in dataclasses.fields(kind)}
    assert known - set(OF_SETTINGS) - set(OF_REPAIRS) == elsewhere | {"choose"}


@pytest.mark.parametrize(
    "how",
    [
        PatchSettings(fairness=True),
        PatchSettings(robustness=True),
        PatchSettings(known=Backdoor(backdoor=True, triggered="seen", target_class="3")),
        PatchSettings(known=Backdoor(backdoor=True, trigger=Path("t.png"), mask=Path("m.png"))),
        PatchSettings(fix="corner=a b", mend=0.5),
        PatchSettings(fix=Path("a list.csv"), max_drop=0.01),
        PatchSettings(forget="a b", at_most=3),
        PatchSettings(objective="loss", choose="plain"),
    ],
)
def test_a_kind_of_repair_is_said_again(model: Path, how: PatchSettings) -> None:
    agree(how, understood("patch", patch_again(model, Settings(), how).words)[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model beside which a project file says otherwise."""
    folder = tmp_path_factory.mktemp("a folder")
    write_unfair(folder, n=12)
    (folder / "repairkit.toml").write_text(
        'seed = 5\nmetrics = "loss"\n[preprocessing]\nscale = 0.25\n[parts]\ntest = "all"\n'
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        yield folder / "model.onnx"


HOMES = {
    "score": "repairkit.jobs.score.scoring.score",
    "patch": "repairkit.jobs.repair.patching.patch",
}


def understood(kind: str, words: tuple[str, ...]) -> tuple[Settings, Any]:
    """The settings that the command line makes of a command."""
    found = []

    def instead(_: Any, job: Settings, how: Any, **__: Any) -> None:
        found.append((job, how))
        raise SettingsError("all is told")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HOMES[kind], instead)
        assert run([kind, *words, "-o", "made.onnx"]) == 1
    assert found
    return found[0]


def agree(ours: Any, theirs: Any) -> None:
    """All fields but those that are not about the result; numbers may have become text."""
    for each in dataclasses.fields(ours):
        mine, other = getattr(ours, each.name), getattr(theirs, each.name)
        if each.name in ("began", "named_by", "source", "per_filter"):
            continue
        if dataclasses.is_dataclass(mine):
            agree(mine, other)
        else:
            assert mine == other, each.name


# A project file gives what options cannot take away again.
def settled(job: Settings) -> Settings:
    return dataclasses.replace(
        job, parts=dataclasses.replace(job.parts, test=job.parts.test or "all")
    )


@given(job=SETTINGS.map(settled), how=REPAIRS | REMOVALS | TOPS)
@SLOW
def test_a_repair_is_said_again(model: Path, job: Settings, how: PatchSettings) -> None:
    again = patch_again(model, job, how)
    assert again.lacks == ()
    assert str(Path.cwd()) not in " ".join(again.words)
    assert again.timed == (how.score.budget.time_limit_seconds is not None)
    job_again, how_again = understood("patch", again.words)
    agree(job, job_again)
    agree(how, how_again)


@given(job=SETTINGS.map(settled), how=SCORINGS)
@SLOW
def test_a_scoring_is_said_again(model: Path, job: Settings, how: ScoreSettings) -> None:
    again = score_again(model, job, how)
    job_again, how_again = understood("score", again.words)
    agree(job, job_again)
    agree(how, how_again)


def test_what_no_option_holds_is_told() -> None:
    how = PatchSettings(fairness=True, score=ScoreSettings("repair", {"lanes": 3}, statistics=True))
    again = patch_again(Path("m.onnx"), Settings(means=Path("means.json")), how)
    assert set(again.lacks) == {"lanes", "--statistics", "--means"}


def test_a_usual_setting_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    again = patch_again(Path("m.onnx"), Settings(data=Path("d.npz")), PatchSettings(fairness=True))
    assert again.words == ("m.onnx", "--fairness", "--data", "d.npz", "--seed", "0")


def test_paths_are_relative_and_never_lead_through_the_home() -> None:
    inside = Places(Path("/home/eve/work"), Path("/home/eve"))
    outside = Places(Path("/srv/job"), Path("/home/eve"))
    assert inside.relative(Path("/home/eve/work/a b/d.npz")) == "a b/d.npz"
    assert inside.relative(Path("/home/eve/data/d.npz")) == "../data/d.npz"
    assert inside.relative(Path("/data/d.npz")) == "../../../data/d.npz"
    assert outside.relative(Path("/home/eve/data/d.npz")) == "~/data/d.npz"
    assert outside.relative(Path("../../home/eve/d.npz")) == "~/d.npz"
    assert outside.relative(Path("/data/d.npz")) == "../../data/d.npz"
    assert outside.relative(Path("d/../e.npz")) == "d/../e.npz"
    assert outside.relative(Path("~/d.npz")) == "./~/d.npz"
    assert outside.relative(Path("-d.npz")) == "./-d.npz"
    text = (
        "/home/eve/x is missing; '/srv/job/y', /srv/jobs and /x/srv/job/z; see /home/eve: /srv/job"
    )
    told = "~/x is missing; 'y', /srv/jobs and /x/srv/job/z; see ~: ."
    assert outside.cleaned({"a": [text, 3]}) == {"a": [told, 3]}
