"""Tests of Keras skip themselves where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_keras = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("keras", "tensorflow", "tf2onnx")),
    reason="Keras on TensorFlow is not installed (pip install 'repairkit[keras]')",
)
