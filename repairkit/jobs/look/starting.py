"""Begin a project: look at a model and its data, propose settings, write `repairkit.toml`."""

import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from repairkit.core import attacked, errors
from repairkit.core.process.stages import stage
from repairkit.data.annotations import HOW_NUMBERED, HOW_NUMBERS
from repairkit.data.preprocessing import Preprocessing
from repairkit.data.project import PROJECT_FILE
from repairkit.data.usual import Order, Way
from repairkit.formats.documents import write_text
from repairkit.jobs.look.lists import ListedColumn, listed_column
from repairkit.jobs.setup.first_look import FirstLook, first_look_lines
from repairkit.jobs.setup.preparing import require_data
from repairkit.jobs.setup.unjudged import bench_with_look
from repairkit.jobs.setup.workbench import Bench, Settings, Subject

MOST_GROUPS = 20
"""A column of more values is not offered for groups."""
_FEWEST_OF_A_GROUP = 2
_MOST_LOOKS = 3
_FRACTIONS = {1 / 255: "1/255", 1 / 127.5: "1/127.5"}
_OF_ATTACKS = (attacked.ADVERSARIAL, attacked.TARGET, attacked.IMAGE)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Settings for a model and its data, and what they rest on.

    Attributes:
        model: the ONNX file.
        settings: those that were given, with what the look at the data added.
        found: what was changed or added, a sentence each.
        group_columns: columns by which images can be grouped, with their values.
        doubt: why the images are probably not prepared as the model expects; empty if they are.
    """

    model: Path
    settings: Settings
    sentences: tuple[str, ...]
    group_columns: tuple[ListedColumn, ...]
    doubt: str

    def next_commands(self, folder: Path) -> tuple[str, ...]:
        """The commands that come next, to be run in the working folder; the first one works."""
        here = folder.resolve() == Path.cwd()
        enter = "" if here else f"cd {shlex.quote(str(folder))} && "
        if self.doubt:
            data = os.path.relpath(data_file(self.settings), folder)
            return (f"{enter}repairkit inspect --data {shlex.quote(data)}",)
        repair = ["repairkit patch --fairness"] if self.settings.groups else []
        return tuple(f"{enter}{command}" for command in ("repairkit score", *repair))

    def toml(self, folder: Path) -> str:
        """The project file in `folder`."""
        lines = ["# Written by repairkit init; read by every command that is run in this folder."]
        lines += [f"{name} = {toml_value(value)}" for name, value in self._entries(folder)]
        for title, section in self._sections():
            if section:
                lines += ["", f"[{title}]"]
                lines += [f"{_key(name)} = {toml_value(value)}" for name, value in section.items()]
        return "\n".join(lines) + "\n"

    def _entries(self, folder: Path) -> Iterator[tuple[str, Any]]:
        settings, usual = self.settings, Settings()
        yield "model", _from(folder, self.model)
        yield "data", _from(folder, data_file(settings))
        names = {"class_names": "classes"}
        for name in (
            "label", "groups", "class_names", "metrics", "output", "columns", "threshold",
            "outputs_are", "seed", "features", "image_input",
        ):  # fmt: skip
            value = getattr(settings, name)
            if value != getattr(usual, name):
                text = f"{value[0]}:{value[1]}" if name == "columns" else value
                yield names.get(name, name), text

    def _sections(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "preprocessing", preprocessing_words(self.settings.preprocessing)
        parts = asdict(self.settings.parts)
        yield "parts", {name: value for name, value in parts.items() if value is not None}
        yield "inputs", self.settings.inputs

    def to_json(self) -> dict[str, Any]:
        return {
            "groups": list(self.settings.groups),
            "group_columns": [column.to_json() for column in self.group_columns],
            "classes": list(self.settings.class_names),
            "preprocessing": preprocessing_words(self.settings.preprocessing),
            "metrics": list(self.settings.metrics),
            "found": list(self.sentences),
            "doubt": self.doubt,
        }


def data_file(settings: Settings) -> Path:
    """The path of the data.

    Raises:
        SettingsError: there are none, or they lie in memory alone.
    """
    data = require_data(settings)
    if isinstance(data, Path):
        return data
    raise errors.SettingsError(
        f"a project file names data by their path, and {data} were given; save them, such as with "
        "numpy.savez, and name the file"
    )


def project_file(folder: Path, *, force: bool) -> Path:
    """The place of the project file in a folder.

    Raises:
        RunFolderError: the folder does not exist, or holds one already.
    """
    path = folder / PROJECT_FILE
    if not folder.is_dir():
        raise errors.RunFolderError(f"{folder}: is no folder; name one that exists with -o")
    if path.exists() and not force:
        raise errors.RunFolderError(
            f"{path}: exists already; replace it with --force, or name another folder with -o"
        )
    return path


def write_project(proposal: Proposal, folder: Path, *, force: bool) -> Path:
    """Write `repairkit.toml` whole or not at all; returns its path.

    Raises:
        RunFolderError: there is one already, or it cannot be written.
    """
    path = project_file(folder, force=force)
    write_text(path, proposal.toml(folder))
    return path


@stage("looking at model and data")
def propose(subject: Subject, settings: Settings) -> Proposal:
    """Look at a model and its data, and settle what can be told from both.

    Usual preprocessings and orders of the classes are tried. One that does better with statistical
    certainty replaces the one in use, and is looked at in its turn.

    Raises:
        DataError: the data cannot be read.
        SettingsError: there is no data, or a setting makes no sense.
    """
    data_file(settings)
    bench, sentences = bench_with_look(subject, settings), []
    for _ in range(_MOST_LOOKS - 1):
        better = None if isinstance(bench, str) else _better(bench, settings)
        if better is None:
            break
        settings, sentence = better
        sentences.append(sentence)
        bench = bench_with_look(subject, settings)
    if isinstance(bench, str):
        raise errors.SettingsError(f"{subject.file.path}: {bench}")
    settings = bench.settings
    if bench.look is None:
        sentences.append(
            "the preprocessing was not checked: "
            f"{bench.unjudged or 'the data gives no labels for it'}"
        )
    else:
        sentences += first_look_lines(bench.look.to_json())
    names = _class_names(bench)
    if names and not settings.class_names:
        settings = replace(settings, class_names=names)
        sentences.append(f"classes in the order of the outputs: {', '.join(names)}")
    columns = _group_columns(bench)
    if len(columns) == 1 and not settings.groups:
        settings = replace(settings, groups=(columns[0].name,))
        sentences.append(f"images are grouped by {columns[0].name}")
    doubt = bench.unjudged
    if bench.look is not None and bench.look.doubt:
        doubt = f"{bench.look.doubt}; {bench.look.remedy}"
    return Proposal(
        model=subject.file.path,
        settings=settings,
        sentences=tuple(sentences),
        group_columns=columns,
        doubt=doubt,
    )


def _better(bench: Bench, settings: Settings) -> tuple[Settings, str] | None:
    """The settings that do better than those in use, if settings alone are enough; in words."""
    look = bench.look
    if not isinstance(look, FirstLook) or look.better is None:
        return None
    given = preprocessing_words(settings.preprocessing)
    for way in look.better.ways:
        if isinstance(way, Order):
            if not way.classes and way.columns is None:
                return None
            settings = replace(
                settings,
                class_names=way.classes or settings.class_names,
                columns=way.columns or settings.columns,
            )
        elif isinstance(way, Way):
            if way.first:
                return None
            wanted = Preprocessing.from_mapping({**given, **way.changes}, PROJECT_FILE)
            settings = replace(settings, preprocessing=wanted)
    sentence = (
        f"with {look.better.name} the model is right on {100 * look.better.accuracy:.1f} % of "
        f"{len(look.better.right)} images, instead of {100 * look.ways[0].accuracy:.1f} %"
    )
    return settings, sentence


def _class_names(bench: Bench) -> tuple[str, ...]:
    """The names of all classes where the data gives them; empty where it does not."""
    about = bench.dataset.annotations
    named = about.class_names if bench.dataset.reading != HOW_NUMBERS else ()
    own_order = bench.dataset.reading == HOW_NUMBERED or bool(named)
    return named if own_order and len(named) == bench.n_classes else ()


def _group_columns(bench: Bench) -> tuple[ListedColumn, ...]:
    """The columns by which images can be grouped: a few values, each of several images."""
    label = bench.settings.label
    features = set(bench.settings.features)
    offered = []
    for name, values in bench.dataset.annotations.attributes.items():
        if name in (label, *_OF_ATTACKS, *features) or values.ndim != 1:
            continue
        column = listed_column(name, values, "", at_most=MOST_GROUPS)
        counts = [n for _, n in column.values]
        whole = values.dtype.kind in "Ubiu" or bool(np.all(np.mod(values, 1) == 0))
        if (
            2 <= column.n_values <= MOST_GROUPS
            and min(counts) >= _FEWEST_OF_A_GROUP
            and "" not in dict(column.values)
            and whole
        ):
            offered.append(column)
    return tuple(offered)


def preprocessing_words(preprocessing: Preprocessing) -> dict[str, Any]:
    """The settings that differ from the usual, as `[preprocessing]` has them."""
    words: dict[str, Any] = {}
    for each in fields(preprocessing):
        value = getattr(preprocessing, each.name)
        if value != each.default:
            words[each.name] = _FRACTIONS.get(value, value) if each.name == "scale" else value
    return words


def toml_value(value: Any) -> str:
    """A value in TOML: text, a number, a truth value or a list of these.

    Raises:
        TypeError: it is none of them.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value} is no setting")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's, but that TOML wants this character escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"{type(value).__name__} is no value of a setting")


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else toml_value(name)


def _from(folder: Path, path: Path) -> str:
    """A path as seen from the folder, with slashes."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path.absolute().as_posix()
