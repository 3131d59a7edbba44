"""Settings as `run.json` records them: told, compared with those of another run or job, restored.

Which settings these are follows from what each says that it affects, see `formats.effects`. A
setting that an earlier version did not record had its usual value.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repairkit.data.preprocessing import Preprocessing
from repairkit.formats.effects import Affects, affecting, recorded, settings_of
from repairkit.formats.means_file import CommonMeans
from repairkit.formats.run_file import RunDocument, RunSettings
from repairkit.jobs.runs.part_records import recorded_plan
from repairkit.jobs.setup.workbench import Settings

OWN_MEANS = "means of the calibration part"
_SHARE = re.compile(r"[0-9]*\.?[0-9]+")
_DIGITS = 12  # of a digest


def plain(value: Any) -> Any:
    """A setting as JSON holds it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def told_settings(settings: Settings) -> dict[str, Any]:
    """The recorded settings of a job, in the order of `RunSettings`."""
    known, wanted = settings_of(Settings), recorded(Settings)
    values = {n: getattr(settings, n) for n in RunSettings.__annotations__ if n in wanted}
    return {
        name: dict(value) if isinstance(value, Mapping) else plain(value)
        for name, value in values.items()
        if value or not known[name].where_given
    }


@dataclass(frozen=True)
class Difference:
    """A setting that two runs do not share, or a run and a job, and its values."""

    name: str
    first: Any
    second: Any


def settings_in(run: RunDocument) -> dict[str, Any]:
    """The settings of a run that can be compared, with those that it did not record."""
    usual = told_settings(Settings())
    known = {name: run["settings"].get(name, usual.get(name)) for name in recorded(Settings)}
    return {**known, "means": _told_means(run["settings"]["absent"], run.get("means"))}


def settings_at(settings: Settings, common: CommonMeans | None) -> dict[str, Any]:
    """The same of a job, with the common means that it has, if any."""
    known: dict[str, Any] = dict.fromkeys(recorded(Settings))
    means = _told_means(settings.absent, None if common is None else common.digest)
    return {**known, **told_settings(settings), "means": means}


def _told_means(absent: str, digest: str | None) -> str | None:
    if absent != "mean":
        return None
    return OWN_MEANS if digest is None else f"common means {digest[:_DIGITS]}"


def differing(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *affected: Affects,
    without: Collection[str] = (),
) -> list[Difference]:
    """The settings that affect one of these and have different values.

    Args:
        first: from `settings_in` or `settings_at`.
        second: likewise.
        affected: what a setting must affect to be looked at.
        without: settings that the caller compares in another way.
    """
    return [
        Difference(name, first[name], second[name])
        for name in affecting(Settings, *affected)
        if name in first
        and name not in without
        and _comparable(first[name]) != _comparable(second[name])
    ]


def _comparable(value: Any) -> Any:
    """A setting in which a share is a number, as an option and a file of settings may give it."""
    if isinstance(value, dict):
        return {name: _comparable(entry) for name, entry in value.items()}
    if isinstance(value, str) and _SHARE.fullmatch(value):
        return float(value)
    return value


def restored(run: RunDocument, *, data: Path, means: Path | None) -> Settings:
    """The settings that a run was scored with, but for the precision of its coalitions.

    Args:
        run: what `run.json` says.
        data: where the data lie by now.
        means: where the common means lie by now; None where the run had none.
    """
    wanted = set(recorded(Settings)) - set(affecting(Settings, Affects.ROUNDING))
    known: dict[str, Any] = {n: value for n, value in run["settings"].items() if n in wanted}
    known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    known |= {
        "preprocessing": _preprocessing(run["settings"]["preprocessing"]),
        "parts": recorded_plan(run),
    }
    return Settings(**known, data=data, means=means)


def _preprocessing(known: Mapping[str, Any]) -> Preprocessing:
    names = {field.name for field in dataclasses.fields(Preprocessing)}
    values: dict[str, Any] = {name: v for name, v in known.items() if name in names}
    values |= {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
    return Preprocessing(**values)
