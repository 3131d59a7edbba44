"""Settings from options and a project file, and the options of a command that does a job again.

Every field of the settings is written as the option of the same name, unless a table below says
otherwise. So a new setting needs no code here. What no option can say (it came from Python) and
what does not affect the result is listed too. A test compares these lists with the command line.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from repairkit.core import errors, scores
from repairkit.core.process.origins import FileSetting, gathering, give
from repairkit.core.process.trust import GivenName
from repairkit.data.given import GivenData
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.data.project import PROJECT_FILE, Project, find_project
from repairkit.formats.effects import About, Affects, affecting, settings_of
from repairkit.formats.score_size import in_words
from repairkit.jobs.output.destination import Places
from repairkit.jobs.setup.workbench import Settings
from repairkit.metrics.catalogue import is_user_metric

Said = dict[str, list[str] | bool]
"""Options by name, such as `--seed`: a value for each time that one is given, or a flag."""
_OTHER_NAMES = {
    "metrics": "--metric",
    "groups": "--group",
    "class_names": "--classes",
    "batch_size": "--batch",
    "inputs": "--input",
    "targets": "--target",
    "transfers": "--transfer",
    "time_limit_seconds": "--time-limit",
}
_SAID = About(Affects.SEARCH)  # of settings that do not tell
_LISTS = ("groups", "class_names", "features", "corruptions")
METHOD_OPTIONS = ("top_k", "side", "epsilon", "delta", "truncate_at")
_ALWAYS = ("--seed",)
# What has no usual value: it is said wherever it is there.
_CHOICES = ("--fairness", "--robustness", "--backdoor", "--fix", "--forget", "--objective",
    "--target", "--scores", "--remove")  # fmt: skip
_SCORE_ONLY = ("--paper", "--statistics", "--for-patch", "--score-size", "--exclude-top-of",
    "--exclude-share", "--keep-rows", "--means")  # fmt: skip


def settle(options: Mapping[str, Any], project: Project | None) -> Settings:
    """Settings from options (None where not given) over a project file over defaults.

    Raises:
        SettingsError: a value that makes no sense.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    image_options = given.pop("preprocessing", {})
    part_options = given.pop("parts", {})
    if project is None:
        preprocessing, parts = dict(image_options), dict(part_options)
    else:
        give(tuple(_file_settings(project, options)))
        preprocessing = {**project.preprocessing, **image_options}
        parts = {**project.parts, **part_options}
        from_file = {
            "data": project.data,
            "label": project.label,
            "metrics": project.metrics,
            "groups": project.groups,
            "class_names": project.class_names,
            "features": project.features,
            "corruptions": project.corruptions,
            "image_input": project.image_input,
            "output": project.output,
            "columns": None if options.get("columns") else read_columns(project.columns),
            "threshold": project.threshold,
            "outputs_are": project.outputs_are,
            "seed": project.seed,
            "accept_preprocessing": project.accept_preprocessing or None,
        }
        given = {**{n: v for n, v in from_file.items() if v not in (None, ())}, **given}
        if not options.get("metrics"):
            given["named_by"] = named_in(project.folder / PROJECT_FILE, project.metrics)
    if project is not None:
        given["inputs"] = {**project.inputs, **given.get("inputs", {})}
    where = "the options" if project is None else f"{project.folder / 'repairkit.toml'} or options"
    return Settings(
        **given,
        preprocessing=Preprocessing.from_mapping(preprocessing, where),
        parts=PartPlan(**parts),
    )


_KEYS = {"class_names": "classes"}
"""Keys of a project file that have another name than the setting."""


def _file_settings(project: Project, options: Mapping[str, Any]) -> Iterator[FileSetting]:
    """What a project file says and no option does, for messages about these settings."""
    file = _shown_path(project.folder / PROJECT_FILE)
    names = ("data", "metrics", "groups", *_KEYS, "features", "corruptions", "image_input",
        "output", "columns", "threshold", "outputs_are", "seed")  # fmt: skip
    known = {name: getattr(project, name) for name in names if not options.get(name)}
    for section in ("preprocessing", "parts"):
        by_options = options.get(section) or {}
        known |= {n: v for n, v in getattr(project, section).items() if n not in by_options}
    for name, value in known.items():
        if value in (None, ()):
            continue
        texts = tuple(map(str, value)) if isinstance(value, tuple | list) else (str(value),)
        plain = str(value) if isinstance(value, Path) else value
        yield FileSetting(
            key=_KEYS.get(name, name),
            option=option_of(name),
            text=json.dumps(plain, ensure_ascii=False),
            values=texts if name in _NAMES_IN_DATA else (),
            file=file,
        )


_NAMES_IN_DATA = ("groups", "class_names", "metrics", "features", "image_input", "output")
"""Settings that are names: a message about one may show the name alone."""


def _shown_path(path: Path) -> str:
    """A path relative to the working folder where it lies in it, else whole."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def named_in(file: Path, metrics: Sequence[str]) -> dict[str, str]:
    """Those of a file's metrics that are code, with the file; see `Settings.named_by`."""
    return dict.fromkeys(filter(is_user_metric, metrics), str(file))


def read_inputs(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping.

    Raises:
        SettingsError: one is no such text, or a name comes twice.
    """
    inputs: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (sign and name.strip() and value.strip()):
            raise errors.SettingsError(
                f"--input {text!r} is none; give NAME=VALUE, such as threshold=0.5"
            )
        if name.strip() in inputs:
            raise errors.SettingsError(
                f"--input names {name.strip()!r} twice; name each input once"
            )
        inputs[name.strip()] = value.strip()
    return inputs


def read_columns(text: str | None) -> tuple[int, int] | None:
    """`0:2` as (0, 2), `3` as (3, 4); None stays None.

    Raises:
        SettingsError: it is neither, or holds no column.
    """
    if text is None:
        return None
    first, colon, behind = text.partition(":")
    if first.isdecimal() and (behind.isdecimal() if colon else True):
        columns = int(first), int(behind) if colon else int(first) + 1
        if columns[0] < columns[1]:
            return columns
    raise errors.SettingsError(
        f"columns {text!r} is no range of columns; give FIRST:BEHIND such as 0:2, or one number"
    )


def option_of(setting: str) -> str:
    """The option that says a setting, where one does."""
    return _OTHER_NAMES.get(setting, f"--{setting.replace('_', '-')}")


NOT_SAID: Mapping[str, str] = {
    **{option_of(name): "never changes a result" for name in affecting(Settings, Affects.SPEED)},
    "--ray": "where coalitions are evaluated; never changes a result",
    "--ray-cores": "where coalitions are evaluated; never changes a result",
    "--log-json": "tells of the job while it runs",
    "--prometheus-port": "tells of the job while it runs",
    "--prometheus-file": "tells of the job while it runs",
    "--json": "how the result is printed",
    "--quiet": "how the result is printed",
    "--debug": "how errors are printed",
    "--details": "how the result is printed",
    "--out": "the result has another name, so that nothing is replaced",
    "--share": "a second folder with the same values",
    "--curve": "drawn as a rule; a run that has no curve says --no-curve",
    "--resume": "a run that was resumed has the values of one that was not interrupted",
    "--source": "its name does not reach the settings; told as lacking where it has a say",
    "--weights": "of --source",
    "--framework": "of --source",
    "--input-shape": "of --source",
    "--help": "does nothing",
    "-h": "does nothing",
}
"""Options that no command says again, and why."""


@dataclass(frozen=True)
class Again:
    """A command's options after the model, and what they cannot say.

    Attributes:
        command: `patch` or `score`.
        words: the model and the options; every path is relative to the folder of the job.
        lacks: settings from Python that no option holds.
        timed: whether a time limit was given; another computer may do less or more within it.
    """

    command: str
    words: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    timed: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "words": list(self.words),
            "lacks": list(self.lacks),
            "timed": self.timed,
        }


def said_again(
    command: str,
    model: Path,
    settings: Settings,
    asked: Any,
    *,
    usual: Any,
    budget: scores.Budget,
    lacks: Sequence[str] = (),
) -> Again:
    """The command that does a job again.

    Args:
        command: `patch` or `score`.
        model: the model's file.
        settings: images, metrics, sites.
        asked: the dataclass with the command's further settings.
        usual: the same as it is without options.
        budget: whose time limit is noted.
        lacks: further settings that no option holds.
    """
    places = Places.here()
    asked_options, asked_lacks = options_of(command, asked, places)
    options, settings_lack = options_of(command, settings, places)
    defaults = options_of(command, usual, places)[0] | options_of(command, Settings(), places)[0]
    at_hand = defaults | options_of(command, _at_hand(model, places.folder), places)[0]
    words = list(_words(asked_options | options, (defaults, at_hand)))
    return Again(
        command=command,
        words=(places.relative(model), *words),
        lacks=(*asked_lacks, *settings_lack, *lacks),
        timed=budget.time_limit_seconds is not None,
    )


def _at_hand(model: Path, folder: Path) -> Settings:
    """What a command would take without options: from a `repairkit.toml`, if there is one."""
    try:
        with gathering():  # what options say of this job stays told
            return settle({}, find_project(model, folder))
    except errors.SettingsError:
        # Settings from Python read no project file, so a wrong one does not end their job.
        return Settings()


def _words(said: Said, usual: Sequence[Said]) -> Iterator[str]:
    """The options that differ from what the command takes anyway."""
    for name, values in said.items():
        unusual = any(values != known.get(name, []) for known in usual)
        if name not in (*_ALWAYS, *_CHOICES) and not unusual:
            continue
        if isinstance(values, bool):
            yield from [name] if values else []
            continue
        for value in values:
            # An empty value, or one that looks like an option, needs the sign of equality.
            yield from [f"{name}={value}"] if value[:1] in ("-", "") else [name, value]


def options_of(command: str, settings: Any, places: Places) -> tuple[Said, list[str]]:
    """All options for a dataclass of settings, and the settings that no option can say."""
    said: Said = {}
    lacks: list[str] = []
    known = settings_of(settings.__class__)
    for each in fields(settings):
        name, value = each.name, getattr(settings, each.name)
        flag = option_of(name)
        if flag in NOT_SAID or not known.get(name, _SAID).option:
            continue
        if isinstance(value, GivenData):
            lacks.append(name)
        elif name in _WRITERS:
            said |= _WRITERS[name](value, places)
        elif name == "options":
            options, lacking = _method_options(command, value)
            said |= options
            lacks += lacking
        elif is_dataclass(value):
            options, lacking = options_of(command, value, places)
            said |= options
            lacks += lacking
        elif isinstance(value, bool):
            said[flag] = value
        elif name in _LISTS:
            said[flag] = [_listed(value)] if value else []
        elif isinstance(value, tuple) and not isinstance(settings, Preprocessing):
            lacks += [one for one in value if isinstance(one, GivenName) and one.only_given]
            said[flag] = [_text(one, places) for one in value]
        else:
            said[flag] = [] if value in (None, ()) else [_text(value, places)]
    if command == "patch":
        lacks += [name for name in _SCORE_ONLY if said.pop(name, None) not in (None, [], False)]
    return said, lacks


def _text(value: Any, places: Places) -> str:
    if isinstance(value, Path):
        return places.relative(value)
    if isinstance(value, tuple):
        return ",".join(_text(one, places) for one in value)
    return repr(value) if isinstance(value, float) else str(value)


def _listed(names: Sequence[str]) -> str:
    """Names as a comma-separated list; those that hold a comma or a quotation mark in quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def _method_options(command: str, options: Mapping[str, Any]) -> tuple[Said, list[str]]:
    """Settings of the method: by options of their own, else by `--set` where there is that."""
    with_option = [name for name in METHOD_OPTIONS if name != "side" or command == "score"]
    said: Said = {
        f"--{name.replace('_', '-')}": [_plain(options[name])]
        for name in with_option
        if name in options
    }
    rest = {name: value for name, value in options.items() if name not in with_option}
    if command == "score":
        said["--set"] = [f"{name}={json.dumps(value)}" for name, value in rest.items()]
        return said, []
    return said, list(rest)


def _plain(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _excluded(value: Any, places: Places) -> Said:
    if value is None:
        return {}
    return {
        "--exclude-top-of": [places.relative(value.run)],
        "--exclude-share": [repr(value.share)],
    }


def _columns(value: Any, _: Places) -> Said:
    return {"--columns": [] if value is None else [f"{value[0]}:{value[1]}"]}


def _score_size(value: Any, _: Places) -> Said:
    return {"--score-size": [] if value is None else [in_words(value)]}


_WRITERS: Mapping[str, Callable[[Any, Places], Said]] = {
    "columns": _columns,
    "exclude": _excluded,
    "inputs": lambda value, _: {"--input": [f"{name}={text}" for name, text in value.items()]},
    "remove": lambda value, _: {"--remove": [_listed([f.id for f in value])] if value else []},
    "score_size": _score_size,
    "targets": lambda value, _: {"--target": [f"{t.metric}{t.relation}{t.bound!r}" for t in value]},
}
"""How fields are said that are neither text, number nor path, nor a list of these."""
