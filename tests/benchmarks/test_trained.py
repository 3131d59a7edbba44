from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the networks are trained with torch")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from benchmarks.trained import RECIPES  # noqa: E402 (after what it needs)


@pytest.mark.parametrize(("name", "side", "most_macs"), [
    ("network-130", 8, 0.3e6), ("network-1000", 28, 1.0e6),
])  # fmt: skip
def test_networks_have_the_filters_they_are_named_after_and_are_cheap(
    name: str, side: int, most_macs: float
) -> None:
    network = RECIPES[name].build()
    filters, macs = [], []

    def look(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        filters.append(output.shape[1])
        macs.append(output[0, 0].numel() * module.weight.numel())

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(look)
    answers = network.eval()(torch.zeros(1, 1, side, side))
    assert answers.shape == (1, 10)
    assert sum(filters) == int(name.partition("-")[2])
    assert sum(macs) <= most_macs
