"""Quantised copies of patched real models: frozen filters are constant, or it is told."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import repairkit
from repairkit.core.errors import VerificationError
from tests import zoo
from tests.jobs.proof.test_quantising import quantise_on
from tests.jobs.proof.test_runtimes_on_zoo import patched
from tests.running import input_name

pytestmark = zoo.needs_zoo
RAW = ("cntk_mnist8", "mlperf_resnet8")  # pixels from 0 to 255
NAMES = ("cntk_mnist8", "gender_mini_XCEPTION", "mesonet", "mlperf_resnet8", "ultraface_rfb320")


def images_of(path: Path) -> tuple[str, list[np.ndarray]]:
    """The name of the input and a few images of noise, as bright as real ones."""
    model = zoo.load(path)
    shape, rng = zoo.image_of(model).shape, np.random.default_rng(0)
    scale = 255 if path.stem in RAW else 1
    return input_name(model), [(scale * rng.random(shape)).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize("way", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("name", NAMES)
def test_frozen_filters_of_real_models_are_constant_in_copies(
    name: str, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    out, n_frozen = patched(zoo.model(name), tmp_path)
    copy = quantise_on(out, tmp_path / "copy.onnx", *images_of(zoo.model(name)), way)
    found = repairkit.verify(zoo.model(name), out, quantised=copy).quantised
    assert found is not None
    assert len(found.filters) == n_frozen
    assert {each.spread for each in found.filters} == {0.0}


def test_a_scale_per_channel_moves_constants_where_pixels_are_large(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    path = zoo.model("mlperf_resnet8")
    out, _ = patched(path, tmp_path)
    copy = quantise_on(out, tmp_path / "copy.onnx", *images_of(path), "QDQ per channel")
    with pytest.raises(VerificationError, match=r"is constant in it, but .* one scale per channel"):
        repairkit.verify(path, out, quantised=copy)
