"""Dreams of a model: they show what filters see, exceed real images, and come with a control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.core.filters import Filter
from repairkit.dreams.evolution import Evolution
from repairkit.jobs.dream.dream import Dream, DreamSettings
from repairkit.jobs.dream.dreaming import dream_filters
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.jobs.setup.workbench import Bench, Settings
from tests import zoo
from tests.dreams.known_filters import SIDE, correlation, kernels, known_model
from tests.ensembles import forest

KNOWN = [Filter("seen", channel) for channel in range(3)]
QUICK = DreamSettings(evolution=Evolution(n_first=64, n_generations=6))


def bench_of(folder: Path, *, images: bool, seed: int = 0, workers: int = 2) -> Bench:
    path = folder / "known.onnx"
    onnx.save(known_model(), path)
    settings = Settings(absent="zero", seed=seed, workers=workers, metrics=("loss",))
    if images:
        rng = np.random.default_rng(3)
        x = rng.uniform(-1, 1, (40, 3, SIDE, SIDE)).astype(np.float32)
        np.savez(folder / "data.npz", x=x, y=np.arange(40) % 2)
        settings = replace(settings, data=folder / "data.npz")
    return prepare_unjudged(read_subject(path), settings)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench_of(tmp_path_factory.mktemp("known"), images=True)


@pytest.fixture(scope="module")
def dreams(bench: Bench) -> tuple[Dream, ...]:
    return dream_filters(bench, KNOWN, DreamSettings())


def seen(dream: Dream) -> NDArray[np.float64]:
    """What the filter sees of the model's input, (height, width, colours)."""
    part = dream.window.of(dream.input[None], (2, 3))[0]
    return part.transpose(1, 2, 0).astype(np.float64)


def test_dreams_of_known_filters_show_them(dreams: tuple[Dream, ...]) -> None:
    for dream, kernel in zip(dreams, kernels(), strict=True):
        assert correlation(seen(dream), kernel) >= 0.8
        # And so does the picture that people look at.
        assert dream.image.shape == kernel.shape
        assert correlation(dream.image.astype(float), kernel) >= 0.8


def test_dreams_exceed_real_images_and_controls(dreams: tuple[Dream, ...]) -> None:
    for dream in dreams:
        assert dream.real is not None
        assert dream.excess is not None
        assert dream.control_excess is not None
        assert dream.excess > 1
        assert dream.excess > dream.control_excess + 3
        assert dream.control_filter in KNOWN
        assert dream.control_filter != dream.filter


def test_dreams_and_real_images_are_measured_alike(bench: Bench, dreams: tuple[Dream, ...]) -> None:
    """An oracle: the model itself, run on the dreams and on the images."""
    runner = bench.working.opened.tap(("maps",))
    maps = runner.run(np.stack([dream.input for dream in dreams]))["maps"]
    suite = bench.parts.selection
    real = runner.run(suite.batch(np.arange(len(suite))))["maps"].max(axis=(2, 3))
    for number, dream in enumerate(dreams):
        channel = dream.filter.channel
        assert dream.response == pytest.approx(maps[number, channel].max(), rel=1e-4)
        assert dream.real is not None
        assert dream.real.best == pytest.approx(real[:, channel].max(), rel=1e-4)
        assert dream.real.mean == pytest.approx(real[:, channel].mean(), rel=1e-4)
        assert dream.real.spread == pytest.approx(real[:, channel].std(), rel=1e-4)
        assert dream.control_filter is not None
        other = KNOWN.index(dream.control_filter)
        assert dream.control == pytest.approx(maps[other, channel].max(), rel=1e-4)


def test_dreams_stay_within_the_range_of_pixels(bench: Bench) -> None:
    dreams = dream_filters(bench, KNOWN, replace(QUICK, pixel_range=(-0.5, 0.25)))
    for dream in dreams:
        assert dream.input.min() >= -0.5
        assert dream.input.max() <= 0.25


def test_one_seed_gives_one_dream_whatever_the_workers(tmp_path: Path) -> None:
    wanted = [Filter("either", 0), *KNOWN]
    made = [
        dream_filters(bench_of(tmp_path, images=False, seed=seed, workers=workers), wanted, QUICK)
        for seed, workers in ((0, 1), (0, 3), (1, 1))
    ]
    first, again, other = ([dream.input.tobytes() for dream in some] for some in made)
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))
    assert all(dream.real is None and dream.excess is None for dream in made[0])
    # A lone filter has a control too, which is dreamt for this alone.
    assert made[0][0].control_filter == Filter("either", 1)


def test_diverse_dreams_of_a_filter_stand_together(bench: Bench) -> None:
    settings = replace(QUICK, diverse=2, evolution=Evolution(n_first=128, n_generations=30))
    dreams = dream_filters(bench, [Filter("either", 0)], settings)
    assert [dream.number for dream in dreams] == [0, 1]
    assert correlation(*(seen(dream) for dream in dreams)) < 0.5
    assert all(dream.excess is not None and dream.excess > 0 for dream in dreams)


def test_the_mean_over_the_map_can_be_excited(bench: Bench) -> None:
    wanted = [Filter("either", 0)]
    settings = replace(QUICK, at="channel", evolution=Evolution(n_generations=20))
    (dream,) = dream_filters(bench, wanted, settings)
    assert dream.window.height == SIDE
    maps = bench.working.opened.tap(("mixed",)).run(dream.input[None])["mixed"]
    assert dream.response == pytest.approx(maps[0, 0].mean(), rel=1e-4)
    assert dream.excess is not None
    assert dream.excess > 0


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "no filter was named"),
        ([Filter("seen", 99)], "has 5 filters"),
        ([Filter("nowhere", 0)], "no site 'nowhere'"),
    ],
)
def test_what_cannot_be_dreamt_is_refused(
    bench: Bench, filters: list[Filter], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        dream_filters(bench, filters, QUICK)


def test_trees_have_no_dreams(tmp_path: Path) -> None:
    made = forest(0, kind="TreeEnsembleClassifier")
    path = tmp_path / "trees.onnx"
    onnx.save(made.model, path)
    bench = prepare_unjudged(read_subject(path), Settings(absent="zero"))
    with pytest.raises(SettingsError, match="only channels have dreams"):
        dream_filters(bench, bench.roster.filters[:1], QUICK)


@pytest.mark.parametrize("changed", [{"at": "edge"}, {"diverse": 0}, {"diverse": 99}])
def test_settings_that_make_no_sense_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"choose|give 1 to"):
        DreamSettings(**changed)  # type: ignore[arg-type]


@zoo.needs_zoo
@pytest.mark.slow
def test_dreams_of_a_real_model_exceed_its_images() -> None:
    data = zoo.data("cifar10_jpeg_test10k")
    bench = prepare_unjudged(
        read_subject(zoo.model("mlperf_resnet8")), Settings(data=data, absent="zero")
    )
    every = bench.roster.filters
    wanted = [every[i] for i in range(5, len(every), 28)]  # twelve, of early and late layers
    dreams = dream_filters(bench, wanted, DreamSettings())
    above = [dream.excess for dream in dreams if dream.excess is not None]
    controls = [dream.control_excess for dream in dreams if dream.control_excess is not None]
    assert len(above) == len(wanted)
    assert np.mean(np.array(above) > 0) >= 0.75
    assert np.median(above) > 2
    assert np.median(controls) < 0
