"""Filters have the names of the framework's layers wherever people read of them."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from repairkit.core.framework import Layer, LayerMap, MappedLayer
from repairkit.graph.kinds.sites import find_sites
from repairkit.graph.metadata import read_layer_map, write_layer_map
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
FAST = ("--max-evaluations", "400", "--accept-preprocessing")
LAYER = "backbone.stages.0"


def with_layers(path: Path, layer: str = LAYER) -> str:
    """Give the model a map of its site, as an export writes it; returns the site's name."""
    model = onnx.load(path)
    sites = find_sites(model)
    layers = [
        MappedLayer(Layer(f"{layer}.conv{n}", "Conv2d", site.n_channels), site.name)
        for n, site in enumerate(sites)
    ]
    write_layer_map(model, LayerMap("pytorch", (2, 5, 6), tuple(layers)))
    onnx.save(model, path)
    return sites[0].name


def text_of(page: Path) -> str:
    """The text of a page, without its style and its tags."""
    body = re.sub(r"<style>.*?</style>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", "\n", body))


def walk(
    repairkit: Command, model: Path, data: tuple[str | Path, ...], names: dict[str, str]
) -> None:
    """Score, report, patch, verify: each layer first, the ONNX name second, JSON with both.

    Args:
        repairkit: runs a command.
        model: an ONNX file with a map of layers.
        data: options.
        names: the ids of two filters, with the names of their layers and channels.
    """
    (first, layer), (second, other) = names.items()
    site = first.rpartition(":")[0]
    scored = repairkit("score", model, *data, *FAST, "-o", "run", "--metric", "accuracy")
    assert scored.code == 0, scored.err
    rows = [line for line in scored.out.splitlines() if re.search(rf"{re.escape(first)}\b", line)]
    assert rows
    assert all(row.index(layer) < row.index(first) for row in rows)
    sites = json.loads(Path("run/run.json").read_text(encoding="utf-8"))["layers"]["sites"]
    assert sites[site] == layer.rpartition(":")[0]
    assert repairkit("report", "run").code == 0
    page = text_of(Path("run/report.html"))
    assert page.index(layer) < page.index(first)

    patched = repairkit(
        "patch", model, *data, *FAST, "--remove", f"{layer},{second}", "-o", "out.onnx"
    )
    assert patched.code == 0, patched.err
    assert f"frozen: {layer} ({first}), {other} ({second})" in patched.out
    page = text_of(Path("out.report.html"))
    assert page.count(layer) >= page.count(first) > 0
    assert page.index(layer) < page.index(first)
    card = Path("out.model-card.md").read_text(encoding="utf-8").replace("\\", "")
    assert f"{layer} ({first} in ONNX)" in card

    answer = repairkit("verify", model, "out.onnx", "--json")
    entries = json.loads(answer.out)["frozen"]
    assert [(e["filter"], e["layer"]) for e in entries] == [*names.items()]
    shown = repairkit("verify", model, "out.onnx")
    assert shown.out.index(layer) < shown.out.index(first)
    missing = repairkit("patch", model, *data, "--remove", f"{layer.rpartition(':')[0]}:999")
    assert missing.code == 1
    assert f"layer '{layer.rpartition(':')[0]}' has" in missing.err
    assert repairkit("revert", "out.onnx", "-o", "back.onnx").code == 0


def test_a_map_of_layers_names_the_filters_everywhere(repairkit: Command, project: Project) -> None:
    site = with_layers(project.model)
    names = {f"{site}:1": f"{LAYER}.conv0:1", f"{site}:3": f"{LAYER}.conv0:3"}
    walk(repairkit, project.model, (), names)


def test_sentences_about_filters_name_layers_and_documents_keep_onnx_names(
    repairkit: Command, project: Project
) -> None:
    site = with_layers(project.model)
    declined = repairkit(
        "patch", project.model, "--objective", "accuracy", "--max-drop", "0", *FAST
    )
    again = repairkit(
        "patch", project.model, "--objective", "accuracy", "--max-drop", "0", *FAST, "--json"
    )
    assert f"{site}:" not in declined.err.replace(f"{LAYER}.{site}", "")
    assert declined.code == again.code
    if again.code == 0:
        document = json.loads(again.out)
        assert all(entry["filter"].startswith(f"{site}:") for entry in document["frozen"])
    listed = repairkit("inspect", project.model)
    row = next(line for line in listed.out.splitlines() if f"{LAYER}.conv0" in line)
    assert row.index(LAYER) < row.index(site, row.index(LAYER) + len(f"{LAYER}.conv0"))


def test_commands_on_a_page_are_those_that_ran_though_a_layer_has_a_space_in_its_name(
    repairkit: Command, project: Project
) -> None:
    site = with_layers(project.model, "first block; rm")
    assert repairkit("score", project.model, *FAST, "-o", f"{site}:0 run").code == 0
    assert repairkit("report", f"{site}:0 run").code == 0
    out = f"{site}:1 off.onnx"
    patched = repairkit("patch", project.model, "--remove", f"{site}:1", *FAST, "-o", out)
    assert patched.code == 0, patched.err
    pages = Path(f"{site}:0 run/report.html"), Path(f"{site}:1 off.report.html")
    for page, n_commands in zip(pages, (1, 4), strict=True):
        text = page.read_text(encoding="utf-8")
        assert "first block; rm.conv0:1" in html.unescape(text)
        commands = [html.unescape(each) for each in re.findall(r"<pre>(.*?)</pre>", text)]
        assert len(commands) == n_commands
        for command in commands:
            assert "block" not in command
    words = [shlex.split(command) for command in commands]
    assert all(any(out in word for word in command) for command in words[:2])
    assert words[3][words[3].index("--remove") + 1] == f"{site}:1"


def test_layers_that_are_not_known_leave_the_onnx_name(
    repairkit: Command, project: Project
) -> None:
    site = with_layers(project.model)
    model = onnx.load(project.model)
    known = read_layer_map(model)
    assert known is not None
    lost = replace(known, layers=(replace(known.layers[0], site=None, note="not found"),))
    write_layer_map(model, lost)
    onnx.save(model, project.model)
    patched = repairkit("patch", project.model, "--remove", f"{site}:1", *FAST, "-o", "out.onnx")
    assert patched.code == 0, patched.err
    assert f"frozen: {site}:1" in patched.out
    assert LAYER not in text_of(Path("out.report.html"))


@pytest.mark.slow
def test_an_exported_pytorch_model_has_the_names_of_its_modules(repairkit: Command) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from repairkit_adapters.pytorch import wrap
    from tests.adapters.networks import SIDE, trained

    _walk_exported(repairkit, wrap(trained("plain"), (3, SIDE, SIDE)), (3, SIDE, SIDE))


@pytest.mark.slow
def test_an_exported_keras_model_has_the_names_of_its_layers(repairkit: Command) -> None:
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")
    from repairkit_adapters.keras import wrap
    from repairkit_adapters.keras.keras_runtime import load_runtime

    keras = load_runtime().keras
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.layers.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, activation="relu", name="stem"),
            keras.layers.Conv2D(6, 3, activation="relu", name="body"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    _walk_exported(repairkit, wrap(network), (8, 8, 3))


def _walk_exported(repairkit: Command, model: object, shape: tuple[int, ...]) -> None:
    """Export a model, and walk over it with images on which it is right by its own answers."""
    from repairkit.api import models

    done = models.export(model, out=Path("net.onnx"))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, *shape)).astype(np.float32)
    np.savez("images.npz", x=x, y=model.outputs(x).argmax(1))  # type: ignore[attr-defined]
    mapped = [each for each in done.layers.layers if each.site is not None][:2]
    names = {f"{each.site}:{n}": f"{each.layer.name}:{n}" for n, each in enumerate(mapped)}
    walk(repairkit, Path("net.onnx"), ("--data", "images.npz"), names)
