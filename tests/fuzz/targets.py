"""What is fuzzed: for each reader, how to write a spoilt input and which command reads it."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from tests.fuzz import corpus
from tests.fuzz.mutations import spoil_bytes, spoil_json, spoil_model, spoil_text

Arguments = list[str]
Target = Callable[[Path, random.Random], Arguments]


def _model(rng: random.Random) -> bytes:
    """Mostly a tiny one, for more can be tried of those in the same time."""
    found = corpus.model_files()
    tiny = [f for f in found if len(f) < 4000]
    return rng.choice(tiny if rng.random() < 0.85 else found)


def model_fields(folder: Path, rng: random.Random) -> Arguments:
    """A model with odd fields, listed; ONNX Runtime runs it on noise."""
    sound = _model(rng)
    (folder / "odd.onnx").write_bytes(spoil_model(sound, rng))
    dense = ["--include", "dense"] if rng.random() < 0.2 else []
    return ["inspect", str(folder / "odd.onnx"), "--json", *dense]


def model_bytes(folder: Path, rng: random.Random) -> Arguments:
    """A model with blind changes."""
    (folder / "odd.onnx").write_bytes(spoil_bytes(_model(rng), rng))
    return ["inspect", str(folder / "odd.onnx"), *rng.choice(([], ["--json"]))]


def model_instrumented(folder: Path, rng: random.Random) -> Arguments:
    """A model with odd fields, through the surgery."""
    sound = _model(rng)
    (folder / "odd.onnx").write_bytes(spoil_model(sound, rng))
    absent = rng.choice(("zero", "bias"))
    out = ["-o", str(folder / "out.onnx")]
    return ["instrument", str(folder / "odd.onnx"), "--absent", absent, *out]


def model_patched(folder: Path, rng: random.Random) -> Arguments:
    """A tiny model with odd fields, through means, baking and proof."""
    tiny = [f for f in corpus.model_files() if len(f) < 4000]
    (folder / "model.onnx").write_bytes(spoil_model(rng.choice(tiny), rng))
    (folder / "data.npz").write_bytes(corpus.archive())
    data = ["--data", str(folder / "data.npz"), "--calibration", "all"]
    data += ["--selection", "all", "--test", "all", "-o", str(folder / "out.onnx")]
    return ["patch", str(folder / "model.onnx"), "--remove", "conv:0", *data, "--quiet"]


@cache
def _patched() -> tuple[bytes, bytes, bytes]:
    """A sound model, its patched form and the patch file."""
    import tempfile

    from repairkit import api

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, out = corpus.write_model(folder), folder / "out.onnx"
        (folder / "data.npz").write_bytes(corpus.archive())
        done = api.patch(model, folder / "data.npz", remove=["conv:2"], out=out)
        return model.read_bytes(), out.read_bytes(), done.patch_file.read_bytes()


def patched_model(folder: Path, rng: random.Random) -> Arguments:
    """A patched model with odd fields, to be proven."""
    original, patched, _ = _patched()
    (folder / "model.onnx").write_bytes(original)
    (folder / "odd.onnx").write_bytes(spoil_model(patched, rng))
    return ["verify", str(folder / "model.onnx"), str(folder / "odd.onnx")]


def patch_file(folder: Path, rng: random.Random) -> Arguments:
    """A patch file with odd values, half of them sealed anew, applied or undone."""
    original, patched, text = _patched()
    (folder / "model.onnx").write_bytes(original)
    (folder / "patched.onnx").write_bytes(patched)
    spoilt = rng.choice((spoil_json, spoil_json, spoil_text, spoil_bytes))(text, rng)
    if rng.random() < 0.7:
        spoilt = _sealed(spoilt)
    (folder / "odd.patch.json").write_bytes(spoilt)
    patch = str(folder / "odd.patch.json")
    out = ["-o", str(folder / "out.onnx")]
    model, other = str(folder / "model.onnx"), str(folder / "patched.onnx")
    return rng.choice(
        (
            ["verify", model, other, "--patch", patch],
            ["apply", model, patch, *out],
            ["revert", other, patch, *out],
        )
    )


def _sealed(spoilt: bytes) -> bytes:
    """A JSON document sealed anew, so that more than its seal is read; else as it is."""
    from repairkit.formats.patch_file import claim_digest

    try:
        document = json.loads(spoilt)
        document.pop("seal", None)
        return json.dumps({**document, "seal": claim_digest(document)}).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return spoilt


def monitored(folder: Path, rng: random.Random) -> Arguments:
    """A state of `monitor`, or the report of the patch file, with odd values, mostly sealed."""
    _, patched, text = _patched()
    (folder / "out.onnx").write_bytes(patched)
    with np.load(io.BytesIO(corpus.archive())) as held:  # in another order they are other data
        np.savez(folder / "new.npz", **{name: held[name][::-1] for name in held.files})
    files = {"out.patch.json": text, "out.monitor.json": _state()}
    floor = ["--floor", "accuracy=0.5"]
    wanted = rng.choice(sorted(files))
    spoil = rng.choice((spoil_json, spoil_json, spoil_text, spoil_bytes))
    spoilt = spoil(files[wanted], rng)
    files[wanted] = _sealed(spoilt) if rng.random() < 0.8 else spoilt
    if wanted == "out.patch.json" and rng.random() < 0.7:
        floor = []
        del files["out.monitor.json"]
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return ["monitor", str(folder / "out.onnx"), "--data", str(folder / "new.npz"), *floor]


@cache
def _state() -> bytes:
    import tempfile

    from repairkit import api

    _, patched, text = _patched()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out.onnx").write_bytes(patched)
        (folder / "out.patch.json").write_bytes(text)
        with np.load(io.BytesIO(corpus.archive())) as held:
            np.savez(folder / "new.npz", **{name: held[name][::-1] for name in held.files})
        api.monitor(folder / "out.onnx", folder / "new.npz", floors="accuracy=0.5")
        return (folder / "out.monitor.json").read_bytes()


def project(folder: Path, rng: random.Random) -> Arguments:
    """A project file with odd values."""
    model = corpus.write_model(folder)
    spoil = rng.choice((spoil_text, spoil_text, spoil_bytes))
    (folder / "repairkit.toml").write_bytes(spoil(corpus.PROJECT, rng))
    return ["inspect", str(model)]


def _with_data(folder: Path, data: Path, *more: str) -> Arguments:
    model = corpus.write_model(folder)
    parts = ["--calibration", "all", "-o", str(folder / "out.onnx")]
    return ["instrument", str(model), "--data", str(data), *parts, *more]


def archive(folder: Path, rng: random.Random) -> Arguments:
    """An `.npz` with blind changes, inside its members or over the whole."""
    path = folder / "odd.npz"
    if rng.random() < 0.5:
        path.write_bytes(spoil_bytes(corpus.archive(), rng))
    else:
        members = corpus.archive_members()
        wanted = rng.choice(sorted(members))
        with zipfile.ZipFile(path, "w", rng.choice((0, 8))) as file:
            for name, content in members.items():
                head = content[:200]
                spoilt = spoil_bytes(head, rng) + content[200:] if name == wanted else content
                file.writestr(name, spoilt)
    return _with_data(folder, path)


def manifest(folder: Path, rng: random.Random) -> Arguments:
    """A CSV manifest with odd values."""
    path = folder / "images.csv"
    path.write_bytes(rng.choice((spoil_text, spoil_text, spoil_bytes))(corpus.MANIFEST, rng))
    for number in range(4):
        (folder / f"{number}.png").write_bytes(corpus.images()[0])
    return _with_data(folder, path)


def image(folder: Path, rng: random.Random) -> Arguments:
    """An image with blind changes, beside a sound one."""
    for name, content in (
        ("a", corpus.images()[0]),
        ("b", spoil_bytes(rng.choice(corpus.images()), rng)),
    ):
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / "0.png").write_bytes(content)
    return _with_data(folder, folder / "images", "--scale", "1/255")


def run_folder(folder: Path, rng: random.Random) -> Arguments:
    """A run's `run.json` and `scores.csv` with odd values."""
    files = _run()
    (folder / "run").mkdir()
    wanted = rng.choice(("run.json", "scores.csv"))
    for name, content in files.items():
        if name == wanted:
            kinds = (spoil_json, spoil_text) if name == "run.json" else (spoil_text, spoil_bytes)
            content = rng.choice(kinds)(content, rng)
        (folder / "run" / name).write_bytes(content)
    corpus.write_model(folder)
    (folder / "data.npz").write_bytes(corpus.archive())
    out = ["--scores", str(folder / "run"), "-o", str(folder / "out.onnx")]
    data = ["--data", str(folder / "data.npz"), "--seed", "0", "--quiet"]
    if rng.random() < 0.3:
        resume = ["--method", "exact", "--resume", "-o", str(folder / "run")]
        return ["score", str(folder / "model.onnx"), *data, *resume]
    return ["patch", str(folder / "model.onnx"), *data, *out]


@cache
def _run() -> dict[str, bytes]:
    import tempfile

    from repairkit import api
    from repairkit.jobs.setup.workbench import Settings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = corpus.write_model(folder)
        (folder / "data.npz").write_bytes(corpus.archive())
        settings = Settings(seed=0)
        out = folder / "run"
        api.score(model, folder / "data.npz", method="exact", settings=settings, out=out)
        return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


TARGETS: dict[str, Target] = {
    f.__name__: f
    for f in (
        model_fields,
        model_bytes,
        model_instrumented,
        model_patched,
        patched_model,
        patch_file,
        monitored,
        project,
        archive,
        manifest,
        image,
        run_folder,
    )
}
