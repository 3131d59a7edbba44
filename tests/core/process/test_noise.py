"""What libraries write is kept back, shown with --debug, and its end is shown on failure."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from repairkit.core.process import noise
from tests.conftest import Project

MODULE = """
import os
def judge(outputs, labels, attributes):
    os.write(2, b"E1128 native chatter\\n")
    {}
"""


def test_logs_prints_and_warnings_are_kept_and_those_of_others_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs, inner = logging.getLogger("chatty"), logging.getLogger("chatty.inner")
    ours = logging.getLogger("other")
    handlers = [logging.StreamHandler(sys.stderr) for _ in range(3)]
    for logger, handler in zip((theirs, inner, ours), handlers, strict=True):
        logger.addHandler(handler)
    try:
        with noise.keeping(lambda: "native one\n\nnative two\n"):
            with noise.silenced("chatty", prints=True):
                theirs.error("E1130 from %s", "above")
                inner.error("E1130 from inside")
                ours.error("a word of ours")
                sys.stdout.write("chatter\n")
                warnings.warn("soon deprecated", stacklevel=1)
            kept = noise.last_lines()
            theirs.error("after the block")
        assert noise.last_lines() == []
    finally:
        for logger, handler in zip((theirs, inner, ours), handlers, strict=True):
            logger.removeHandler(handler)
    assert kept[:2] == ["native one", "native two"]
    assert set(kept[2:]) == {"E1130 from above", "E1130 from inside", "chatter"}
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["a word of ours", "after the block"]


def test_debug_keeps_nothing_back(capsys: pytest.CaptureFixture[str]) -> None:
    noise.logger.setLevel(logging.DEBUG)
    try:
        with noise.silenced("chatty", prints=True):
            sys.stdout.write("chatter\n")
    finally:
        noise.logger.setLevel(logging.NOTSET)
    assert capsys.readouterr().out == "chatter\n"


@pytest.mark.slow
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_native_code_is_not_heard_but_for_debug_and_failures(
    project: Project, *, fails: bool, debug: bool
) -> None:
    """A function of the user's stands in for native code: it writes to file descriptor 2."""
    answer = "os.close(99999)" if fails else "return (outputs.argmax(1) == labels) * 1.0"
    (project.folder / "chatty.py").write_text(MODULE.format(answer), encoding="utf-8")
    done = _run(
        project.folder,
        *["score", "model.onnx", "--metric", "chatty:judge", "--max-evaluations", "300"],
        *(["--debug"] if debug else []),
    )
    assert done.returncode == int(fails), done.stderr
    assert ("E1128" in done.stderr) == debug


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "repairkit", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_unexpected_failure_shows_the_last_lines(tmp_path: Path) -> None:
    script = (
        "import os, sys; import repairkit.api.models as models\n"
        "def inspect(*a, **k):\n"
        "    os.write(2, b'F1128 native last words\\n'); raise ArithmeticError('unforeseen')\n"
        "models.inspect = inspect\n"
        "sys.argv = ['repairkit', 'inspect', 'model.onnx']\n"
        "from repairkit.cli import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[-2].strip() == "F1128 native last words"
    assert lines[-1].startswith("repairkit: unexpected ArithmeticError: unforeseen")
