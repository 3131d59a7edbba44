"""Keras on TensorFlow, imported when first used and without noise on the terminal."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from repairkit.core.errors import AdapterError
from repairkit.core.process.text import first_line

if TYPE_CHECKING:
    import keras
    import tensorflow

# Both frameworks are optional, and mypy does not look into them: to it each of these is `Any`.
KerasLayer: TypeAlias = "keras.Layer"
KerasModel: TypeAlias = "keras.Model"
Variable: TypeAlias = "keras.Variable"
Tensor: TypeAlias = "tensorflow.Tensor"
Operation: TypeAlias = "tensorflow.Operation"
Graph: TypeAlias = "tensorflow.Graph"
GraphFunction: TypeAlias = "tensorflow.types.experimental.ConcreteFunction"

_INSTALL = "install it with `pip install 'repairkit[keras]'`"


@dataclass(frozen=True)
class Runtime:
    """The two frameworks, imported."""

    keras: ModuleType
    tensorflow: ModuleType


def load_runtime() -> Runtime:
    """Import Keras with its TensorFlow backend.

    Raises:
        AdapterError: either is missing or broken, or Keras already runs on another backend.
    """
    if sys.modules.get("keras") is None:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras reads it nowhere else, and only once
    with quiet():
        if sys.modules.get("tensorflow") is not None:
            tensorflow = sys.modules["tensorflow"]
        else:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            with _without_stderr():
                tensorflow = _imported("tensorflow")
                tensorflow.zeros(1)  # looks for devices, and complains of those that are missing
        keras = _imported("keras")
    version = getattr(keras, "__version__", "unknown")
    if not version.split(".")[0].isdecimal() or int(version.split(".")[0]) < 3:
        raise AdapterError(f"Keras {version} is installed and Keras 3 was expected; {_INSTALL}")
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise AdapterError(
            f"Keras runs on the backend {backend}, and models are read and exported on tensorflow; "
            "set KERAS_BACKEND=tensorflow before Keras is imported"
        )
    return Runtime(keras, tensorflow)


def load_exporter() -> ModuleType:
    """Import tf2onnx.

    Raises:
        AdapterError: it is missing or broken.
    """
    with quiet():
        return _imported("tf2onnx")


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        fault = "is not installed" if missing else f"cannot be imported ({short_message(error)})"
        raise AdapterError(f"{name} {fault}; {_INSTALL}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and log lines of the frameworks from the terminal, errors excepted."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl", "tf2onnx", "h5py")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Hide what native code writes to stderr; it is shown if an error follows."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except AdapterError:
            raise
        except BaseException:
            written.seek(0)
            os.write(kept, written.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def short_message(error: BaseException) -> str:
    """What an exception of a framework says, in one line of at most 200 characters."""
    line = first_line(error).strip().rstrip(".")
    return line if len(line) <= 200 else f"{line[:197]}..."
