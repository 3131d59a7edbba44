"""Values of a run beside the concepts of a dissection."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import repairkit
from repairkit.api import Dissected, compare
from repairkit.cli import run as run_command
from repairkit.core.errors import RunFolderError, SettingsError
from tests import concept_nets


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Dissected]:
    """A run and a dissection of the first layer of the detectors."""
    folder = tmp_path_factory.mktemp("valued")
    model, rng = folder / "model.onnx", np.random.default_rng(0)
    onnx.save(concept_nets.detectors(), model)
    images = rng.integers(0, 255, (60, 3, 32, 32)).astype(np.float32), np.arange(60) % 3
    words = {"sites": ["parts"], "accept_preprocessing": True}
    repairkit.score(
        model, images, method="weight-norm", curve=False, out=folder / "run", **words  # type: ignore[arg-type]
    )  # fmt: skip
    done = repairkit.dissect(model, blocks=4, copies=1, out=folder / "found", sites=["parts"])
    return folder / "run", folder / "found", done


def with_values(run: Path, place: Path, value: Callable[[str], float], error: float) -> Path:
    """A copy of a run whose filters have other values."""
    place.mkdir()
    (place / "run.json").write_bytes((run / "run.json").read_bytes())
    rows = list(csv.DictReader(io.StringIO((run / "scores.csv").read_text())))
    for row in rows:
        row["value"], row["std_error"] = repr(value(row["filter"])), repr(error)
    with (place / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return place


def test_values_that_follow_the_overlap_are_found(
    both: tuple[Path, Path, Dissected], tmp_path: Path
) -> None:
    run, found, done = both
    overlap = {e["filter"]: e["mask"]["iou"] for e in done.document["filters"] if e["mask"]}
    changed = with_values(run, tmp_path / "run", lambda name: overlap[name] - 0.02, 0.001)
    n_filters = len(done.document["filters"])
    result = repairkit.compare_concepts(changed, found, top_k=n_filters)
    (masks,) = result.kinds
    assert masks.links[0].correlation == pytest.approx(1.0)
    assert masks.links[0].p is not None
    assert masks.links[0].p < 0.001
    high = masks.group("highest", "score")
    assert high.n == n_filters // 4
    assert high.mean is not None
    assert high.others is not None
    assert high.mean > high.others
    assert high.chance_high is not None
    assert high.difference is not None
    assert high.difference > high.chance_high
    assert masks.layers[0].n == n_filters
    assert sum(masks.layers[0].categories.values()) == masks.layers[0].detects
    assert result.noise is not None
    assert result.noise < 0.05
    assert run_command(["compare", str(changed), str(found), "--json"]) == 0
    assert run_command(["compare", str(changed), str(found)]) == 0


def test_values_that_are_noise_are_called_so(
    both: tuple[Path, Path, Dissected], tmp_path: Path
) -> None:
    run, found, _ = both
    rng = np.random.default_rng(2)
    changed = with_values(run, tmp_path / "run", lambda _: float(rng.normal()), 1.0)
    result = repairkit.compare_concepts(changed, found, top_k=5)
    assert result.noise is not None
    assert result.noise > 0.5
    assert any("is the error of their estimates" in note for note in result.notes)
    (masks,) = result.kinds
    assert masks.links[0].p is not None
    assert masks.links[0].p > 0.01
    assert any("only 5 filters of lowest value" in note for note in masks.notes)


def test_what_does_not_fit_together_is_told(
    both: tuple[Path, Path, Dissected], tmp_path: Path
) -> None:
    run, found, _ = both
    with pytest.raises(SettingsError, match=r"by compare_concepts\(run, dissection\)"):
        compare([run, found])
    with pytest.raises(RunFolderError, match="has no values for loss; it has them for"):
        repairkit.compare_concepts(run, found, metric="loss")
    with pytest.raises(RunFolderError, match="there is no such file"):
        repairkit.compare_concepts(run, tmp_path / "nowhere.json")
    (tmp_path / "dissection.json").write_text('{"kind": "other"}')
    with pytest.raises(RunFolderError, match="is no dissection; name a folder that dissect wrote"):
        repairkit.compare_concepts(run, tmp_path)
    other = tmp_path / "other.onnx"
    onnx.save(concept_nets.random_network(0, (8,)), other)
    repairkit.dissect(other, blocks=4, copies=1, out=tmp_path / "second")
    with pytest.raises(RunFolderError, match="another model; dissect the model of the run"):
        repairkit.compare_concepts(run, tmp_path / "second")
