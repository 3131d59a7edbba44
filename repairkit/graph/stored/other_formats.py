"""Recognise files that are no ONNX models, and say what to do with them.

A file is recognised by its first bytes or by the names in its zip archive; by its ending only where
the format has no mark. Nothing in it is unpickled or run.
"""

import shlex
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repairkit.core.process.text import did_you_mean

_FIRST_BYTES = 512
_SEARCHED_BYTES = 1 << 22
_FACTORY = "MODULE:FACTORY"
_ITS_FACTORY = f"{_FACTORY} being the Python function or class that builds the network"
_TRUST = "--trust runs the code that the file holds: only for an author whom you trust"
_SHAPE = "--input-shape 3,224,224"
_SOURCE = "export the PyTorch or Keras model that it was made from, with `repairkit export`"
_TREES = "docs/guide/trees.md shows how"


@dataclass(frozen=True)
class _Format:
    """What a file is, such as `a Keras model`, and what to do with it."""

    name: str
    advice: str


_BY_ENDING = {
    ".mlmodel": _Format("a Core ML model", _SOURCE),
    ".mlpackage": _Format("a Core ML model", _SOURCE),
    ".engine": _Format("a TensorRT engine", "give the ONNX file that it was built from"),
    ".plan": _Format("a TensorRT engine", "give the ONNX file that it was built from"),
    ".trt": _Format("a TensorRT engine", "give the ONNX file that it was built from"),
    ".xml": _Format("an OpenVINO model", "give the ONNX file that it was made from"),
    ".caffemodel": _Format("a Caffe model", "convert it to ONNX first"),
    ".pdmodel": _Format("a PaddlePaddle model", "convert it with paddle2onnx first"),
    ".cbm": _Format("a CatBoost model", 'write it with save_model(..., format="onnx")'),
    ".joblib": _Format("a pickled Python object", f"convert it with skl2onnx; {_TREES}"),
    ".pkl": _Format("a pickled Python object", f"convert it with skl2onnx; {_TREES}"),
    ".pickle": _Format("a pickled Python object", f"convert it with skl2onnx; {_TREES}"),
    ".ubj": _Format("an XGBoost model", f"convert it with onnxmltools; {_TREES}"),
    ".pb": _Format(
        "a TensorFlow graph",
        "give `repairkit export` the SavedModel folder, or convert the graph with tf2onnx",
    ),
}
_DATA = (".csv", ".parquet", ".npz", ".npy", ".png", ".jpg", ".jpeg")


def name_format(path: Path, *, expected: str = "an ONNX model") -> str:
    """`this is FORMAT, not an ONNX model; ADVICE`, or empty where the format is not known.

    Args:
        path: a file or a folder, or where there is neither.
        expected: what it should be.
    """
    known = _of_folder(path) if path.is_dir() else _of_file(path) if path.is_file() else None
    return "" if known is None else f"this is {known.name}, not {expected}; {known.advice}"


def missing_file(path: Path) -> str:
    """What to do where there is no such file: a name of similar look, or a command."""
    module, colon, factory = str(path).partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), *factory.split("."))):
        command = f"repairkit export {path} {_SHAPE} -o {factory.rpartition('.')[2]}.onnx"
        return f"to export a network that Python code builds, use `{command}`"
    folder = path.parent
    names = sorted(p.name for p in folder.glob("*.onnx")) if folder.is_dir() else []
    return f"give the path of an ONNX model{did_you_mean(path.name, names)}"


def _of_folder(path: Path) -> _Format:
    if (path / "saved_model.pb").is_file():
        return _Format("a TensorFlow SavedModel", _export(path))
    if path.suffix.lower() in _BY_ENDING:
        return _BY_ENDING[path.suffix.lower()]
    if (path / "run.json").is_file():
        return _Format("a run folder of repairkit", "give the model's own file")
    models = sorted(path.glob("*.onnx"))
    if models:
        return _Format("a folder", f"give the file in it, such as {models[0]}")
    return _Format("a folder", "give the model's file; images go behind `--data`")


def _of_file(path: Path) -> _Format | None:
    with path.open("rb") as file:
        start = file.read(_FIRST_BYTES)
    ending = path.suffix.lower()
    for mark, position, recognised in _MARKS:
        if start[position : position + len(mark)] == mark:
            return recognised(path)
    if ending in _DATA:
        return _Format("data", f"give the model first, and the data as `--data {_quoted(path)}`")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _weights(path, "a safetensors file of weights")
    if start.lstrip()[:1] == b"{" and b'"learner"' in start:
        return _BY_ENDING[".ubj"]
    return _BY_ENDING.get(ending)


def _export(path: Path, *options: str) -> str:
    name = path.name.removesuffix(path.suffix) or "model"
    words = " ".join(["repairkit export", _quoted(path), *options])
    return f"`{words} -o {_quoted(Path(f'{name}.onnx'))}` writes it as ONNX"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _weights(path: Path, name: str, *options: str) -> _Format:
    model = f"{path.name.partition('.')[0] or 'model'}.onnx"
    shape = () if options else (_SHAPE,)
    words = " ".join([_FACTORY, "--weights", _quoted(path), *options, *shape])
    command = f"repairkit export {words} -o {_quoted(Path(model))}"
    return _Format(name, f"`{command}` writes the network as ONNX, {_ITS_FACTORY}")


def _of_zip(path: Path) -> _Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return _Format("a broken zip archive", "get the file again from where it came from")
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return _Format("a Keras model", _export(path))
    if any(name.endswith("constants.pkl") for name in names):
        advice = f"{_export(path, _SHAPE, '--trust')} ({_TRUST})"
        return _Format("a TorchScript program", advice)
    program = "serialized_exported_program.json"
    if any("models/" in name or name.endswith(program) for name in names):
        return _Format("a torch.export program", f"{_export(path, '--trust')} ({_TRUST})")
    if any(name.endswith("data.pkl") for name in names):
        return _weights(path, "a PyTorch checkpoint")
    if names and all(name.endswith(".npy") for name in names):
        return _Format("NumPy data", f"give the model first, and data as `--data {_quoted(path)}`")
    models = [name for name in names if name.endswith(".onnx")]
    inside = f"; it holds {models[0]}" if models else ""
    return _Format("a zip archive", f"unpack it and give the ONNX file{inside}")


def _of_hdf5(path: Path) -> _Format:
    with path.open("rb") as file:
        has_model = b"model_config" in file.read(_SEARCHED_BYTES)
    if has_model:
        return _Format("a Keras model", _export(path))
    return _weights(path, "a Keras file of weights", "--framework keras")


def _of_pickle(path: Path) -> _Format:
    if path.suffix.lower() in (".pkl", ".pickle", ".joblib"):
        return _BY_ENDING[".pkl"]
    return _weights(path, "a PyTorch checkpoint")


def _always(name: str, advice: str) -> Callable[[Path], _Format]:
    return lambda _: _Format(name, advice)


_AGAIN = "the download went wrong: get the file itself"
_MARKS: tuple[tuple[bytes, int, Callable[[Path], _Format]], ...] = (
    (b"PK\x03\x04", 0, _of_zip),
    (b"\x89HDF\r\n", 0, _of_hdf5),
    *((b"\x80" + bytes([protocol]), 0, _of_pickle) for protocol in (2, 3, 4, 5)),
    (b"TFL3", 4, _always("a TensorFlow Lite model", _SOURCE)),
    (b"ORTM", 4, _always("ONNX Runtime's own format", "give the .onnx file it was made from")),
    (b"version https://git-lfs", 0, _always("a pointer of Git LFS", "fetch it: `git lfs pull`")),
    (b"<!DOCTYPE html", 0, _always("a web page", _AGAIN)),
    (b"<!doctype html", 0, _always("a web page", _AGAIN)),
    (b"<html", 0, _always("a web page", _AGAIN)),
    (b"\x1f\x8b", 0, _always("a gzip archive", "unpack it and give the ONNX file")),
    (b"tree\nversion=", 0, _always("a LightGBM model", f"convert it with onnxmltools; {_TREES}")),
    (b"\x93NUMPY", 0, _always("NumPy data", "give the model first, and data with --data")),
)
"""Bytes, where they stand in the file, and what reads on."""
