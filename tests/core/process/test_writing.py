"""Files are written whole, beside their place, through no link, and together."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from repairkit.core.process import writing
from repairkit.core.process.writing import is_draft, together, write_whole


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def kinds(places: list[Path]) -> dict[str, str]:
    """What is at each place: where a link leads, or whether it is a folder."""
    return {
        p.name: str(p.readlink()) if p.is_symlink() else str(p.is_dir())
        for p in places
        if os.path.lexists(p)
    }


def write_all(places: list[Path]) -> None:
    with together() as drafts:
        for place in places:
            drafts.write(place, b"new")


DYING = """
import os, sys
from pathlib import Path
from repairkit.core.process.writing import together
left, replace = [int(sys.argv[1])], Path.replace
def dying(self, target):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    return replace(self, target)
Path.replace = dying
with together() as drafts:
    for name in ("page", "patch", "model"):
        drafts.write(Path(name).absolute(), b"whole")
"""


def test_a_draft_is_new_even_where_its_name_was_foreseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(writing.secrets, "token_hex", lambda n: "ab" * n)
    (tmp_path / f".out.{'ab' * 8}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "out", b"new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_no_two_drafts_have_the_same_name(tmp_path: Path) -> None:
    seen = set()
    for _ in range(20):
        with together() as drafts:
            drafts.write(tmp_path / "out", b"")
            seen |= {n for n in names(tmp_path) if n != "out"}
    assert len(seen) == 20
    assert all(is_draft(Path(name)) for name in seen)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").symlink_to("victim")
    write_whole(tmp_path / "out", b"new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_is_what_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "out", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


def test_a_name_of_any_length_can_be_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127, "a.b"):
        write_whole(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    assert len(names(tmp_path)) == 3


@pytest.mark.parametrize("failing", range(3))
def test_if_one_rename_fails_every_place_is_as_it_was(tmp_path: Path, failing: int) -> None:
    places = [tmp_path / name for name in ("page", "patch", "model")]
    places[0].write_text("old page")
    places[1].symlink_to("page")
    if places[failing].is_symlink() or places[failing].exists():
        places[failing].unlink()
    places[failing].mkdir()  # no file can be renamed to a folder
    before = kinds(places)
    with pytest.raises(OSError, match="directory"):
        write_all(places)
    assert kinds(places) == before
    assert not [name for name in names(tmp_path) if is_draft(Path(name))]
    if failing != 0:
        assert places[0].read_text() == "old page"


def test_nothing_appears_where_a_later_draft_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")

    def write() -> None:
        with together() as drafts:
            drafts.write(tmp_path / "old", b"new")
            with drafts.open(tmp_path / "second") as file:
                file.write(b"half")
                raise OSError(28, "the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert names(tmp_path) == {"old"}
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize("kept", range(4))
def test_a_kill_between_renames_leaves_whole_files_and_drafts_that_are_known(
    tmp_path: Path, kept: int
) -> None:
    places = [tmp_path / name for name in ("page", "patch", "model")]
    command = [sys.executable, "-c", DYING, str(kept)]
    code = subprocess.run(command, cwd=tmp_path, check=False).returncode
    assert code == (-9 if kept < 3 else 0)
    assert [place.exists() for place in places] == [n < kept for n in range(3)]
    assert all(place.read_bytes() == b"whole" for place in places if place.exists())
    assert all(is_draft(tmp_path / name) for name in names(tmp_path) - {"page", "patch", "model"})


def test_what_is_no_draft_is_not_taken_for_one(tmp_path: Path) -> None:
    for name in (".mine.tmp", "run.json.12.tmp", ".run.json.12.tmp.bak", ".run.json.xyz.tmp"):
        assert not is_draft(tmp_path / name)
    for name in (".run.json.4711.tmp", ".checkpoint.0123456789abcdef.tmp"):
        assert is_draft(tmp_path / name)
