"""Means are those of all images and positions, however they are streamed."""

import numpy as np
import onnx
import pytest

from repairkit.core.suite import Annotations, Suite
from repairkit.engine import activations as streaming
from repairkit.engine.activations import measure_means
from repairkit.graph.kinds.sites import find_sites
from tests import models
from tests.running import opened, run


class Noise:
    """Images held in memory."""

    def __init__(self, n: int) -> None:
        self.x = models.images(n)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.x[indices]


@pytest.mark.parametrize("chunk_bytes", [1, 2**28])
@pytest.mark.parametrize("name", ["own_bias", "normalised", "transposed", "bias_add"])
def test_means_equal_those_of_the_tapped_tensor(
    name: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_MEANS_BYTES", chunk_bytes)
    model, images = models.LAYERS[name](), Noise(37)
    sites = find_sites(model)
    suite = Suite.whole("calibration", images, Annotations(labels=np.zeros(37, np.int64)))
    found = measure_means(opened(model), sites, suite)
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.append(onnx.helper.make_empty_tensor_value_info(sites[0].tensor))
    yields = run(tapped, {"image": images.x})[-1].astype(np.float64)
    np.testing.assert_allclose(
        found[sites[0].name], yields.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6
    )
    sizes = measure_means(opened(model), sites, suite, magnitude=True)
    np.testing.assert_allclose(
        sizes[sites[0].name], np.abs(yields).mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6
    )
