"""Triggers that nobody has seen: searched for by gradients and without; classes that stand out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.backdoors import (
    LEAST_DEVIATIONS,
    Backdoor,
    Outlier,
    Reversal,
    Unit,
    anomalies,
    reverse_by_gradients,
    reverse_by_passes,
)
from repairkit.core.errors import AdapterError, SettingsError, TargetNotMetError
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.backdoor import reversing
from repairkit.jobs.backdoor.planting import plant
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from tests.conftest import Answer
from tests.jobs.backdoor import backdoored_net as net

PLACE = (1, 2)
STEEP = 12.0


def slopes(units: Unit) -> tuple[NDArray[np.float64], Unit]:
    """Class 1 is likelier where one pixel is bright: losses and gradients by hand."""
    margin = STEEP * (units[:, PLACE[0], PLACE[1], 0] - 0.5)
    towards = np.zeros_like(units)
    towards[:, PLACE[0], PLACE[1], 0] = -STEEP / (1 + np.exp(margin))
    return np.log1p(np.exp(-margin)), towards


def dark(n: int = 20) -> Unit:
    return np.random.default_rng(0).random((n, 7, 7, 1)) * 0.3


def test_both_searches_find_the_one_pixel_that_decides() -> None:
    rng = np.random.default_rng
    for found in (
        reverse_by_gradients(dark(), slopes, Reversal(n_steps=200, price=0.05), rng(1)),
        reverse_by_passes(dark(), lambda u: slopes(u)[0], Reversal(price=0.05), rng(1)),
    ):
        share = found.trigger.share
        assert found.success >= 0.85
        assert np.unravel_index(share.argmax(), share.shape) == PLACE
        assert found.trigger.picture[*PLACE, 0] > 128
        assert found.trigger.size < 0.4 * share.size


def test_the_search_repeats_itself() -> None:
    first, second = (
        reverse_by_passes(
            dark(), lambda u: slopes(u)[0], Reversal(n_steps=10), np.random.default_rng(4)
        )
        for _ in range(2)
    )
    assert np.array_equal(first.trigger.share, second.trigger.share)


@given(
    st.lists(st.floats(1, 100), min_size=4, max_size=12),
    st.floats(0.1, 50),
)
@settings(deadline=None)
def test_anomalies_ignore_scale_and_what_is_above_the_median(
    sizes: list[float], factor: float
) -> None:
    known = np.array(sizes)
    away = anomalies(known)
    assert (away >= 0).all()
    assert not away[known > np.median(known) * 1.001].any()
    assert np.allclose(away, anomalies(factor * known), atol=1e-6)
    assert away[known.argmin()] == away.max()


def test_a_class_without_a_trigger_is_no_outlier() -> None:
    away = anomalies(np.array([30.0, 31.0, 29.0, np.inf, 4.0]))
    assert away[3] == 0
    assert away[4] > LEAST_DEVIATIONS
    assert Outlier.of(np.array([30.0, 31.0, 29.0, np.inf, 4.0])).is_named
    # The smallest of many is not named where another one is nearly as small.
    assert not Outlier.of(np.array([30.0, 31.0, 29.0, 7.0, 4.0])).is_named
    assert not Outlier.of(np.full(5, np.inf)).is_named


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return net.write(tmp_path_factory.mktemp("reversed"))


def bench_of(place: Path, model: str = "model.onnx") -> Bench:
    job = Settings(data=place / "data.npz", preprocessing=Preprocessing(scale=1 / 255), workers=1)
    return prepare(read_subject(place / model), job)


def test_the_target_is_named_and_the_culprit_frozen(
    place: Path, repairkit: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.chdir(place)
    said = repairkit(
        "patch", "model.onnx", "--data", "data.npz", "--scale", "1/255", "--backdoor",
        "--max-evaluations", "400", "--workers", "1", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert document["backdoor"]["target"] == net.TARGET
    assert document["backdoor"]["how"] == "reversed trigger"
    assert net.CULPRIT in [each["filter"] for each in document["frozen"]]
    assert any("nobody has seen the true trigger" in note for note in document["notes"])


def test_a_sound_network_is_declined(place: Path) -> None:
    import onnx

    onnx.save(net.network(backdoor=False), place / "sound.onnx")
    with pytest.raises(TargetNotMetError, match="no class's reversed trigger stands out"):
        plant(bench_of(place, "sound.onnx"), Backdoor(backdoor=True))


def test_another_model_is_no_source(place: Path) -> None:
    class Other:
        framework, input_shape = "other", (3, 9, 9)

    with pytest.raises(AdapterError, match="does not compute what"):
        reversing.reverse(bench_of(place), ("other", Other()))  # type: ignore[arg-type]


def test_a_target_class_alone_is_refused() -> None:
    faults = list(Backdoor(backdoor=True, target_class="3").faults())
    assert len(faults) == 1
    assert issubclass(SettingsError, Exception)
