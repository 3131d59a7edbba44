"""The guide to provenance does what it says: examples run, and signatures tell of any change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("model_signing", reason="model-signing is not installed")
from model_signing import signing, verifying

import repairkit
from tests.cli.test_commands import harm
from tests.conftest import Project

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "guide" / "provenance.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")


def block(first_line: str) -> str:
    (code,) = re.findall(rf"```\w+\n({re.escape(first_line)}\n.*?)```", GUIDE, re.DOTALL)
    return str(code)


def shell(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run lines as a reader would, with the programs of this environment."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "repairkit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m repairkit "$@"\n')
    program.chmod(0o755)
    paths = os.pathsep.join([str(program.parent), str(BIN), os.environ["PATH"]])
    python = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": python}
    return subprocess.run(
        ["sh", "-e", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in the place of the demonstration's."""
    folder = tmp_path_factory.mktemp("repairkit-demo")
    harm(Project(folder, folder / "model.onnx", folder / "data.npz"))
    done = repairkit.patch(
        folder / "model.onnx", out=folder / "model.patched.onnx", remove=["conv:2"]
    )
    assert done.patch.frozen
    return folder


def test_the_worked_example_says_what_the_guide_shows(demo: Path) -> None:
    (told,) = re.findall(r"```text\nbeside it: (.*?) as written\n```", GUIDE, re.DOTALL)
    commands = re.findall(r"^    (repairkit verify .*)$", GUIDE, re.MULTILINE)
    ran = shell("\n".join(commands), demo)
    assert ran.returncode == 0, ran.stderr
    shown = " ".join(ran.stdout.split())
    assert f"beside it: {' '.join(told.split())} as written" in shown


def test_anyone_can_recompute_the_statement(demo: Path) -> None:
    (demo / "recompute.py").write_text(block("# recompute what a statement says"))
    ran = shell("python recompute.py", demo)
    assert ran.returncode == 0, ran.stderr
    assert "the same bytes: " in ran.stdout


def release(demo: Path, folder: Path) -> Path:
    """What the guide says to ship: the models and all that lies beside them."""
    place = folder / "release"
    place.mkdir()
    for path in [demo / "model.onnx", *demo.glob("model.patched.*")]:
        shutil.copy(path, place)
    return place


@needs_openssl
def test_the_guides_signature_holds_and_breaks_with_a_file_more(demo: Path, tmp_path: Path) -> None:
    place = release(demo, tmp_path)
    sign, check = (
        block("# sign a folder with a key of your own"),
        block("# check what was received"),
    )
    for code in (sign, check):
        ran = shell(code, tmp_path)
        assert ran.returncode == 0, ran.stderr
    (place / "more.txt").write_text("more")
    assert shell(check, tmp_path).returncode != 0


@needs_openssl
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_signature_tells_of_any_changed_byte(
    demo: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("signed")
    place, key, public = release(demo, folder), folder / "a.key", folder / "a.pub"
    ran = shell(
        "openssl ecparam -name prime256v1 -genkey -noout -out a.key\n"
        "openssl ec -in a.key -pubout -out a.pub",
        folder,
    )
    assert ran.returncode == 0, ran.stderr
    signing.Config().use_elliptic_key_signer(private_key=key).sign(place, folder / "a.sig")
    check = verifying.Config().use_elliptic_key_verifier(public_key=public)
    check.verify(place, folder / "a.sig")
    changed = data.draw(st.sampled_from(sorted(place.iterdir())))
    content = bytearray(changed.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    changed.write_bytes(content)
    with pytest.raises(ValueError, match="mismatch"):
        check.verify(place, folder / "a.sig")
