"""Constants that are tried for frozen filters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

from repairkit.core.filters import Filter, FrozenFilter, Patch, constant_of
from repairkit.core.suite import Indices
from repairkit.jobs.repair.cures.freezing import BestLevels, _constants, _options
from repairkit.jobs.setup.preparing import patched_outputs, prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
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
            name: level.shape for name, level in bench.working.levels.items()
        }
    site = bench.roster.sites[0].name
    frozen = FrozenFilter(Filter(site, 1), 123.0)
    found = list(_constants(options, frozen))
    assert len(found) == len(set(found)) > 3
    assert frozen.constant not in found
    same = FrozenFilter(frozen.filter, found[0])
    assert found[0] not in list(_constants(options, same))


@dataclass(frozen=True)
class _Near:
    """Likes outputs that are near to some, on each image; objects to all if told so."""

    wanted: np.ndarray
    noise: float = 0.0
    objects: bool = False
    additive: bool = True

    def columns(self, outputs: np.ndarray) -> np.ndarray:
        near = -np.abs(outputs - self.wanted).reshape(len(outputs), -1).sum(axis=1)
        # What is seen of one set of outputs says nothing of another image.
        seed = crc32(outputs.tobytes())
        return near * (self.noise == 0) + self.noise * np.random.default_rng(seed).normal(
            size=len(near)
        )

    def figure(self, columns: np.ndarray, positions: Indices) -> float:
        return float(columns[positions].mean())

    def objection(self, outputs: np.ndarray, positions: Indices) -> str:
        return "no" if self.objects and len(outputs) >= len(positions) else ""


def _levels(bench: Bench, criterion: _Near) -> BestLevels:
    strata = np.zeros(len(bench.parts.selection), np.int64)
    return BestLevels(bench=bench, criterion=criterion, strata=strata)


def _patch(bench: Bench, gain: float = 0.0) -> Patch:
    site = bench.roster.sites[0].name
    constant = constant_of(bench.working.levels[site][1])
    return Patch((FrozenFilter(Filter(site, 1), constant, gain),))


@pytest.fixture
def layers(project: Project) -> Bench:
    return prepare(read_subject(project.model), Settings(data=project.data, workers=1))


@pytest.mark.parametrize("gain", [0.25, 0.5])
def test_a_filter_is_frozen_partly_where_that_is_best(layers: Bench, gain: float) -> None:
    suite = layers.parts.selection
    wanted = patched_outputs(layers, _patch(layers, gain), suite)
    choose = BestLevels(
        bench=layers, criterion=_Near(wanted), strata=np.zeros(len(suite), np.int64)
    )
    patch, outputs = choose(_patch(layers), np.arange(len(suite)))
    assert patch == _patch(layers, gain)
    assert np.array_equal(outputs, wanted)


def test_levels_that_gain_by_chance_alone_leave_the_mean(layers: Bench) -> None:
    suite = layers.parts.selection
    wanted = patched_outputs(layers, _patch(layers), suite)
    by_chance = BestLevels(
        bench=layers, criterion=_Near(wanted, noise=1.0), strata=np.zeros(len(suite), np.int64)
    )
    kept = sum(
        by_chance(_patch(layers), np.sort(draw))[0] == _patch(layers)
        for draw in (np.random.default_rng(i).permutation(len(suite))[:20] for i in range(12))
    )
    assert kept >= 3  # with no look at other images it would hardly ever be
    forbidden = BestLevels(
        bench=layers, criterion=_Near(wanted, objects=True), strata=np.zeros(len(suite), np.int64)
    )
    assert forbidden(_patch(layers), np.arange(len(suite)))[0] == _patch(layers)


def test_trees_are_frozen_wholly(bench: Bench) -> None:
    suite, patch = bench.parts.selection, _patch(bench)
    choose = _levels(bench, _Near(bench.working.run_plain(suite)))
    gains = {way.gain for way in choose._variants(patch, 0)}
    trees = bench.roster.sites[0].n_values is not None
    assert gains == ({0.0} if trees else {0.0, 0.25, 0.5})
