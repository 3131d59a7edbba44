"""A message about a setting that a file gave names the file, and no option."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from repairkit.core.process.origins import FileSetting, gathering, give, with_origins
from tests.conftest import Answer, Project

TEST = FileSetting("test", "--test", "0.2", (), "repairkit.toml")
GROUPS = FileSetting("groups", "--group", '["race"]', ("race",), "repairkit.toml")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "--test is 0.2; expected more",
            "test = 0.2 in repairkit.toml: test is 0.2; expected more",
        ),
        ("--test-time is odd", "--test-time is odd"),
        ("the images are gone", "the images are gone"),
        ("no column 'race'", "groups = [\"race\"] in repairkit.toml: no column 'race'"),
        ("repairkit.toml: --test is wrong", "repairkit.toml: --test is wrong"),
        (
            "change --test or --group",
            'test = 0.2, groups = ["race"] in repairkit.toml: change test or groups',
        ),
    ],
)
def test_a_message_tells_where_a_setting_comes_from(message: str, expected: str) -> None:
    assert with_origins(message, [TEST, GROUPS]) == expected


def test_settings_are_gathered_in_the_block_alone() -> None:
    give([TEST])
    with gathering() as given:
        assert given == []
        give([TEST])
        give([GROUPS])
    give([TEST])
    assert given == [GROUPS]


@pytest.mark.parametrize(
    ("line", "option", "words"),
    [
        ("[parts]\ntest = 2.5", "0.3", ("test = 2.5 in project/repairkit.toml: test is 2.5",)),
        ('output = "probs"', "logits", ('output = "probs" in', "'probs'", "logits")),
        ('metrics = ["acuracy"]', "accuracy", ('metrics = ["acuracy"] in', "accuracy")),
        ('groups = ["rcae"]', "group", ('groups = ["rcae"] in', "the data has group")),
        ('columns = "9:3"', "0:3", ('columns = "9:3" in', "FIRST:BEHIND")),
    ],
)
def test_a_wrong_line_of_the_project_file_is_named(
    repairkit: Callable[..., Answer], project: Project, line: str, option: str, words: tuple[str]
) -> None:
    settings = project.folder / "repairkit.toml"
    settings.write_text(f'data = "data.npz"\n{line}\n', encoding="utf-8")
    answer = repairkit("score", project.model, "--quiet", "--max-evaluations", "300")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "--" not in answer.err
    for word in words:
        assert word in answer.err
    # The option overrules the line, and the line is no longer to blame.
    key = line.rpartition("\n")[2].partition(" ")[0]
    name = {"metrics": "metric", "groups": "group"}.get(key, key)
    given = (f"--{name}", option)
    answer = repairkit("score", project.model, "--quiet", "--max-evaluations", "300", *given)
    assert "repairkit.toml" not in answer.err
