"""Classes and functions that a Keras file names are told without importing anything."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from repairkit.core.errors import AdapterError
from repairkit.core.framework import LoadOptions
from repairkit_adapters.keras.keras_sources import _named_code, load_model


def part(module: str | None, name: str, config: Any = None) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": name}


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (part("os", "function", "system"), "os:system"),
        (part("keras.utils", "function", "get_file"), "keras.utils:get_file"),
        (part("keras.src.utils.file_utils", "get_file"), "keras.src.utils.file_utils:get_file"),
        (part("kerasevil", "Layer"), "kerasevil:Layer"),
        (part("builtins", "function", "eval"), "builtins:eval"),
        (part("tensorflow.io", "function", "write_file"), "tensorflow.io:write_file"),
        (part("keras.layers", "Conv2D", {"name": "c"}), None),
        (part("keras.src.models.functional", "Functional", {"layers": []}), None),
        (part("keras", "DTypePolicy", {"name": "float32"}), None),
        (part("builtins", "slice", [0, 1]), None),
        (part("builtins", "function", "own_activation"), None),
        (part(None, "Own", {}), None),
    ],
)
def test_what_loading_would_import_is_told(found: dict[str, Any], named: str | None) -> None:
    config = {"config": {"layers": [{"config": {"inner": found}}]}}
    assert list(_named_code(config)) == ([] if named is None else [named])


def test_a_file_that_names_code_is_refused_before_keras_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        layers = [part("planted_layers", "Layer", {}), part("os", "function", "system")]
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
    with pytest.raises(AdapterError, match=r"model.keras: .*planted_layers:Layer.*--trust"):
        load_model(None, str(path), LoadOptions())  # type: ignore[arg-type]  # Keras is not asked
