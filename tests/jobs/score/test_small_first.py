"""Ranking by small images, and what is measured at the model's own size."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

import repairkit
from repairkit.core.errors import BudgetError, ModelError, SettingsError
from repairkit.core.scores import Budget
from repairkit.data.parts import PartPlan
from repairkit.engine.activations import measure_means
from repairkit.estimators.driving import driver
from repairkit.estimators.exact import Exact
from repairkit.jobs.score import small_first
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from tests.conftest import Answer
from tests.running import run

FULL, SMALL, N = 20, 10, 150


def network(pool: str = "global", side: int | str = FULL) -> ModelProto:
    """Ten filters in two convolutions; the sizes of its images are declared and fixed."""
    rng = np.random.default_rng(2)
    weights = {
        "w1": rng.standard_normal((6, 3, 3, 3)) / 3,
        "w2": rng.standard_normal((4, 6, 3, 3)) / 4,
        "fc": rng.standard_normal((4 if pool == "global" else 4 * FULL * FULL, 3)) * 3,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], "relu2"),
    ]
    last = "d"
    if pool == "global":
        nodes.append(helper.make_node("GlobalAveragePool", ["d"], ["p"], "pool"))
        last = "p"
    nodes += [
        helper.make_node("Flatten", [last], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc"], ["scores"], "dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def pictures(n: int = N) -> NDArray[np.float32]:
    """Smooth noise, of which a smaller image shows nearly all."""
    coarse = np.random.default_rng(3).standard_normal((n, 3, 5, 5))
    return np.repeat(np.repeat(coarse, FULL // 5, axis=2), FULL // 5, axis=3).astype(np.float32)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model that is mostly right, and its images."""
    model = network()
    onnx.save(model, tmp_path / "model.onnx")
    x = pictures()
    rng = np.random.default_rng(4)
    labels = run(model, {"image": x})[0].argmax(axis=1)
    wrong = rng.random(N) < 0.1
    np.savez(tmp_path / "data.npz", x=x, y=np.where(wrong, rng.integers(0, 3, N), labels))
    return tmp_path


def settings_of(place: Path, **more: object) -> repairkit.Settings:
    return repairkit.Settings(
        data=place / "data.npz",
        parts=PartPlan(calibration="0.2", selection="0.8", test="none"),
        **more,  # type: ignore[arg-type]
    )


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_are_made_smaller_as_pillow_does() -> None:
    images = np.random.default_rng(0).random((2, 3, 23, 31)).astype(np.float32)

    class Source:
        def __len__(self) -> int:
            return 2

        def batch(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
            return images[indices]

    small = small_first.SmallImages(Source(), (9, 13), "nchw").batch(np.arange(2))
    for image, found in zip(images, small, strict=True):
        for plane, ours in zip(image, found, strict=True):
            theirs = Image.fromarray(plane).resize((13, 9), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(ours, np.asarray(theirs), atol=2e-6)


def test_values_are_of_full_size_where_it_was_measured_and_marked_elsewhere(place: Path) -> None:
    scored = repairkit.score(
        place / "model.onnx",
        settings=settings_of(place),
        metric="loss",
        method="regression",
        options={"top_k": 1},
        score_size=SMALL,
        max_evaluations=12_000,
        out=place / "run",
    )
    told = json.loads((place / "run" / "run.json").read_text())["score_size"]
    assert (told["size"], told["full"], told["top_k"]) == ([SMALL] * 2, [FULL] * 2, 1)
    assert len(told["filters"]) == 4  # two at each end
    rows = rows_of(place / "run")
    sizes = {row["filter"]: row["size"] for row in rows}
    assert {f for f, size in sizes.items() if size == "20x20"} == set(told["filters"])
    assert set(sizes.values()) == {"20x20", "10x10"}
    # The values at full size are those of enumeration, on the images that did not rank.
    full = scored.bench
    scoring = ScoreSettings(score_size=(SMALL, SMALL))
    ranking, confirming = small_first._halves(full, scoring)
    assert not set(ranking.indices) & set(confirming.indices)
    assert told["images"] == len(confirming)
    game = full.working.game(confirming, full.metrics(("loss",)))
    truth = driver.estimate(game, Exact(), budget=Budget(), seed=0).scores.values[:, 0]
    columns = {f.id: player for player, f in enumerate(full.roster.filters)}
    for row in rows:
        if row["size"] == "20x20":
            gap = float(row["value"]) - truth[columns[row["filter"]]]
            assert abs(gap) < 5 * float(row["std_error"]) < 0.2
    ends = truth.sum()
    assert told["metrics"]["loss"]["all"] - told["metrics"]["loss"]["none"] == pytest.approx(ends)
    # And those of the small size are not.
    assert scored.document["decided"] is False
    assert "known" not in scored.document


def test_the_same_bytes_for_any_workers_and_any_cache(place: Path) -> None:
    tables = set()
    for number, (workers, cache) in enumerate(((1, 0), (2, None))):
        repairkit.score(
            place / "model.onnx",
            settings=settings_of(place, workers=workers, cache_memory=cache),
            score_size=SMALL,
            max_evaluations=2_000,
            out=place / f"run{number}",
        )
        tables.add((place / f"run{number}" / "scores.csv").read_bytes())
    assert len(tables) == 1


def test_levels_are_those_of_the_size_at_which_they_are_used(place: Path) -> None:
    bench = prepare(read_subject(place / "model.onnx"), settings_of(place))
    scoring = ScoreSettings(score_size=(SMALL, SMALL))
    small = small_first.small_bench(bench, scoring, here=True, go_on=False)
    assert small.roster.filters == bench.roster.filters
    sites = bench.roster.sites
    model = network(side=SMALL)
    suite = small.parts.calibration
    taps = run(
        _with_outputs(model, [site.tensor for site in sites]),
        {"image": suite.batch(np.arange(len(suite)))},
    )[1:]
    for site, tensor in zip(sites, taps, strict=True):
        expected = tensor.mean(axis=(0, 2, 3))
        np.testing.assert_allclose(small.working.levels[site.name], expected, rtol=1e-4, atol=1e-5)
    own = measure_means(bench.working.opened, sites, bench.parts.calibration)
    assert any(
        not np.allclose(own[site.name], small.working.levels[site.name], rtol=1e-3)
        for site in sites
    )


def _with_outputs(model: ModelProto, tensors: list[str]) -> ModelProto:
    for name in tensors:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def test_a_model_that_depends_on_its_size_is_refused_with_the_node(place: Path) -> None:
    onnx.save(network(pool="none"), place / "model.onnx")
    with pytest.raises(ModelError, match=r"10x10: node 'dense' \(Gemm\) depends on the size"):
        repairkit.score(
            place / "model.onnx",
            settings=settings_of(place, accept_preprocessing=True),
            score_size=SMALL,
        )


def test_a_model_with_open_sizes_is_ranked_at_a_smaller_one(place: Path) -> None:
    onnx.save(network(side="side"), place / "model.onnx")
    scored = repairkit.score(
        place / "model.onnx",
        settings=settings_of(place),
        score_size=(SMALL, SMALL),
        max_evaluations=1_000,
    )
    assert scored.document["score_size"]["full"] == [FULL, FULL]


def test_a_run_that_is_killed_before_full_size_claims_nothing_of_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def score() -> None:
        repairkit.score(
            place / "model.onnx",
            settings=settings_of(place),
            score_size=SMALL,
            max_evaluations=2_000,
            out=place / "run",
        )

    with monkeypatch.context() as patched:
        patched.setattr(small_first, "confirm", killed)
        with pytest.raises(KeyboardInterrupt):
            score()
    assert {row["size"] for row in rows_of(place / "run")} == {"10x10"}
    told = json.loads((place / "run" / "run.json").read_text())["score_size"]
    assert told["filters"] == []
    score()  # goes on with what is missing
    assert {row["size"] for row in rows_of(place / "run")} == {"10x10", "20x20"}


@pytest.mark.parametrize(
    ("size", "more", "error", "words"),
    [
        (FULL, {}, SettingsError, "20x20 is not smaller than the model's 20x20"),
        ((FULL + 1, 8), {}, SettingsError, "21x8 is not smaller"),
        (SMALL, {"method": "weight-norm"}, SettingsError, "weight-norm knows no size"),
        (SMALL, {"max_evaluations": 100}, BudgetError, "at least 160"),
    ],
)
def test_what_makes_no_sense_is_refused(
    place: Path, size: object, more: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        repairkit.score(place / "model.onnx", settings=settings_of(place), score_size=size, **more)


def test_the_command_takes_a_side_or_both(place: Path, repairkit: Callable[..., Answer]) -> None:
    where = ("model.onnx", "--data", "data.npz", "--max-evaluations", "800")
    answer = repairkit("score", *where, "--score-size", "10x10", "-o", "run")
    assert answer.code == 0, answer.err
    assert "ranked at 10x10" in answer.out
    words = json.loads((place / "run" / "run.json").read_text())["again"]["words"]
    assert words[words.index("--score-size") + 1] == "10x10"
    assert repairkit("report", "run").code == 0
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert "ranked at 10x10" in page
    assert "all others are of 10x10 and say nothing of 20x20" in page
    assert repairkit("compare", "run", "run").code == 0
    wrong = repairkit("score", *where, "--score-size", "12 by 12")
    assert wrong.code == 1
    assert "such as 128" in wrong.err
