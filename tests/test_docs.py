"""What the documents say can be done is done."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from repairkit.cli import app
from repairkit.metrics.catalogue import definition_of, is_user_metric
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDE = DOCS / "guide"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Options of other programs, which the pages show too.
FOREIGN = {"--head", "--index-url", "--private", "--public", "--signature"}
# Pages that are made when the site is built; `tests/site` follows links to them.
MADE = "reference/"


def code_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return text.split("```python\n")[1].split("```")[0]


def test_the_estimator_of_the_guide_plugs_in(
    repairkit: Callable[..., Answer],
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = code_of(GUIDE / "estimators.md")
    lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(lines) == 10
    (tmp_path / "alone.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    answer = repairkit("score", project.model, "--method", "alone:Alone", "-o", "run")
    assert answer.code == 0, answer.err
    with (tmp_path / "run" / "scores.csv").open() as file:
        values = {row["filter"]: float(row["value"]) for row in csv.DictReader(file)}
    assert set(values) == {f"conv:{c}" for c in range(4)}
    assert np.isfinite(list(values.values())).all()


def code_lines(text: str) -> Iterator[str]:
    """The lines of code of a page, indented or between fences; a line that goes on is one line."""
    fenced = False
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def commands_told() -> list[list[str]]:
    """Every `repairkit COMMAND ...` that stands as a line of code in a page."""
    lines = [line for page in PAGES for line in code_lines(page.read_text(encoding="utf-8"))]
    told = [line for line in lines if re.match(r"repairkit [a-z]+\b(?!.* repairkit )", line)]
    # Where the output goes is the shell's.
    return [shlex.split(line.partition(" > ")[0], comments=True)[1:] for line in told]


@pytest.mark.parametrize("words", commands_told(), ids=" ".join)
def test_every_command_of_the_docs_is_one(words: list[str]) -> None:
    command = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    context = command.make_context(words[0], words[1:])
    context.close()


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_and_pages_that_the_docs_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    group = get_command(app)
    known = {
        option
        for command in group.commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--debug", "--help", "--version"}
    named_options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    assert named_options <= known | FOREIGN | options_of_scripts(text)
    for named in re.findall(r"`((?:docs|samples|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / named).exists(), named


def test_the_lines_of_python_in_the_readme_work(
    repairkit: Callable[..., Answer],  # noqa: ARG001 (the working folder is the test's own)
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a small network in the place of the demonstration's, which takes half a minute."""
    folder = tmp_path / "repairkit-demo"
    folder.mkdir()
    harm(Project(folder, folder / "model.onnx", folder / "data.npz"))
    code = code_of(ROOT / "README.md")
    assert len(code.strip().splitlines()) <= 6
    monkeypatch.setattr("sys.argv", ["readme.py"])
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "frozen: conv:2" in printed
    assert float(printed.split()[-1]) > 0
    assert (tmp_path / "repaired.report.html").is_file()


def test_every_decision_has_a_number_of_its_own_and_stands_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(page.name for page in folder.glob("*.md") if page.name != "README.md")
    assert [name[:5] for name in pages] == [f"{n:04d}-" for n in range(1, len(pages) + 1)]
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index) == pages


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in link and not link.startswith(MADE):
            assert (page.parent / link).exists(), link


def options_of_scripts(text: str) -> set[str]:
    """The options of the scripts that a page names."""
    scripts = [ROOT / name for name in re.findall(r"\b(?:benchmarks|samples)/\w+\.py", text)]
    sources = [script.read_text(encoding="utf-8") for script in scripts if script.exists()]
    return set(re.findall(r"\"(--[a-z][a-z0-9-]*)\"", "\n".join(sources)))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_metrics_that_the_docs_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    options = r"--(?:metric|objective)[ =]['\"]?([\w:*]+)"
    targets = r"--target[ =]['\"]([\w:]+)[<>]="
    for name in {*re.findall(options, text), *re.findall(targets, text)} - {"METRIC", "NAME"}:
        assert definition_of(name) is not None or is_user_metric(name), name


def test_pages_are_linked_and_not_only_named() -> None:
    for page in sorted(DOCS.rglob("*.md")):
        named = re.findall(r"`(docs/[\w./-]+\.md)`", page.read_text(encoding="utf-8"))
        assert not named, f"{name_of(page)} names {named} and could link"
