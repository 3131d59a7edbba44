"""The help texts that users read; `make golden` renews them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from repairkit.cli import app
from tests.lowest import smoke

GOLDEN = Path(__file__).parents[1] / "golden"
COMMANDS = [
    "",
    "init",
    "list",
    "inspect",
    "diff",
    "score",
    "ask",
    "patch",
    "verify",
    "apply",
    "revert",
    "overlay",
    "monitor",
    "instrument",
    "attack",
    "dream",
    "export",
    "compare",
    "dissect",
    "curve",
    "report",
    "atlas",
    "means",
    "merge",
    "demo",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_reviewed(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    from repairkit.cli import run

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    assert run([*([command] if command else []), "--help"]) == 0
    text = capsys.readouterr().out
    path = GOLDEN / f"help-{command or 'repairkit'}.txt"
    if request.config.getoption("--golden"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_trial_of_the_lowest_versions_runs_every_command() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(smoke.COMMANDS) == commands == set(COMMANDS) - {""}


def all_commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_h_is_help_and_help_names_debug(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from repairkit.cli import run

    monkeypatch.setenv("COLUMNS", "80")
    words = [command] if command else []
    texts = []
    for flag in ("-h", "--help"):
        assert run([*words, flag]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "-h, --help" in texts[0]
    assert "--debug" in texts[0]
    assert not re.search(r"[a-z]\.\.\.", texts[0])  # cut


def test_every_option_and_every_argument_says_what_it_is() -> None:
    for name, command in all_commands().items():
        for parameter in command.params:
            text = parameter.help or ""
            assert len(text) > 5, (name, parameter.name)
            assert text.endswith("."), (name, parameter.name, text)


def test_the_help_of_the_program_says_each_command_in_a_whole_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from repairkit.cli import run

    assert run(["--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for name, command in all_commands().items():
        sentence = " ".join(command.help.split("\n\n")[0].split())
        assert sentence.endswith("."), name
        assert f" {name} {sentence}" in words


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_has_two_names(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    from repairkit.cli import run

    assert run([flag]) == 0
    assert capsys.readouterr().out.strip() == version("repairkit")


@pytest.mark.parametrize("words", [["--debug", "score"], ["score", "--debug"]])
def test_debug_shows_where_an_error_arose(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from repairkit.cli import run

    assert run([*words, "nothing.onnx", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("repairkit: nothing.onnx: there is no such file")


def offered(line: str, position: int) -> list[str]:
    """What bash is offered for the word at a position of a command line."""
    done = subprocess.run(
        [sys.executable, "-m", "repairkit"],
        env={
            **os.environ, "_REPAIRKIT_COMPLETE": "complete_bash",
            "COMP_WORDS": line, "COMP_CWORD": str(position),
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_shell_completes_commands_metrics_methods_and_choices() -> None:
    assert offered("repairkit ins", 1) == ["inspect", "instrument"]
    assert offered("repairkit score m.onnx --metric worst", 4) == ["worst_group_accuracy"]
    assert offered("repairkit score m.onnx --method le", 4) == ["leave-one-out"]
    assert offered("repairkit score m.onnx --device c", 4) == ["cpu", "cuda"]
    assert offered("repairkit list m", 2) == ["metrics", "methods"]


def test_completion_for_a_shell_can_be_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from repairkit.cli import run

    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("zsh", "/bin/zsh"))
    assert run(["--show-completion"]) == 0
    assert "_REPAIRKIT_COMPLETE=complete_zsh" in capsys.readouterr().out
