"""repairkit from Python does what the commands do."""

from pathlib import Path

import pytest

import repairkit
from tests.conftest import Project


def test_score_patch_and_verify_from_python(project: Project, tmp_path: Path) -> None:
    scored = repairkit.score(
        project.model, project.data, metric=["accuracy", "loss"], method="exact"
    )
    assert scored.scores.metrics == ("accuracy", "loss")
    assert scored.folder is None
    worst = scored.table()[-1]["filter"]
    done = repairkit.patch(
        project.model, project.data, remove=[worst], out=tmp_path / "patched.onnx"
    )
    assert [f.filter.id for f in done.patch.frozen] == [worst]
    proven = repairkit.verify(
        project.model,
        done.out,
        patch_file=done.patch_file,
        settings=repairkit.Settings(data=project.data),
    )
    assert proven.patch == done.patch
    assert proven.images == "given images"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scoring'"):
        _ = repairkit.scoring
