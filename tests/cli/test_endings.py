"""Whatever happens, `--json` prints one document, and an exit code tells the truth."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

import repairkit.cli as cli
from repairkit.cli import streams
from repairkit.cli.option_groups import flag_positions
from repairkit.core.errors import RunFolderError, VerificationError
from tests.conftest import Project

COMMANDS = sorted(typer.main.get_command(cli.app).commands)
NUMBERS = [
    *(("score", f"--{name}") for name in ("epsilon", "delta", "truncate-at", "time-limit")),
    *(("score", f"--{name}") for name in ("threshold", "exclude-share")),
    *(("patch", f"--{name}") for name in ("max-drop", "confirm-share", "threshold")),
]
# A busy machine would print lines about stages after some seconds.
NO_LINES = (
    "import math; from repairkit.cli import main, stage_display; "
    "stage_display.FIRST_SECONDS = stage_display.SILENT_SECONDS = math.inf; main()"
)
CLI = [sys.executable, "-c", "from repairkit.cli import main; main()"]


@pytest.fixture
def model(project: Project) -> Path:
    return project.model


def one_document(text: str) -> dict[str, object]:
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_usage_is_a_document_too(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--json", "--no-such-option"]) == 2
    shown = capsys.readouterr()
    document = one_document(shown.out)
    assert document["exit_code"] == 2
    assert f"repairkit: {document['error']}\n" == shown.err


@pytest.mark.parametrize("raised", [
    (RunFolderError("no place"), 1),
    (VerificationError("another model"), 3),
    (OSError(28, "No space left on device", "x.onnx"), 1),
    (MemoryError(), 1),
    (KeyboardInterrupt(), 130),
    (ZeroDivisionError("a\nb"), 1),
    (GeneratorExit(), 1),
    (SystemExit(0), 1),
    (SystemExit(None), 1),
    (SystemExit("no licence"), 1),
    (BrokenPipeError(32, "Broken pipe"), 1),
])  # fmt: skip
@pytest.mark.parametrize("before", [False, True])
def test_every_kind_of_failure_ends_in_one_document(
    raised: tuple[BaseException, int],
    before: bool,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error, code = raised
    keep = streams.print_json

    def print_and_fail(document: object) -> None:
        if before:
            keep(document)
        raise error

    monkeypatch.setattr(streams, "print_json", print_and_fail)
    assert cli.run(["inspect", str(model), "--json"]) == code
    shown = capsys.readouterr()
    document = one_document(shown.out)
    assert document["exit_code"] == code
    assert shown.err == f"repairkit: {document['error']}\n"
    assert ("model" in document) == before


def test_json_as_a_value_or_after_two_dashes_is_no_wish(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--output", "--json", str(model)], [str(model), "--", "--json"]):
        assert cli.run(["inspect", *words]) in (1, 2)
        assert capsys.readouterr().out == ""


@given(
    st.lists(
        st.sampled_from(["--json", "--quiet", "--out", "-o", "--", "x", "--top-k"]), max_size=8
    )
)
@settings(max_examples=40, deadline=None)
def test_flags_are_found_where_the_parser_finds_them(words: list[str]) -> None:
    group = typer.main.get_command(cli.app)
    command = group.commands["score"]
    try:
        context = command.make_context("score", list(words))
    except Exception:  # noqa: BLE001 - what the parser refuses has no parsed answer to compare with
        return
    found = flag_positions(group, ["score", *words], "--json")
    assert bool(found) == bool(context.params["as_json"])


@pytest.mark.parametrize("where", ["import", "call"])
@pytest.mark.parametrize("code", ["0", "", "7", "'needs a card'"])
def test_a_metric_that_exits_is_named_and_nothing_ends_well(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    code: str,
) -> None:
    monkeypatch.chdir(model.parent)
    name = f"leaving_at_{where}_with_{abs(hash(code))}"
    lines = ["import sys", "def judge(outputs, labels, attributes):", "    return 0.5"]
    lines.insert(1 if where == "import" else 2, f"{'    ' * (where == 'call')}sys.exit({code})")
    (model.parent / f"{name}.py").write_text("\n".join(lines), encoding="utf-8")
    words = [*words_of(model, f"{name}:judge"), "-o", str(model.parent / "run")]
    assert cli.run(words) == 1
    shown = capsys.readouterr()
    assert f"{name}.py, line {2 if where == 'import' else 3}" in shown.err
    assert code.strip("'") in shown.err
    assert one_document(shown.out)["exit_code"] == 1


def words_of(model: Path, metric: str) -> list[str]:
    data = str(model.parent / "data.npz")
    how = ["--metric", metric, "--method", "leave-one-out", "--json"]
    return ["score", str(model), "--data", data, *how]


def score(model: Path, metric: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *words_of(model, metric), "-o", "run"],
        cwd=model.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_a_metric_prints_stays_out_of_the_document(model: Path) -> None:
    (model.parent / "loud.py").write_text(
        "import os, subprocess\n"
        "print('imported')\n"
        "def judge(outputs, labels, attributes):\n"
        "    print('called'); os.write(1, b'raw'); subprocess.run(['echo', 'child'])\n"
        "    return (outputs.argmax(1) == labels) * 1.0\n",
        encoding="utf-8",
    )
    done = score(model, "loud:judge")
    assert done.returncode == 0, done.stderr
    assert "scores" in one_document(done.stdout) or "run" in one_document(done.stdout)
    for word in ("imported", "called", "raw", "child"):
        assert word in done.stderr


def test_sigterm_ends_in_a_document(model: Path) -> None:
    (model.parent / "slow.py").write_text(
        "import time\nopen('reached', 'w').close()\ntime.sleep(60)\n", encoding="utf-8"
    )
    words = [
        "patch",
        str(model),
        "--data",
        str(model.parent / "data.npz"),
        "--objective",
        "slow:judge",
        "--json",
    ]
    with subprocess.Popen(
        [*CLI, *words], cwd=model.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: (model.parent / "reached").exists() or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert one_document(out)["exit_code"] == 143


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened() and time.monotonic() < until:
        time.sleep(0.05)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_an_encoding_lacks_are_escaped(encoding: str, project: Project) -> None:
    path = project.model.with_name("модель-é-\U0001f600.onnx")
    path.write_bytes(project.model.read_bytes())
    surroundings = {**os.environ, "PYTHONIOENCODING": encoding}
    for words in (
        ["inspect", path.name],
        ["inspect", path.name, "--json"],
        ["inspect", path.name + "x"],
    ):
        done = subprocess.run(
            [*CLI, *words], cwd=path.parent, capture_output=True, env=surroundings, check=False
        )
        assert done.returncode == (1 if path.name not in words else 0), done.stderr
        text = done.stdout.decode(encoding)
        if "--json" in words:
            assert json.loads(text)["model"]["path"] == path.name


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_options_that_are_numbers_are_finite(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, option in NUMBERS:
        assert cli.run([name, f"{option}={number}"]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert option in line


@pytest.mark.parametrize("words", [
    ["attack", "--epsilon", "1e400"],
    ["attack", "--range", "0,inf"],
    ["patch", "--target", "accuracy>=1e999"],
    ["score", "--set", "lanes=NaN"],
    ["score", "--set", "lanes=-Infinity"],
    ["score", "--scale", "nan"],
])  # fmt: skip
def test_numbers_inside_text_are_finite(
    words: list[str], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(model.parent / "data.npz")
    assert cli.run([words[0], str(model), "--data", data, *words[1:]]) in (1, 2)
    line = capsys.readouterr().err
    assert line.startswith("repairkit: ")
    assert "unexpected" not in line


def test_settings_may_begin_with_a_mark(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings_file = model.parent / "repairkit.toml"
    text = 'classes = ["a", "b", "c"]\r\n[preprocessing]\r\nscale = "1/2"\r\n'
    settings_file.write_bytes(text.encode("utf-8-sig"))
    assert cli.run(["inspect", str(model)]) == 0
    settings_file.write_bytes(text.encode("utf-16"))
    capsys.readouterr()
    assert cli.run(["inspect", str(model)]) == 1
    assert "save it as UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("imported", "ending"),
    [
        ("typer", (-signal.SIGINT, "")),
        ("numpy", (130, "repairkit: interrupted; nothing was written\n")),
    ],
)
def test_an_interrupt_while_modules_are_imported_leaves_no_traceback(
    imported: str, ending: tuple[int, str], tmp_path: Path
) -> None:
    code = """
import os, signal, sys
import repairkit.__main__ as start
wanted = sys.argv.pop(1)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
start.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, imported, "inspect", "model.onnx"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == ending


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is full")
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_output_that_cannot_be_written_ends_in_one_line(model: Path, more: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", NO_LINES, "inspect", str(model), *more],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "repairkit: output: No space left on device\n"
