"""repairkit from Python does what the commands do."""

from pathlib import Path

import numpy as np
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


def test_two_owners_add_up_from_python(project: Project, tmp_path: Path) -> None:
    stored = dict(np.load(project.data))
    common = tmp_path / "means.json"
    repairkit.means(project.model, project.data, out=common)
    for name, part in (("one", slice(50)), ("two", slice(50, None))):
        np.savez(tmp_path / f"{name}.npz", **{key: column[part] for key, column in stored.items()})
        settings = repairkit.Settings(means=common)
        data, out = tmp_path / f"{name}.npz", tmp_path / name
        repairkit.score(project.model, data, method="exact", settings=settings, out=out)
    merged = repairkit.merge([tmp_path / "one", tmp_path / "two"])
    assert merged.scores.decided.all()
    assert len(merged.table()) == 4


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scoring'"):
        _ = repairkit.scoring
