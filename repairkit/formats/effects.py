"""What a setting of a job affects: said once, where the setting is declared.

    absent: Annotated[str, About(Affects.FILTERS)] = "mean"

Lists that would otherwise be kept by hand are derived from it: what `run.json` records and a run's
key covers, which settings of two runs must agree before their values are merged, what a report
repeats, what is sent to workers, and which options a repeated command has.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, get_type_hints


class Affects(Enum):
    """What changes in a result where a setting has another value."""

    FILTERS = "values: which filters there are, and what an absent one yields"
    FIGURE = "values: what the model is fed with, and what its outputs say"
    METRICS = "values: which figures the filters are valued by"
    IMAGES = "values: which images are looked at, and in which part each of them is"
    ROSTER = "ranking: which filters are ranked"
    SEARCH = "ranking: how values are estimated, and so their errors"
    LIMITS = "ranking: how far an estimate comes; a run that is resumed may change it"
    ROUNDING = "speed: the last digits of values are its price"
    SPEED = "speed alone"
    PLACE = "place: where a job runs, and what it may do there"


VALUES = (Affects.FILTERS, Affects.FIGURE, Affects.METRICS, Affects.IMAGES)
RANKING = (Affects.ROSTER, Affects.SEARCH)
RECORDED = (*VALUES, *RANKING, Affects.ROUNDING)
"""What makes a run another run: it stands in `run.json`, and the key of the run covers it."""


@dataclass(frozen=True)
class About:
    """What is known of a setting.

    Attributes:
        affects: what it changes.
        by_digest: it names a file, and what counts is the digest of the file's content.
        where_given: it is recorded only where it is given, so that keys of earlier runs stay valid.
        option: whether a command has an option for it; if not, it is set in Python alone.
    """

    affects: Affects
    by_digest: bool = False
    where_given: bool = False
    option: bool = True


@cache
def settings_of(kind: type) -> Mapping[str, About]:
    """What is known of the fields of a dataclass of settings, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: note
        for field in dataclasses.fields(kind)
        for note in getattr(hints[field.name], "__metadata__", ())
        if isinstance(note, About)
    }


def affecting(kind: type, *affected: Affects) -> tuple[str, ...]:
    """The settings that affect one of these, in their order."""
    return tuple(name for name, about in settings_of(kind).items() if about.affects in affected)


def recorded(kind: type) -> tuple[str, ...]:
    """The settings that `run.json` records by their values."""
    known = settings_of(kind)
    return tuple(name for name in affecting(kind, *RECORDED) if not known[name].by_digest)


def key_of(parts: Mapping[str, Any]) -> str:
    """A digest of everything that the result of a run depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
