"""The help texts that users read; `make golden` renews them."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from repairkit.cli import app
from tests.lowest import smoke

GOLDEN = Path(__file__).parents[1] / "golden"
COMMANDS = [
    "",
    "inspect",
    "score",
    "ask",
    "patch",
    "verify",
    "apply",
    "revert",
    "instrument",
    "attack",
    "export",
    "compare",
    "curve",
    "report",
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
