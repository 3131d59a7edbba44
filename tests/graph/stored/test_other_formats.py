"""A file of another format is named, with the command that makes an ONNX model of it."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import ModelError
from repairkit.graph.stored.model_files import read_model


def archive(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as written:
        for name in names:
            written.writestr(name, b"x")


def safetensors(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def hdf5(path: Path, content: bytes) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + content)


FILES = {
    "face net.keras": (
        lambda path: archive(path, "metadata.json", "config.json", "model.weights.h5"),
        ("a Keras model", "`repairkit export 'face net.keras' -o 'face net.onnx'`"),
    ),
    "old.h5": (
        lambda path: hdf5(path, bytes(900) + b"model_config"),
        ("a Keras model", "`repairkit export old.h5 -o old.onnx`"),
    ),
    "w.weights.h5": (
        lambda path: hdf5(path, bytes(900)),
        ("a Keras file of weights", "MODULE:FACTORY --weights w.weights.h5 --framework keras"),
    ),
    "scripted.pt": (
        lambda path: archive(path, "s/data.pkl", "s/constants.pkl", "s/code/a.py"),
        ("a TorchScript program", "export scripted.pt --input-shape 3,224,224 --trust"),
    ),
    "program.onnx": (
        lambda path: archive(path, "p/models/model.json", "p/version"),
        ("a torch.export program", "export program.onnx --trust"),
    ),
    "best.pth": (
        lambda path: archive(path, "best/data.pkl", "best/data/0"),
        ("a PyTorch checkpoint", "MODULE:FACTORY --weights best.pth --input-shape", "best.onnx`"),
    ),
    "legacy.ckpt": (
        lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=2)),
        ("a PyTorch checkpoint", "--weights legacy.ckpt"),
    ),
    "w.safetensors": (safetensors, ("safetensors", "MODULE:FACTORY --weights w.safetensors")),
    "phone.tflite": (
        lambda path: path.write_bytes(b"\x20\0\0\0TFL3" + bytes(50)),
        ("a TensorFlow Lite model", "`repairkit export`"),
    ),
    "phone.mlmodel": (lambda path: path.write_bytes(b"\x08\x01"), ("a Core ML model",)),
    "pulled.onnx": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"),
        ("a pointer of Git LFS", "git lfs pull"),
    ),
    "saved.onnx": (lambda path: path.write_bytes(b"<!DOCTYPE html><p>"), ("a web page",)),
    "images.npz": (
        lambda path: np.savez(path, x=np.zeros(3)),
        ("NumPy data", "--data images.npz"),
    ),
    "forest.pkl": (
        lambda path: path.write_bytes(pickle.dumps([1])),
        ("a pickled Python object", "skl2onnx"),
    ),
    "nested.zip": (
        lambda path: archive(path, "readme", "m/net.onnx"),
        ("a zip archive", "it holds m/net.onnx"),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_another_format_is_named_with_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, words = FILES[name]
    write(Path(name))
    with pytest.raises(ModelError) as refused:
        read_model(Path(name))
    message = str(refused.value)
    assert message.startswith(f"{name}: this is ")
    assert "not an ONNX model" in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_folder_is_told_by_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {
        "saved": ("saved_model.pb", "`repairkit export saved -o saved.onnx`"),
        "run": ("run.json", "a run folder of repairkit"),
        "nets": ("a.onnx", "such as nets/a.onnx"),
        "images": ("cat.png", "images go behind `--data`"),
    }
    for folder, (file, words) in expected.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_bytes(b"")
        with pytest.raises(ModelError, match=f"^{folder}: this is ") as refused:
            read_model(Path(folder))
        assert words in str(refused.value)


def test_a_missing_file_is_told_with_one_of_similar_name(tmp_path: Path) -> None:
    (tmp_path / "resnet18.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"did you mean 'resnet18.onnx'"):
        read_model(tmp_path / "resnet_18.onnx")
    with pytest.raises(ModelError, match=r"repairkit export nets.small:build --input-shape"):
        read_model(Path("nets.small:build"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x89HDF\r\n", b"\x80\x05", b"{"])
def test_broken_files_of_other_formats_end_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_model(tmp_path / "x.onnx")
