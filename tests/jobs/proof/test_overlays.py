"""An overlay over the model is the patched file: to the byte, and bit for bit in ONNX Runtime."""

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("safetensors")

import repairkit
from repairkit.cli import run as run_command
from repairkit.core.errors import (
    ModelError,
    RunFolderError,
    SettingsError,
    VerificationError,
)
from repairkit.graph.kinds.sites import survey
from repairkit.graph.stored.model_files import read_model
from repairkit.jobs.proof.overlay_file import read_overlay
from repairkit.jobs.proof.undoing import lay_over
from tests import models, zoo
from tests.running import input_name

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "overlays.md"


def why_none(model: Path, result: Path) -> str:
    """Why a patch has no overlay, by what differs between the two files; empty where it has one."""
    before, after = onnx.load(model).graph, onnx.load(result).graph
    if {t.name for t in after.initializer} != {t.name for t in before.initializer}:
        return "adds a tensor"
    if list(after.node) != list(before.node):
        return "stands in a node"
    return ""


def loader() -> Any:
    """`open_with` of the guide, as a reader would paste it."""
    (block,) = re.findall(r"```python\n(# a loader\n.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    return names["open_with"]


def patched(folder: Path, model: onnx.ModelProto, **words: Any) -> tuple[Path, Path, Path]:
    """A model, its patched copy and the patch file; two filters of the first site are frozen."""
    onnx.save(model, folder / "model.onnx")
    site = survey(model).sites[0]
    frozen = [f"{site.name}:{channel}" for channel in range(min(2, site.n_channels))]
    done = repairkit.patch(
        folder / "model.onnx", remove=frozen, out=folder / "patched.onnx", absent="zero", **words
    )
    return folder / "model.onnx", folder / "patched.onnx", done.patch_file


def same_bits(session: onnxruntime.InferenceSession, path: Path, image: np.ndarray) -> bool:
    other = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = next(i.name for i in session.get_inputs())
    answers = zip(session.run(None, {name: image}), other.run(None, {name: image}), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in answers)


@pytest.mark.parametrize("name", sorted(models.LAYERS))
def test_every_kind_of_layer_has_an_overlay_or_a_reason(name: str, tmp_path: Path) -> None:
    model = models.LAYERS[name]()
    path, result, patch_file = patched(tmp_path, model)
    place = tmp_path / "fix.safetensors"
    reason = why_none(path, result)
    if reason:
        with pytest.raises(ModelError, match=f"{reason}.*repairkit apply"):
            repairkit.overlay(path, patch_file, out=place)
        assert not place.exists()
        return
    made = repairkit.overlay(path, patch_file, out=place)
    laid = lay_over(read_model(path), read_overlay(place), place)
    assert laid.digest == read_model(result).digest == made.overlay.result
    verified = repairkit.verify(path, place, patch_file=patch_file)
    assert verified.patch == made.verified.patch
    kind = model.graph.input[0].type.tensor_type.elem_type
    half = kind == onnx.TensorProto.FLOAT16
    image = models.images(3, seed=1, dtype="float16" if half else "float32")
    if model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1:
        image = image[:1]
    session = loader()(path, place)
    assert session.get_inputs()[0].name == input_name(model)
    assert same_bits(session, result, image)


def test_weights_outside_of_the_file_are_shared(tmp_path: Path) -> None:
    path, result, patch_file = patched(tmp_path, models.own_bias())
    place = tmp_path / "fix.safetensors"
    repairkit.overlay(path, patch_file, out=place)
    outside = tmp_path / "outside"
    outside.mkdir()
    onnx.save(
        onnx.load(path), outside / "model.onnx", save_as_external_data=True, size_threshold=64,
        location="weights",
    )  # fmt: skip
    assert same_bits(loader()(outside / "model.onnx", place), result, models.images(2))


@pytest.mark.slow
@zoo.needs_zoo
@pytest.mark.parametrize("path", zoo.ZOO_MODELS, ids=lambda path: path.stem)
def test_overlays_of_public_models(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    base, result, patch_file = patched(tmp_path, model)
    place = tmp_path / "fix.safetensors"
    reason = why_none(base, result)
    if reason:
        with pytest.raises(ModelError, match=f"{reason}.*repairkit apply"):
            repairkit.overlay(base, patch_file, out=place)
        return
    repairkit.overlay(base, patch_file, out=place)
    session = loader()(base, place)
    wanted = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 64 for size in wanted.shape]
    shape[0] = shape[0] if isinstance(wanted.shape[0], int) else 2
    kind = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}
    image = np.random.default_rng(0).integers(0, 100, shape).astype(kind[wanted.type])
    assert same_bits(session, result, image)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_changed_byte_is_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    path, _, patch_file = _made(tmp_path_factory)
    content = bytearray((patch_file.parent / "fix.safetensors").read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    place = folder / "fix.safetensors"
    place.write_bytes(content)
    (length,) = struct.unpack("<Q", (patch_file.parent / "fix.safetensors").read_bytes()[:8])
    try:
        overlay = read_overlay(place)
        lay_over(read_model(path), overlay, place)
    except (ModelError, VerificationError) as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        # White space of the header means nothing, whatever it is.
        assert position < 8 + length
        whole = read_overlay(patch_file.parent / "fix.safetensors")
        assert (overlay.base, overlay.result, overlay.patch) == (
            whole.base, whole.result, whole.patch
        )  # fmt: skip
        assert overlay.claims == whole.claims
        assert overlay.tensors.keys() == whole.tensors.keys()


_FOLDERS: dict[str, tuple[Path, Path, Path]] = {}


def _made(factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    if "made" not in _FOLDERS:
        folder = factory.mktemp("overlay")
        _FOLDERS["made"] = patched(folder, models.both_biases())
        path, _, patch_file = _FOLDERS["made"]
        repairkit.overlay(path, patch_file, out=folder / "fix.safetensors")
    return _FOLDERS["made"]


def test_what_is_wrong_is_told_in_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, result, patch_file = _made(tmp_path_factory)
    overlay = patch_file.parent / "fix.safetensors"
    with pytest.raises(VerificationError, match="for another model"):
        repairkit.verify(result, overlay)
    with pytest.raises(SettingsError, match=r"end its name in \.safetensors"):
        repairkit.overlay(path, patch_file, out=tmp_path / "fix.onnx")
    taken = tmp_path / "mine.safetensors"
    taken.write_bytes(b"mine")
    with pytest.raises(RunFolderError, match="did not write"):
        repairkit.overlay(path, patch_file, out=taken)
    assert taken.read_bytes() == b"mine"
    with pytest.raises(ModelError, match="is no safetensors file"):
        repairkit.verify(path, taken)
    with pytest.raises(ModelError, match="there is no such file"):
        repairkit.verify(path, tmp_path / "none.safetensors")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, taken)
    with pytest.raises(ModelError, match="is no overlay of schema 1"):
        read_overlay(taken)
    assert (
        run_command(["overlay", str(path), str(patch_file), "-o", str(tmp_path / "b.safetensors")])
        == 0
    )
    assert "byte for byte" in capsys.readouterr().out
    assert (tmp_path / "b.safetensors").read_bytes() == overlay.read_bytes()
    assert run_command(["verify", str(path), str(overlay), "--json"]) == 0
