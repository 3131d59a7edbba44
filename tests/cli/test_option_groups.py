"""Options in groups become options of commands, and their values become groups again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from repairkit.cli import app
from repairkit.cli.option_groups import Panels, argument, flag, only, option, unfolded, without
from repairkit.cli.options import METHODS
from repairkit.jobs.score import score_settings


@dataclass(frozen=True, kw_only=True)
class Colours:
    title: ClassVar = "Colours"
    hue: str = option("The hue.", default="red")
    shade: int | None = option("The shade.", "-s", "--shade", min=0)


@dataclass(frozen=True, kw_only=True)
class Picture:
    file: Path = argument("The file.", "FILE", default=...)
    wide: bool = flag("As wide as can be.")
    colours: Colours


def answer(command: object, *words: str) -> str:
    plain = typer.Typer(rich_markup_mode=None, add_completion=False)
    plain.command(cls=Panels)(unfolded(command))  # type: ignore[arg-type]
    done = CliRunner().invoke(plain, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_groups_come_filled_and_what_is_not_given_has_its_default() -> None:
    def paint(picture: Picture) -> None:
        typer.echo(picture)

    given = answer(paint, "a.png", "--wide", "-s", "3")
    assert given.strip() == str(
        Picture(file=Path("a.png"), wide=True, colours=Colours(hue="red", shade=3))
    )


def test_a_command_may_take_a_part_of_a_group_with_help_of_its_own() -> None:
    def some(colours: Annotated[Colours, only(hue="Another hue.")]) -> None:
        typer.echo(colours)

    def others(colours: Annotated[Colours, without("hue")]) -> None:
        typer.echo(colours)

    told = answer(some, "--help")
    assert "Another hue." in told
    assert "--shade" not in told
    assert "--hue" not in answer(others, "--help")
    assert answer(others, "--shade", "2").strip() == str(Colours(shade=2))


def test_help_shows_groups_under_their_titles() -> None:
    def paint(picture: Picture) -> None:
        typer.echo(picture)

    told = answer(paint, "--help")
    assert told.index("--wide") < told.index("Colours:") < told.index("--hue")


def test_an_option_in_two_groups_and_a_part_that_is_not_there_are_refused() -> None:
    def twice(one: Colours, two: Colours) -> None:
        typer.echo(f"{one} {two}")

    def unknown(colours: Annotated[Colours, only("size")]) -> None:
        typer.echo(colours)

    with pytest.raises(TypeError, match="options in two groups: hue, shade"):
        unfolded(twice)
    with pytest.raises(TypeError, match="Colours has no option size"):
        unfolded(unknown)


def test_the_methods_that_help_names_are_those_that_there_are() -> None:
    assert METHODS == score_settings.METHODS


def test_no_two_options_of_a_command_have_one_name() -> None:
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        names = [name for each in command.params for name in (*each.opts, *each.secondary_opts)]
        assert len(set(names)) == len(names), command.name
