"""Real tables that come with scikit-learn, and ensembles that converters made for them."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

PARTS = ("calibration", "selection", "test")


def write_table(
    path: Path, rows: np.ndarray, labels: Sequence[Any], **columns: Sequence[Any]
) -> Path:
    """A CSV with features f0, f1, ..., a label and further columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"f{i}" for i in range(rows.shape[1])), "label", *columns])
        for i, row in enumerate(rows.tolist()):
            writer.writerow([*map(repr, row), labels[i], *(c[i] for c in columns.values())])
    return path


def converted(model: Any, rows: np.ndarray, **options: Any) -> ModelProto:
    """An ensemble of scikit-learn as ONNX; skips the test where no converter is installed."""
    skl2onnx = pytest.importorskip("skl2onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: ModelProto = skl2onnx.to_onnx(model, rows[:1], **options)
    return made


def boosted(library: str, rows: np.ndarray, labels: np.ndarray, *, kind: str) -> ModelProto:
    """A booster of `lightgbm` or `xgboost` as ONNX; skips the test where one is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip(library)
        tools = pytest.importorskip("onnxmltools")
        from onnxmltools.convert.common.data_types import FloatTensorType

        name = {"lightgbm": "LGBM", "xgboost": "XGB"}[library] + kind
        quiet = {"verbose": -1} if library == "lightgbm" else {"verbosity": 0}
        model = getattr(package, name)(n_estimators=6, max_depth=3, n_jobs=1, **quiet)
        convert = getattr(tools, f"convert_{library}")
        made: ModelProto = convert(
            model.fit(rows, labels),
            initial_types=[("rows", FloatTensorType([None, rows.shape[1]]))],
            target_opset=15,
        )
    return made


def save(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def in_parts(n: int) -> list[str]:
    """A split column: every third row to each part."""
    return [PARTS[i % 3] for i in range(n)]
