"""Exports are proven or not kept, and their names reach every table."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from repairkit.core.errors import ExportError  # noqa: E402
from repairkit.core.framework import LayerMap, LoadOptions  # noqa: E402
from repairkit.core.results import Exported  # noqa: E402
from repairkit.graph.kinds.sites import find_sites  # noqa: E402
from repairkit.graph.metadata import LAYERS_KEY, read_layer_map  # noqa: E402
from repairkit.jobs.export.exporting import export  # noqa: E402
from repairkit.jobs.setup.subject import GROUP  # noqa: E402
from repairkit.jobs.setup.workbench import Settings  # noqa: E402
from repairkit_adapters.pytorch import ADAPTER, apply_patch, wrap  # noqa: E402
from tests.adapters.networks import SIDE, trained  # noqa: E402
from tests.conftest import Answer  # noqa: E402

SHAPE = (3, SIDE, SIDE)
Command = Callable[..., Answer]


def scripted(name: str, path: Path) -> Path:
    """TorchScript, whose exporter is the quicker one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.trace(trained(name), torch.zeros(1, *SHAPE))
        torch.jit.save(made, str(path))
    return path


def loaded(name: str, folder: Path) -> Any:
    path = scripted(name, folder / f"{name}.pt")
    return ADAPTER.load(str(path), LoadOptions(input_shape=SHAPE, trust=True))


class Lying:
    """A model that is changed on its way."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class Shifted(Lying):
    """Freezes the next channel in one layer."""

    @contextlib.contextmanager
    def freezing(self, layer: str, channels: Any, constants: Any) -> Iterator[None]:
        n_channels = {k.name: k.n_channels for k in self.model.layers}[layer]
        moved = (channels + 1) % n_channels if layer == "3" else channels
        with self.model.freezing(layer, moved, constants):
            yield


class Swapped(Lying):
    """Gives its layers in another order."""

    @property
    def layers(self) -> Any:
        return self.model.layers[::-1]


class Rounded(Lying):
    """Computes a little else than what it exports."""

    def outputs(self, images: Any) -> Any:
        return self.model.outputs(images) + np.float32(0.01)


def test_a_wrong_channel_is_never_proven(tmp_path: Path) -> None:
    done = export(Shifted(loaded("plain", tmp_path)), tmp_path / "m.onnx", settings=Settings())
    unproven = {m.layer.name: len(m.unproven) for m in done.layers.layers}
    assert unproven == {"0": 0, "3": 12}
    assert done.n_mapped == done.n_filters


@pytest.mark.long
def test_layers_in_another_order_find_their_sites(tmp_path: Path) -> None:
    model = loaded("resnet", tmp_path)
    plain = export(model, tmp_path / "m.onnx", settings=Settings())
    swapped = export(Swapped(model), tmp_path / "n.onnx", settings=Settings())
    # TorchScript's exporter names nodes anew each time; their order stays.
    assert homes(swapped) == homes(plain)
    assert swapped.n_proven == swapped.n_filters


def homes(done: Exported) -> dict[str, int]:
    """The place of each layer's site in the graph."""
    places = {site.name: i for i, site in enumerate(find_sites(onnx.load(done.out)))}
    return {m.layer.name: places[str(m.site)] for m in done.layers.layers}


def test_what_computes_something_else_is_not_kept(tmp_path: Path) -> None:
    model = Rounded(loaded("plain", tmp_path))
    out = tmp_path / "out" / "m.onnx"
    with pytest.raises(ExportError, match="outputs differ from pytorch's by"):
        export(model, out, settings=Settings(), source="net")
    assert list(out.parent.iterdir()) == []


def test_a_broken_map_costs_names_alone(caplog: pytest.LogCaptureFixture) -> None:
    model = onnx.ModelProto()
    for text in ("{", "[]", '{"schema": 1}', '{"schema": 2}', '{"schema":1,"layers":[3]}'):
        del model.metadata_props[:]
        model.metadata_props.add(key=LAYERS_KEY, value=text)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            assert read_layer_map(model) is None
        assert "broken" in caplog.text


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter's entry point, whatever the environment was installed from."""
    folder = tmp_path / "here" / "here-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: here\nVersion: 1.0\n")
    text = f"[{GROUP}]\npytorch = repairkit_adapters.pytorch:ADAPTER\n"
    (folder / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(str(folder.parent))


@pytest.mark.usefixtures("installed")
def test_names_of_layers_go_from_export_to_patch_and_home(
    repairkit: Command, tmp_path: Path
) -> None:
    source = scripted("plain", tmp_path / "plain.pt")
    rng = np.random.default_rng(2)
    x = rng.standard_normal((120, *SHAPE)).astype(np.float32)
    network = trained("plain")
    y = wrap(network, SHAPE).outputs(x).argmax(1)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    data = ["--data", "data.npz"]

    answer = repairkit(
        "export", source, "--input-shape", "3,16,16", "-o", "m.onnx", *data, "--json", "--trust"
    )
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["n_filters"], told["n_proven"]) == (20, 20)
    assert told["parity"]["images"] == "given images"
    on_disk = json.loads((tmp_path / "m.layers.json").read_text())
    assert LayerMap.from_json(on_disk) == read_layer_map(onnx.load(tmp_path / "m.onnx"))

    inspected = json.loads(repairkit("inspect", "m.onnx", "--json").out)
    assert [s["layer"] for s in inspected["sites"]] == ["0", "3"]
    assert "layer" in repairkit("inspect", "m.onnx").out

    scored = repairkit("score", "m.onnx", *data, "--method", "weight-norm", "-o", "run")
    assert scored.code == 0, scored.err
    with (tmp_path / "run" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-1] == "layer"
    sites = {s["site"]: s["layer"] for s in inspected["sites"]}
    assert all(r["layer"] == f"{sites[r['site']]}:{r['channel']}" for r in rows)
    assert rows[0]["layer"] in scored.out

    patched = repairkit("patch", "m.onnx", *data, "--remove", "3:7,0:2", "-o", "p.onnx")
    assert patched.code == 0, patched.err
    assert "frozen: 3:7 (" in patched.out
    assert read_layer_map(onnx.load(tmp_path / "p.onnx")) == LayerMap.from_json(on_disk)
    assert "3:7" in repairkit("verify", "m.onnx", "p.onnx").out
    apply_patch(network, tmp_path / "p.patch.json")
    from tests.running import run

    shipped = run(onnx.load(tmp_path / "p.onnx"), {"images": x[:8]})[0]
    np.testing.assert_allclose(
        wrap(network, SHAPE).outputs(x[:8]), shipped, rtol=1e-4, atol=1e-4 * np.abs(shipped).max()
    )


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["net.h6"], 1, "no adapter takes it, and there is no such file"),
        (["net.pt", "--framework", "jax"], 1, "no framework 'jax'"),
        (["net.pt"], 1, "there is no such file"),
        (["net.pt", "--input-shape", "3,big"], 1, "is not a shape"),
        (["net.pt", "-o", "net.bin"], 1, "there is no such file"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], code: int, message: str, repairkit: Command
) -> None:
    answer = repairkit("export", *arguments)
    assert answer.code == code
    assert message in answer.err
    assert answer.err.count("\n") == 1
