"""`repairkit.toml`: settings of a project, which its commands then need no options for."""

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
    "model", "data", "label", "groups", "classes", "metrics", "output", "columns", "threshold",
    "outputs_are", "seed", "preprocessing", "parts", "features", "image_input", "inputs",
    "accept_preprocessing", "corruptions",
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
    label: str | None = None
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
    corruptions: tuple[str, ...] = ()
    image_input: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    accept_preprocessing: bool = False


def find_project(model: Path | None, cwd: Path) -> Project | None:
    """The project of the file next to the model, else of the one in `cwd`, else None.

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
    settings = _ProjectFile(path, _load(path))
    check_keys(settings.values, _KEYS, str(path))
    folder = path.parent
    model, data = settings.text("model"), settings.text("data")
    preprocessing = settings.section("preprocessing")
    Preprocessing.from_mapping(preprocessing, f"{path} [preprocessing]")
    return Project(
        folder=folder,
        model=None if model is None else folder / model,
        data=None if data is None else folder / data,
        label=settings.text("label"),
        groups=settings.texts("groups", separator=","),
        class_names=settings.texts("classes"),
        preprocessing=preprocessing,
        parts=settings.parts(),
        metrics=settings.texts("metrics"),
        output=settings.text("output"),
        columns=settings.text("columns"),
        threshold=settings.threshold(),
        outputs_are=settings.text("outputs_are"),
        seed=settings.seed(),
        features=settings.texts("features", separator=","),
        corruptions=settings.texts("corruptions", separator=","),
        image_input=settings.text("image_input"),
        inputs=settings.inputs(),
        accept_preprocessing=settings.truth("accept_preprocessing"),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SettingsError(f"{path}: is over {_MOST_BYTES >> 10} KiB; no settings are so long")
        text = decoded(path.read_bytes())
        # The parser's time grows with the square of the dots in one key.
        if max(line.count(".") for line in text.split("\n")) > _MOST_DOTS:
            raise SettingsError(f"{path}: has a line of over {_MOST_DOTS} dots; no settings do")
        return tomllib.loads(text.replace("\r\n", "\n"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); check it") from error
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8
        raise SettingsError(
            f"{path}: is no valid TOML ({first_line(error)}); correct it"
        ) from error


@dataclass(frozen=True)
class _ProjectFile:
    """What a file holds by its keys; a value of another kind than its key takes is refused."""

    path: Path
    values: Mapping[str, Any]

    def refusal(self, key: str, value: Any, expected: str) -> SettingsError:
        return SettingsError(f"{self.path}: {key} is {value!r}; expected {expected}")

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        raise self.refusal(key, value, "text in quotes")

    def texts(self, key: str, *, separator: str | None = None) -> tuple[str, ...]:
        given = value = self.values.get(key, [])
        if isinstance(value, str):
            value = [part.strip() for part in value.split(separator)] if separator else [value]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.refusal(key, given, 'text, or a list of texts like ["a", "b"]')
        return tuple(value)

    def section(self, key: str) -> dict[str, Any]:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.refusal(key, value, f"a section [{key}]")
        return value

    def parts(self) -> dict[str, str | float]:
        parts = self.section("parts")
        check_keys(parts, PART_NAMES, f"{self.path} [parts]")
        for name, value in parts.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                expected = '"all", a value of split, or a share'
                raise self.refusal(f"parts.{name}", value, expected)
        return parts

    def inputs(self) -> dict[str, str]:
        """Constants of a model's further inputs, as the text that an option would give."""
        constants = {}
        for name, value in self.section("inputs").items():
            values = value if isinstance(value, list) else [value]
            if not values or not all(isinstance(v, bool | int | float | str) for v in values):
                expected = "a number, a truth value, text or a list"
                raise self.refusal(f"inputs.{name}", value, expected)
            words = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
            constants[name] = ",".join(words)
        return constants

    def threshold(self) -> float | None:
        value = self.values.get("threshold")
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise self.refusal("threshold", value, "a number")
        return float(value)

    def truth(self, key: str) -> bool:
        value = self.values.get(key, False)
        if isinstance(value, bool):
            return value
        raise self.refusal(key, value, "true or false")

    def seed(self) -> int | None:
        seed = self.values.get("seed")
        if seed is None or (isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0):
            return seed
        raise self.refusal("seed", seed, "a whole number, 0 or more")
