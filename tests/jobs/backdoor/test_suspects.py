"""Channels that look like a backdoor's: bounds by weights, outliers, and simple prunings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from repairkit.backdoors import Backdoor
from repairkit.data.preprocessing import Preprocessing
from repairkit.graph.kinds.sites import survey
from repairkit.jobs.backdoor.planting import plant
from repairkit.jobs.backdoor.suspects import deviations, most_suspect, prunings, suspects
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests import models
from tests.conftest import Answer
from tests.jobs.backdoor import backdoored_net as net


def bounds_of(model: Any, site: str) -> Any:
    return survey(model, include=("dense",)).layers[site].reaches()


@given(seed=st.integers(0, 999), factor=st.floats(0.1, 50))
@settings(max_examples=30, deadline=None)
def test_the_bound_is_the_largest_stretch_and_scales_with_the_filter(
    seed: int, factor: float
) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    kernel[1] *= factor

    def made(weights: Any) -> Any:
        w = {"w": weights}
        nodes = [helper.make_node("Conv", ["image", "w"], ["y"], "conv", pads=[1, 1, 1, 1])]
        return models.model_of(nodes + models.head("y", w, 3), w)

    bounds = bounds_of(made(kernel), "conv")
    for channel, bound in enumerate(bounds):
        rows = kernel[channel].reshape(2, 9).astype(np.float64)
        # An eigenvalue of the Gram matrix of the two rows, by the formula for two by two.
        a, b, d = rows[0] @ rows[0], rows[0] @ rows[1], rows[1] @ rows[1]
        largest = (a + d) / 2 + np.hypot((a - d) / 2, b)
        assert bound == pytest.approx(np.sqrt(largest), rel=1e-6)
        steps = rng.standard_normal((50, 9))
        stretched = np.linalg.norm(steps @ rows.T, axis=1) / np.linalg.norm(steps, axis=1)
        assert (stretched <= bound * (1 + 1e-9)).all()
    kernel[2] *= 3
    assert bounds_of(made(kernel), "conv")[2] == pytest.approx(3 * bounds[2], rel=1e-6)


def test_a_normalisation_that_follows_counts() -> None:
    surveyed = survey(models.LAYERS["normalised"]())
    (layer,) = surveyed.layers.values()
    folded = layer.folded()
    assert folded is not None
    expected = [np.linalg.norm(each.reshape(len(each), -1), 2) for each in folded.kernel]
    assert np.allclose(layer.reaches(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(models.LAYERS))
def test_every_kind_of_layer_has_bounds_of_its_filters(name: str) -> None:
    for layer in survey(models.LAYERS[name](), include=("dense",)).layers.values():
        bounds = layer.reaches()
        assert bounds.shape == (layer.site.n_channels,)
        assert (bounds >= 0).all()
        # No singular value is above the norm of all weights.
        if not getattr(layer, "nodes", None) or layer.nodes.norm is None:
            assert (bounds <= layer.norms() * (1 + 1e-6)).all()


@given(st.lists(st.floats(0.1, 5), min_size=4, max_size=30))
def test_deviations_have_mean_zero_and_ignore_the_layers_scale(bounds: list[float]) -> None:
    known = np.array(bounds)
    away = deviations(known)
    assert abs(away.mean()) < 1e-6
    if known.std() > 1e-6:
        assert np.allclose(away, deviations(7 * known), atol=1e-6)
    assert not deviations(known[:3]).any()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return net.write(tmp_path_factory.mktemp("suspected"))


def test_the_culprit_is_the_most_suspect() -> None:
    first = suspects(survey(net.network()))[0]
    assert first.filter.id == net.CULPRIT


def test_prunings_are_ranked_by_weights_and_by_clean_images(place: Path) -> None:
    job = Settings(data=place / "data.npz", preprocessing=Preprocessing(scale=1 / 255), workers=1)
    planted = plant(
        prepare(read_subject(place / "model.onnx"), job),
        Backdoor(backdoor=True, trigger=place / "seen.png"),
    )
    assert planted is not None
    bench = planted.bench
    assert bench.roster.filters[most_suspect(bench)[0]].id == net.CULPRIT
    weights, quiet = prunings(bench, 0.0)
    assert len(weights.players) == 0  # four channels never lie three deviations apart
    frozen = {bench.roster.filters[player].id for player in quiet.players}
    assert net.CULPRIT in frozen  # clean images leave it alone
    assert "conv:0" not in frozen  # accuracy lives on it


def test_inspect_ranks_without_data(place: Path, repairkit: Callable[..., Answer]) -> None:
    said = repairkit("inspect", str(place / "model.onnx"), "--suspect", "--json")
    rows = json.loads(said.out)["suspects"]
    assert rows[0]["filter"] == net.CULPRIT
    assert [row["deviations"] for row in rows] == sorted(
        (row["deviations"] for row in rows), reverse=True
    )
    shown = repairkit("inspect", str(place / "model.onnx"), "--suspect")
    assert "Filters whose weights look most like a backdoor's" in shown.out
