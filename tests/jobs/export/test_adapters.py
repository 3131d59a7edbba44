"""Adapters are found, chosen and reported by name."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from repairkit.core.errors import AdapterError, SettingsError
from repairkit.jobs.setup.subject import GROUP, choose_adapter, find_adapters


class Fake:
    """An adapter of somebody else's."""

    extra = "fake"

    def __init__(self, name: str = "fake", ending: str = ".fake") -> None:
        self.name, self.ending = name, ending

    def takes(self, source: str) -> bool:
        return source.endswith(self.ending)

    def load(self, source: str, options: object) -> object:
        return source, options


ADAPTER = Fake()
SAME_NAME = Fake()
NO_ADAPTER = object()


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


def test_a_broken_adapter_does_not_take_the_others_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = "tests.jobs.export.test_adapters"
    points = [
        point("fake", f"{here}:ADAPTER"),
        point("gone", "no.such.module:ADAPTER"),
        point("lacking", f"{here}:NO_ADAPTER"),
        point("second", f"{here}:SAME_NAME"),
    ]
    with caplog.at_level(logging.WARNING):
        found = find_adapters(points)
    assert [a.name for a in found] == ["fake"]
    assert [r.args[0] for r in caplog.records if r.args] == ["gone", "lacking", "second"]


def test_an_installed_third_party_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "someone-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: someone\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\nfake = someone_else:ADAPTER\n")
    (tmp_path / "someone_else.py").write_text(
        "class A:\n    name, extra = 'fake', 'fake'\n    takes = load = lambda *_: True\n"
        "ADAPTER = A()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "fake" in [a.name for a in find_adapters()]


def test_one_is_chosen_by_name_or_by_source() -> None:
    one, other = Fake("one", ".one"), Fake("other", ".two")
    assert choose_adapter("net.two", None, (one, other)) is other
    assert choose_adapter("net.two", "one", (one, other)) is one
    with pytest.raises(SettingsError, match="no framework 'jax'; known are one, other"):
        choose_adapter("net.two", "jax", (one, other))
    with pytest.raises(SettingsError, match="both one and again may take it"):
        choose_adapter("net.one", None, (one, Fake("again", ".one")))
    with pytest.raises(AdapterError, match=r"no adapter takes it, and there is no such file"):
        choose_adapter("net.three", None, (one, other))


def test_looking_for_adapters_imports_no_framework() -> None:
    code = (
        "import sys; from repairkit_adapters.pytorch import ADAPTER; ADAPTER.takes('a:b');"
        "print([m for m in ('torch', 'tensorflow', 'keras') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
