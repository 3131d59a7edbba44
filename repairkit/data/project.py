"""`repairkit.toml`: what a project's commands need, so that they need no more words."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repairkit.core.errors import SettingsError
from repairkit.core.process.text import check_keys, decoded, first_line
from repairkit.data.parts import PART_NAMES
from repairkit.data.preprocessing import Preprocessing

PROJECT_FILE = "repairkit.toml"
_MOST_BYTES = 256 << 10
_MOST_DOTS = 500
_KEYS = (
    "model", "data", "groups", "classes", "metrics", "output", "columns", "threshold",
    "outputs_are", "seed", "preprocessing", "parts", "features", "image_input", "inputs",
    "accept_preprocessing",
)  # fmt: skip


@dataclass(frozen=True)
class Project:
    """The settings of one `repairkit.toml`; paths are already joined to its folder.

    `preprocessing` is checked and still as written, so that options can overrule single keys:
    `Preprocessing.from_mapping({**project.preprocessing, **options}, where)`. `parts` fits
    `PartPlan(**project.parts)`.
    """

    folder: Path
    model: Path | None = None
    data: Path | None = None
    groups: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str | float] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    output: str | None = None
    columns: str | None = None
    threshold: float | None = None
    outputs_are: str | None = None
    seed: int | None = None
    features: tuple[str, ...] = ()
    image_input: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    accept_preprocessing: bool = False


def find_project(model: Path | None, cwd: Path) -> Project | None:
    """The project of the file beside the model, else of the one in `cwd`, else None.

    Raises:
        SettingsError: the file cannot be read or holds what makes no sense.
    """
    folders = [cwd] if model is None else [(cwd / model).parent, cwd]
    for folder in folders:
        if (folder / PROJECT_FILE).is_file():
            return read_project(folder / PROJECT_FILE)
    return None


def read_project(path: Path) -> Project:
    """The settings in a `repairkit.toml`.

    Raises:
        SettingsError: it cannot be read, a key is unknown or a value makes no sense.
    """
    settings = _load(path)
    check_keys(settings, _KEYS, str(path))
    folder = path.parent
    model, data = _text(path, settings, "model"), _text(path, settings, "data")
    preprocessing = _section(path, settings, "preprocessing")
    Preprocessing.from_mapping(preprocessing, f"{path} [preprocessing]")
    return Project(
        folder=folder,
        model=None if model is None else folder / model,
        data=None if data is None else folder / data,
        groups=_texts(path, settings, "groups", separator=","),
        class_names=_texts(path, settings, "classes"),
        preprocessing=preprocessing,
        parts=_parts(path, settings),
        metrics=_texts(path, settings, "metrics"),
        output=_text(path, settings, "output"),
        columns=_text(path, settings, "columns"),
        threshold=_threshold(path, settings),
        outputs_are=_text(path, settings, "outputs_are"),
        seed=_seed(path, settings),
        features=_texts(path, settings, "features", separator=","),
        image_input=_text(path, settings, "image_input"),
        inputs=_inputs(path, settings),
        accept_preprocessing=_truth(path, settings, "accept_preprocessing"),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SettingsError(f"{path}: is over {_MOST_BYTES >> 10} KiB; no settings are so long")
        text = decoded(path.read_bytes())
        # The parser takes the square of the dots in one key.
        if max(line.count(".") for line in text.split("\n")) > _MOST_DOTS:
            raise SettingsError(f"{path}: has a line of over {_MOST_DOTS} dots; no settings do")
        return tomllib.loads(text.replace("\r\n", "\n"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); check it") from error
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8
        raise SettingsError(
            f"{path}: is no valid TOML ({first_line(error)}); correct it"
        ) from error


def _wrong(path: Path, key: str, value: Any, expected: str) -> SettingsError:
    return SettingsError(f"{path}: {key} is {value!r}; expected {expected}")


def _text(path: Path, settings: Mapping[str, Any], key: str) -> str | None:
    value = settings.get(key)
    if value is None or (isinstance(value, str) and value):
        return value
    raise _wrong(path, key, value, "text in quotes")


def _texts(
    path: Path, settings: Mapping[str, Any], key: str, *, separator: str | None = None
) -> tuple[str, ...]:
    value = settings.get(key, [])
    if isinstance(value, str):
        value = [part.strip() for part in value.split(separator)] if separator else [value]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _wrong(path, key, settings[key], 'text, or a list of texts like ["a", "b"]')
    return tuple(value)


def _section(path: Path, settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = settings.get(key, {})
    if not isinstance(value, dict):
        raise _wrong(path, key, value, f"a section [{key}]")
    return value


def _parts(path: Path, settings: Mapping[str, Any]) -> dict[str, str | float]:
    parts = _section(path, settings, "parts")
    check_keys(parts, PART_NAMES, f"{path} [parts]")
    for name, value in parts.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _wrong(path, f"parts.{name}", value, '"all", a value of split, or a share')
    return parts


def _threshold(path: Path, settings: Mapping[str, Any]) -> float | None:
    value = settings.get("threshold")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(path, "threshold", value, "a number")
    return float(value)


def _inputs(path: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Constants of a model's further inputs, as the text that an option would give."""
    constants = {}
    for name, value in _section(path, settings, "inputs").items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(v, bool | int | float | str) for v in values):
            raise _wrong(path, f"inputs.{name}", value, "a number, a truth value, text or a list")
        words = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
        constants[name] = ",".join(words)
    return constants


def _truth(path: Path, settings: Mapping[str, Any], key: str) -> bool:
    value = settings.get(key, False)
    if isinstance(value, bool):
        return value
    raise _wrong(path, key, value, "true or false")


def _seed(path: Path, settings: Mapping[str, Any]) -> int | None:
    seed = settings.get("seed")
    if seed is None or (isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0):
        return seed
    raise _wrong(path, "seed", seed, "a whole number, 0 or more")
