"""Large models: filters are read and frozen in groups, and a wrong pair is still never proven."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from torch import nn  # noqa: E402

from repairkit.core.framework import LayerMap, LoadOptions  # noqa: E402
from repairkit.core.process.stages import listening  # noqa: E402
from repairkit.core.results import Exported  # noqa: E402
from repairkit.engine.runner import OpenModel  # noqa: E402
from repairkit.graph.coalitions.masking import mask_name  # noqa: E402
from repairkit.graph.kinds.sites import find_sites, instrument  # noqa: E402
from repairkit.jobs.export import group_proof  # noqa: E402
from repairkit.jobs.export.exporting import export  # noqa: E402
from repairkit.jobs.export.suffixes import Suffixes  # noqa: E402
from repairkit.jobs.setup.subject import read_subject  # noqa: E402
from repairkit.jobs.setup.workbench import Settings  # noqa: E402
from repairkit_adapters.pytorch import ADAPTER  # noqa: E402
from tests.adapters.networks import SIDE, trained  # noqa: E402
from tests.cli.test_stage_display import Recorder  # noqa: E402

SHAPE = (3, SIDE, SIDE)


class Twice(nn.Module):
    """Grouped convolutions, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.grouped(torch.relu(self.grouped(x))))
        return self.head(x.mean((2, 3)))


class Small(nn.Module):
    """A convolution whose channels can be tampered with, behind another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(12, 5)
        self.gain = 1.0

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return torch.sigmoid(self.gain * self.head(torch.relu(self.third(x)).mean((2, 3))))


def small(change: Callable[[Small], None] = lambda _: None) -> Small:
    torch.manual_seed(1)
    network = Small()
    for part in (network.first, network.second, network.third):
        nn.init.kaiming_normal_(part.weight)
    with torch.no_grad():
        change(network)
    return network.eval()


def twice() -> nn.Module:
    torch.manual_seed(0)
    return Twice().eval()


def scripted(network: nn.Module, folder: Path) -> Any:
    """An adapter's model of TorchScript, whose exporter is the quicker one."""
    path = folder / "network.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, *SHAPE)), str(path))
    return ADAPTER.load(str(path), LoadOptions(input_shape=SHAPE, trust=True))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as too large to freeze each filter alone."""
    monkeypatch.setattr(group_proof, "MOST_WORK", 0.0)


def exported(model: Any, folder: Path, **more: Any) -> Exported:
    return export(model, folder / "m.onnx", settings=Settings(), **more)


def unproven(done: Exported) -> dict[str, tuple[int, ...]]:
    return {m.layer.name: m.unproven for m in done.layers.layers if m.site is not None}


class Lying:
    """A model whose layer `second` has its channels in another order, or says so.

    Args:
        model: the true model.
        order: channel c of the lie is channel `order[c]` of the model.
        reads: the lie is told about what channels hold.
        freezes: the lie is told when channels are frozen.
    """

    layer = "second"

    def __init__(self, model: Any, order: Any, *, reads: bool = True, freezes: bool = True) -> None:
        self.model, self.order = model, np.asarray(order)
        self.reads, self.freezes = reads, freezes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def channel_values(self, images: Any) -> Any:
        values = self.model.channel_values(images)
        if self.reads:
            values[self.layer] = values[self.layer][:, self.order]
        return values

    @contextlib.contextmanager
    def freezing(self, layer: str, channels: Any, constants: Any) -> Iterator[None]:
        lies = self.freezes and layer == self.layer
        with self.model.freezing(layer, self.order[channels] if lies else channels, constants):
            yield

    @contextlib.contextmanager
    def freezing_many(self, layer: str, frozen: Any, constants: Any) -> Iterator[None]:
        if self.freezes and layer == self.layer:
            back = np.argsort(self.order)
            frozen, constants = frozen[:, back], constants[back]
        with self.model.freezing_many(layer, frozen, constants):
            yield


def order(*swaps: tuple[int, int]) -> list[int]:
    result = list(range(16))
    for one, other in swaps:
        result[one], result[other] = result[other], result[one]
    return result


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain", "squeezenet", "resnet", "mobilenet", "unet", "twice"])
def test_groups_prove_what_freezing_each_filter_proves(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted(twice() if name == "twice" else trained(name), tmp_path)
    one_by_one = export(model, tmp_path / "n.onnx", settings=Settings())
    monkeypatch.setattr(group_proof, "MOST_WORK", 0.0)
    in_groups = exported(model, tmp_path)
    assert one_by_one.layers.groups is None
    proof = in_groups.layers.groups
    assert proof is not None
    assert proof.n_groups > 0
    assert homes(in_groups) == homes(one_by_one)
    assert unproven(in_groups) == unproven(one_by_one) == dict.fromkeys(unproven(in_groups), ())
    assert in_groups.layers.n_one_by_one < in_groups.n_proven
    assert 0 < proof.n_seen <= proof.n_swaps


def homes(done: Exported) -> dict[str, int | None]:
    """The place of each layer's site in the graph; the exporter names nodes anew each time."""
    import onnx

    places = {site.name: i for i, site in enumerate(find_sites(onnx.load(done.out)))}
    return {m.layer.name: places.get(str(m.site)) for m in done.layers.layers}


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("reads", [True, False])
def test_two_swapped_channels_are_refused_and_the_others_proven(
    reads: bool, tmp_path: Path
) -> None:
    model = Lying(scripted(small(), tmp_path), order((3, 11)), reads=reads)
    done = exported(model, tmp_path)
    assert unproven(done) == {"first": (), "second": (3, 11), "third": ()}


@pytest.mark.usefixtures("large")
def test_smaller_groups_find_the_swapped_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_proof, "_FEWEST_LEFT", 0)  # no filter may be tried alone afterwards
    model = scripted(small(), tmp_path)
    done = exported(Lying(model, order((3, 11)), reads=False), tmp_path)
    assert unproven(done) == {"first": (), "second": (3, 11), "third": ()}
    second = next(m for m in done.layers.layers if m.layer.name == "second")
    assert "--one-by-one tries each filter alone" in second.note


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("reads", [True, False])
def test_no_channel_of_a_permuted_layer_is_proven(reads: bool, tmp_path: Path) -> None:
    model = Lying(scripted(small(), tmp_path), np.roll(range(16), 1), reads=reads)
    assert unproven(exported(model, tmp_path))["second"] == tuple(range(16))


@pytest.mark.usefixtures("large")
def test_what_is_read_wrongly_is_frozen_alone(tmp_path: Path) -> None:
    model = Lying(scripted(small(), tmp_path), order((3, 11)), freezes=False)
    done = exported(model, tmp_path)
    assert done.n_proven == done.n_filters
    second = next(m for m in done.layers.layers if m.layer.name == "second")
    assert {3, 11} <= set(second.one_by_one or ())


def twins(network: Small) -> None:
    """Channels 2 and 5 hold the same numbers."""
    network.second.weight[5] = network.second.weight[2]
    network.second.bias[5] = network.second.bias[2]


def read_alike(network: Small) -> None:
    """Channels 2 and 5 hold the same numbers, and are read with the same weights."""
    twins(network)
    network.third.weight[:, 5] = network.third.weight[:, 2]


@pytest.mark.usefixtures("large")
def test_identical_channels_are_frozen_alone_or_stay_unproven(tmp_path: Path) -> None:
    done = exported(scripted(small(twins), tmp_path), tmp_path)
    assert done.n_proven == done.n_filters
    second = next(m for m in done.layers.layers if m.layer.name == "second")
    assert {2, 5} <= set(second.one_by_one or ())
    # They differ in their constants alone, as in a small model.
    alike = exported(scripted(small(read_alike), tmp_path), tmp_path)
    one_by_one = exported(scripted(small(read_alike), tmp_path), tmp_path, one_by_one=True)
    assert unproven(alike) == unproven(one_by_one)


def dead(network: Small) -> None:
    """Channels 4 and 9 are never positive, so their ReLU is always 0; nothing reads 9."""
    for channel in (4, 9):
        network.second.bias[channel] = -100.0
    network.third.weight[:, 9] = 0.0


@pytest.mark.usefixtures("large")
def test_dead_channels_are_proven_by_what_they_hold_and_refused_when_swapped(
    tmp_path: Path,
) -> None:
    model = scripted(small(dead), tmp_path)
    assert exported(model, tmp_path).n_proven == 34
    assert unproven(exported(Lying(model, order((4, 9))), tmp_path))["second"] == (4, 9)


def constant(network: Small) -> None:
    """Channels 4 and 9 hold one number everywhere, and nothing reads them."""
    for channel in (4, 9):
        network.second.weight[channel] = 0.0
        network.second.bias[channel] = 0.25
        network.third.weight[:, channel] = 0.0


@pytest.mark.usefixtures("large")
def test_channels_that_nothing_tells_apart_stay_unproven(tmp_path: Path) -> None:
    assert unproven(exported(scripted(small(constant), tmp_path), tmp_path))["second"] == (4, 9)


def saturated(network: Small) -> None:
    network.gain = 1e4


@pytest.mark.usefixtures("large")
def test_a_saturated_output_proves_nothing_by_groups_that_it_does_not_show(tmp_path: Path) -> None:
    model = scripted(small(saturated), tmp_path)
    images = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    assert set(np.unique(model.outputs(images))) <= {0.0, 1.0}
    lie = exported(Lying(model, np.roll(range(16), 1), reads=False), tmp_path)
    assert unproven(lie)["second"] == tuple(range(16))


def test_a_small_model_has_no_record_of_groups(tmp_path: Path) -> None:
    done = exported(scripted(small(), tmp_path), tmp_path)
    document = json.loads(done.map_file.read_text())
    assert "proof_in_groups" not in document
    assert all("one_by_one" not in layer for layer in document["layers"])


@pytest.mark.usefixtures("large")
def test_the_map_says_how_it_was_proven_and_can_be_read(tmp_path: Path) -> None:
    model = scripted(small(), tmp_path)
    done = exported(model, tmp_path)
    document = json.loads(done.map_file.read_text())
    proof = document["proof_in_groups"]
    # 4 groups, twice, in each of 3 layers; all of the 34 filters are swapped.
    assert (proof["groups"], proof["swaps"], proof["images"]) == (24, 34, 8)
    assert proof["share_seen_at_least"] <= proof["swaps_seen"] / proof["swaps"]
    assert LayerMap.from_json(document) == done.layers
    again = exported(model, tmp_path).layers  # the same seed; the exporter renames nodes
    assert again.groups == done.layers.groups
    assert [m.one_by_one for m in again.layers] == [m.one_by_one for m in done.layers.layers]
    assert exported(model, tmp_path, one_by_one=True).layers.groups is None
    for key, value in (("swaps", -1), ("swaps_seen", 99), ("share_seen_at_least", 2.0)):
        with pytest.raises(ValueError, match=r"swaps|no number of things"):
            LayerMap.from_json({**document, "proof_in_groups": {**proof, key: value}})
    with pytest.raises(ValueError, match="no such channel"):
        LayerMap.from_json({**document, "layers": [{**document["layers"][0], "one_by_one": [99]}]})


@pytest.mark.usefixtures("large")
def test_progress_is_told_layer_by_layer(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    recorder = Recorder()
    with listening(recorder):
        exported(scripted(small(), tmp_path), tmp_path, on_progress=lambda *n: told.append(n))
    assert told == sorted(told)
    assert [n for n, _ in told[:3]] == [6, 22, 34]
    assert {n for _, n in told} == {34}
    assert recorder.counts["mapping"][:3] == [6, 22, 34]
    assert recorder.counts["reading the layers"][-1] == 8


@pytest.mark.parametrize("step", [None, 1])
def test_a_suffix_gives_what_the_masked_model_gives(
    step: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "m.onnx"
    scripted(trained("squeezenet"), tmp_path).export(out)
    subject = read_subject(out)
    sites = find_sites(subject.model)
    rng = np.random.default_rng(3)
    images = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    opened = replace(subject.opened(), step=step)
    assert isinstance(opened, OpenModel)
    with caplog.at_level(logging.INFO):
        suffixes = Suffixes(opened, sites, images, tolerance=1e-4)
        for site in sites:
            constants = rng.standard_normal(site.n_channels).astype(np.float32)
            frozen = rng.random((5, site.n_channels)) < 0.4
            suffix = suffixes.behind(site)
            assert suffix is not None, caplog.text
            masked = instrument(subject.model, (site,), {site.name: constants})
            runner = subject.opened().variant(masked).runner(outputs=(subject.output,))
            for image in range(2):
                masks = {mask_name(site): ~frozen[:, :, None, None]}
                expected = runner.run(np.repeat(images[image : image + 1], 5, 0), masks)
                np.testing.assert_allclose(
                    suffix.outputs(image, frozen, constants),
                    expected[subject.output],
                    rtol=1e-5,
                    atol=1e-6,
                )
