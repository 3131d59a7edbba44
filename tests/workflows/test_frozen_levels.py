"""Constants that are tried for frozen filters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

from repairkit.core.filters import Filter
from repairkit.core.patch import FrozenFilter
from repairkit.workflows.bench import Bench, prepare
from repairkit.workflows.frozen_levels import _constants, _options
from repairkit.workflows.settings import Settings
from repairkit.workflows.subject import read_subject
from tests.conftest import Project
from tests.tables import converted, save, write_table


@pytest.fixture(params=["layers", "trees"])
def bench(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> Bench:
    if request.param == "layers":
        return prepare(read_subject(project.model), Settings(data=project.data, workers=1))
    x, y = load_wine(return_X_y=True)
    forest = RandomForestClassifier(4, max_depth=2, random_state=0).fit(x, y)
    path = save(converted(forest, x), tmp_path / "forest.onnx")
    data = write_table(tmp_path / "rows.csv", x.astype(np.float32), y)
    return prepare(read_subject(path), Settings(data=data, workers=1))


def test_every_constant_has_the_shape_of_its_filter_and_none_comes_twice(bench: Bench) -> None:
    options = _options(bench)
    for levels in options:
        assert {name: level.shape for name, level in levels.items()} == {
            name: level.shape for name, level in bench.means.items()
        }
    site = bench.roster.sites[0].name
    frozen = FrozenFilter(Filter(site, 1), 123.0)
    found = list(_constants(options, frozen))
    assert len(found) == len(set(found)) > 3
    assert frozen.constant not in found
    same = FrozenFilter(frozen.filter, found[0])
    assert found[0] not in list(_constants(options, same))
