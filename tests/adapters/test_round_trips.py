"""From PyTorch to ONNX and back, on networks of the kinds that people train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from repairkit.core.errors import AdapterError  # noqa: E402
from repairkit.core.filters import Filter, FrozenFilter, Patch  # noqa: E402
from repairkit.core.framework import LayerMap, MappedLayer  # noqa: E402
from repairkit.core.results import Exported  # noqa: E402
from repairkit.formats.patch_file import PatchFile  # noqa: E402
from repairkit.graph.baking import bake  # noqa: E402
from repairkit.graph.kinds.channels import ChannelLayer  # noqa: E402
from repairkit.graph.kinds.layers import kernel_mask  # noqa: E402
from repairkit.graph.kinds.sites import survey  # noqa: E402
from repairkit.graph.metadata import read_layer_map  # noqa: E402
from repairkit.jobs.export.exporting import export  # noqa: E402
from repairkit.jobs.setup.workbench import Settings  # noqa: E402
from repairkit_adapters.pytorch import apply_patch, wrap  # noqa: E402
from tests.adapters.networks import SIDE, trained  # noqa: E402
from tests.running import run  # noqa: E402

QUICK = ("plain", "unet")
SLOW = ("densenet", "squeezenet", "resnet", "mobilenet")
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
SHAPE = (3, SIDE, SIDE)

Exports = Callable[[str], Exported]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Each network, exported once."""
    made: dict[str, Exported] = {}
    folder = tmp_path_factory.mktemp("exported")

    def get(name: str) -> Exported:
        if name not in made:
            model = wrap(trained(name), SHAPE, source=name)
            made[name] = export(model, folder / f"{name}.onnx", settings=Settings(), source=name)
        return made[name]

    return get


def images(n: int = 4) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((n, *SHAPE)).astype(np.float32)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_an_export_computes_the_same_and_maps_every_filter(name: str, exported: Exports) -> None:
    done = exported(name)
    assert done.relative <= 1e-4
    assert done.n_mapped == done.n_filters
    assert done.n_proven >= 0.99 * done.n_filters
    assert done.without_layer == ()
    model = onnx.load(done.out)
    assert read_layer_map(model) == done.layers
    assert str(Path.cwd()) not in str(model)  # no stack trace of anybody's code
    for n_images in (1, 3):
        ours = run(model, {"images": images(n_images)})[0]
        theirs = wrap(trained(name), SHAPE).outputs(images(n_images))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("name", NAMES)
def test_the_map_agrees_with_the_kernels(name: str, exported: Exports) -> None:
    """Kernels may be scaled by a folded normalisation, but point where PyTorch's do."""
    done, network = exported(name), trained(name)
    found = survey(onnx.load(done.out))
    for mapped in done.layers.layers:
        if mapped.site is None:
            continue
        module = network.get_submodule(mapped.layer.name)
        layer = found.layers[mapped.site]
        assert isinstance(layer, ChannelLayer)
        kernel = layer.kernel
        weight = module.weight.detach().numpy()
        assert weight.shape == kernel.shape
        for channel in range(mapped.layer.n_channels):
            mask = kernel_mask(layer.node, kernel.shape, channel)
            ours, theirs = kernel[mask].astype(float), weight[mask].astype(float)
            cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
            assert abs(cosine) > 1 - 1e-6, f"{mapped.layer.name}:{channel}"


def some_patch(layers: LayerMap, every: int) -> Patch:
    """Two filters of every site, the second at an odd channel."""
    frozen = []
    for number, mapped in enumerate(m for m in layers.layers if m.site is not None):
        for channel in {0, min(every, mapped.layer.n_channels - 1)}:
            constant = float(np.float32(0.3 - 0.1 * number + 0.05 * channel))
            frozen.append(FrozenFilter(Filter(str(mapped.site), channel), constant))
    return Patch(tuple(frozen))


def file_of(patch: Patch) -> PatchFile:
    return PatchFile(
        patch=patch,
        edits=(),
        source_digest="",
        result_digest="",
        sites_at="pre-activation",
        include=(),
        output="output",
    )


@pytest.mark.parametrize("parametrize", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_patch_taken_home_computes_what_the_patched_file_does(
    name: str, parametrize: bool, exported: Exports
) -> None:
    done, network = exported(name), trained(name)
    patch = some_patch(done.layers, 3)
    baked = bake(survey(onnx.load(done.out)), patch).model
    before = wrap(network, SHAPE).outputs(images())
    same = apply_patch(
        network, file_of(patch), layers=done.map_file, parametrize=parametrize, unproven=True
    )
    assert same is network
    home = wrap(network, SHAPE).outputs(images())
    shipped = run(baked, {"images": images()})[0]
    assert np.abs(home - before).max() > 1e-3
    assert np.array_equal(home.argmax(1), shipped.argmax(1))
    np.testing.assert_allclose(home, shipped, rtol=1e-4, atol=1e-4 * np.abs(shipped).max())


def watched(network: Any, layers: dict[str, str]) -> dict[str, Any]:
    """What the modules behind layers yield for some images, in evaluation mode."""
    seen: dict[str, Any] = {}
    handles = [
        network.get_submodule(module).register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, out.detach().clone())
        )
        for name, module in layers.items()
    ]
    with torch.no_grad():
        network.eval()(torch.from_numpy(images()))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["plain", "unet", *NAMES[-2:]])
def test_ten_steps_of_training_leave_frozen_filters_frozen(name: str, exported: Exports) -> None:
    done, network = exported(name), trained(name)
    traced = {t.layer.name: t.norm or t.owner for t in wrap(network, SHAPE).traced}
    patch = some_patch(done.layers, 2)
    apply_patch(network, file_of(patch), layers=done.layers, parametrize=True, unproven=True)
    free = network.get_submodule(done.layers.layers[0].layer.name).weight.detach().clone()
    optimiser = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
    network.train()
    for step in range(10):
        torch.manual_seed(step)
        loss = network(torch.randn(8, *SHAPE)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    moved = network.get_submodule(done.layers.layers[0].layer.name).weight.detach()
    assert (moved[1] != free[1]).any()
    seen = watched(network, traced)
    for frozen in patch.frozen:
        origin = done.layers.origin(frozen.filter)
        assert origin is not None
        channel = seen[origin.layer][:, origin.channel]
        assert (channel == np.float32(frozen.constant)).all(), str(origin)


def test_a_bias_is_added_where_there_was_none() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    )
    known = a_map("0", "site", 4)
    apply_patch(network, file_of(one("site", 1, 0.25)), layers=known)
    assert network[0].bias.tolist() == [0, 0.25, 0, 0]
    assert not network[0].weight[1].any()
    assert network[0].weight[0].any()


def test_a_norm_without_numbers_of_its_own_is_frozen_by_its_mean() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, affine=False), torch.nn.Conv2d(4, 2, 1)
    )
    network[1].running_mean.normal_()
    known, patch = a_map("0", "site", 4), file_of(one("site", 1, 0.25))
    with pytest.raises(AdapterError, match="no weight and bias that could be held"):
        apply_patch(network, patch, layers=known, parametrize=True)
    apply_patch(network, patch, layers=known)
    seen = watched(network, {"norm": "1"})["norm"]
    np.testing.assert_allclose(seen[:, 1], 0.25, rtol=1e-6)


def a_map(layer: str, site: str, n_channels: int, unproven: tuple[int, ...] = ()) -> LayerMap:
    from repairkit.core.framework import Layer

    mapped = MappedLayer(Layer(layer, "Conv2d", n_channels), site, unproven)
    return LayerMap("pytorch", SHAPE, (mapped,))


def one(site: str, channel: int, constant: float) -> Patch:
    return Patch((FrozenFilter(Filter(site, channel), constant),))


class Twice(torch.nn.Module):
    """One convolution that is called two times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.conv(torch.relu(self.conv(x))).mean((2, 3))


def test_what_cannot_be_taken_home_is_refused_and_nothing_is_changed() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1))
    before = copy.deepcopy(network.state_dict())
    patch = file_of(one("site", 1, 0.25))
    cases = [
        ({"layers": a_map("0", "site", 4, (1,))}, "not proven for site:1"),
        ({"layers": a_map("0", "other", 4)}, "does not say which layer the filter site:1"),
        ({"layers": a_map("features.0", "site", 4)}, "no channel 1 in a layer 'features.0'"),
        ({}, "does not say which layers"),
    ]
    for options, message in cases:
        with pytest.raises(AdapterError, match=message):
            apply_patch(network, patch, **options)
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    assert set(before) == set(network.state_dict())
    with pytest.raises(AdapterError, match="called 2 times"):
        apply_patch(Twice(), patch, layers=a_map("conv", "site", 3))
