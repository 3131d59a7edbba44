"""What the outcomes so far say of each promise, for people, programs and Prometheus."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from repairkit.core.metric import SHARE
from repairkit.core.process.text import counted
from repairkit.core.results import Figure
from repairkit.formats.looks.monitor_file import MonitorDocument, named_images, outcomes_of
from repairkit.jobs.monitor.promised import PromisedFigure
from repairkit.metrics import betting
from repairkit.notebook import cells, frames, lines

if TYPE_CHECKING:
    from pandas import DataFrame

Verdict = Literal["fails", "open", "holds"]
WORDS: dict[Verdict, str] = {
    "fails": "fails",
    "open": "not contradicted",
    "holds": "surely held so far",
}
_LARGEST = 700.0  # whose exponential is a number


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A promise that surely fails.

    Attributes:
        look: by which that was sure, from 1.
        time: of that look.
        image: by which that was sure, from 1, of the images that the figure counts.
        since: about the first image after the figure fell, from 1; it is an estimate.
        value: the figure from there to the last image.
    """

    look: int
    time: str
    image: int
    since: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A figure under watch.

    Attributes:
        watched: the figure and its floor.
        n_images: that it counted.
        figure: over all these images, with bounds that hold over all looks and figures together.
        log_capital: the largest so far of the bets against the promise.
        alarm: where it surely fails.
        by_look: the figure at each look; NaN where a look has no image of it.
    """

    watched: PromisedFigure
    n_images: int
    figure: Figure
    log_capital: float
    alarm: Alarm | None
    by_look: tuple[float, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether it surely fails, surely holds, or neither."""
        if self.alarm is not None:
            return "fails"
        return "holds" if self.n_images and self.figure.ci_low >= self.watched.floor else "open"

    @property
    def verdict_words(self) -> str:
        """The verdict for people."""
        return WORDS[self.verdict]

    def sentence(self) -> str:
        """What is known, in words."""
        shown, one = self.watched, self.figure
        floor, value, low, high = map(
            in_words(shown), (shown.floor, one.value, one.ci_low, one.ci_high)
        )
        of = f"{shown.words}: {value} on {counted(self.n_images, 'image')}"
        if not self.n_images:
            return f"{shown.words}: no image yet; the floor is {floor}"
        if self.alarm is None:
            return f"{of} (surely {low} to {high}); the floor is {floor}"
        since = in_words(shown)(self.alarm.value)
        return (
            f"{of}, and it surely fell below the floor of {floor}; it is {since} since about "
            f"image {self.alarm.since:,}, and that was sure at image {self.alarm.image:,} "
            f"(look {self.alarm.look}, {self.alarm.time})"
        )

    def to_json(self, n_figures: int) -> dict[str, Any]:
        """For documents. `p_value` may be looked at ever again, and counts all figures."""
        one, alarm = self.watched, self.alarm
        return {
            **one.to_json(),
            "words": one.words,
            "n_images": self.n_images,
            **self.figure.to_json(),
            "verdict": self.verdict,
            "e_value": math.exp(min(self.log_capital, _LARGEST)),
            "p_value": min(1.0, n_figures * math.exp(-self.log_capital)),
            "alarm": None if alarm is None else {**vars(alarm)},
            "by_look": [None if math.isnan(value) else value for value in self.by_look],
        }


def in_words(watched: PromisedFigure) -> Callable[[float | None], str]:
    """How a figure is shown: a share in per cent, a gain in points."""
    return SHARE.change if watched.is_gain else SHARE.figure


def standings_of(document: MonitorDocument) -> tuple[Standing, ...]:
    """What the outcomes of a state say of each figure.

    Each figure has the same part of the probability of a false alarm, so that they have it together
    (Bonferroni).
    """
    level = (1.0 - document["confidence"]) / len(document["figures"])
    figures = map(PromisedFigure.of_state, document["figures"])
    return tuple(_standing(document, one, level) for one in figures)


def _standing(document: MonitorDocument, watched: PromisedFigure, level: float) -> Standing:
    scores, ends = outcomes_of(document, watched.name)
    low, high = betting.mean_bounds(scores, level)
    value = float(scores.mean()) if len(scores) else math.nan
    alarm, fall = None, betting.find_fall(scores, watched.scaled, level)
    if fall is not None:
        look = int(np.searchsorted(ends, fall.end))
        alarm = Alarm(
            look=look + 1,
            time=document["looks"][look]["time"],
            image=fall.end,
            since=fall.begin + 1,
            value=watched.off_scale(float(scores[fall.begin :].mean())),
        )
    parts = np.split(scores, ends[:-1])
    return Standing(
        watched=watched,
        n_images=len(scores),
        figure=Figure(*map(watched.off_scale, (value, low, high))),
        log_capital=float(betting.log_capital(scores, watched.scaled).max(initial=0.0)),
        alarm=alarm,
        by_look=tuple(watched.off_scale(p.mean()) if len(p) else math.nan for p in parts),
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Monitored:
    """Promises under watch.

    Attributes:
        model: that is watched.
        state: the file of the images so far.
        document: what it holds.
        standings: what that says of each figure.
        n_new: images that this look added.
        n_seen: images of it that were counted before, or stand in it twice.
        notes: what is not watched, and what to know.
    """

    model: Path
    state: Path
    document: MonitorDocument
    standings: tuple[Standing, ...]
    n_new: int
    n_seen: int
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the figures' verdicts."""
        known = {each.verdict for each in self.standings}
        return next(one for one in ("fails", "open", "holds") if one in known)

    @property
    def n_images(self) -> int:
        """Images that were counted so far."""
        return sum(len(named_images(look)) for look in self.document["looks"])

    def sentence(self) -> str:
        """The verdict in words."""
        failing = [each.watched.words for each in self.standings if each.verdict == "fails"]
        certainty = (
            f"{100 * self.document['confidence']:g} % sure, over all looks and figures together"
        )
        if failing:
            return f"The promise surely does not hold for {', '.join(failing)} ({certainty})."
        if self.verdict == "holds":
            return f"The promise surely held so far ({certainty})."
        return "Nothing contradicts the promise so far."

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "model": str(self.model),
            "state": str(self.state),
            "verdict": self.verdict,
            "sentence": self.sentence(),
            "confidence": self.document["confidence"],
            "promise": self.document["promise"],
            "looks": len(self.document["looks"]),
            "images": {"counted": self.n_images, "new": self.n_new, "seen_before": self.n_seen},
            "figures": [each.to_json(len(self.standings)) for each in self.standings],
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        looks = counted(len(self.document["looks"]), "look")
        sizes = f"{counted(self.n_images, 'image')}, {looks}"
        return f"Monitored: {lines.short(self.model.name)}, {sizes}: {self.sentence()}"

    def _repr_html_(self) -> str:
        """For a notebook: the verdict and a row for each figure."""
        return cells.cell(
            cells.sentence(self.sentence(), WORDS[self.verdict]),
            cells.table_of("Figures", self._rows()),
        )

    def to_pandas(self) -> DataFrame:
        """A row for each figure.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.frame(self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        rows = [each.to_json(len(self.standings)) for each in self.standings]
        return [{k: v for k, v in row.items() if k not in ("alarm", "by_look")} for row in rows]


_GAUGES: Sequence[tuple[str, str, Callable[[Standing], float]]] = (
    ("fails", "1 if the promise surely does not hold, else 0.", lambda w: w.verdict == "fails"),
    ("holds", "1 if the promise surely held so far, else 0.", lambda w: w.verdict == "holds"),
    ("floor", "The promised floor.", lambda w: w.watched.floor),
    ("value", "The figure over all images so far.", lambda w: w.figure.value),
    ("low", "Its lower bound, for all looks together.", lambda w: w.figure.ci_low),
    ("high", "Its upper bound, for all looks together.", lambda w: w.figure.ci_high),
    ("images", "Images that the figure counted so far.", lambda w: w.n_images),
    ("log_e_value", "Log of the largest evidence against it so far.", lambda w: w.log_capital),
)


def prometheus_text(
    library: Any, standings: Sequence[Standing], model: str, seconds: float
) -> bytes:
    """The figures for Prometheus's textfile collector.

    Args:
        library: `prometheus_client`.
        standings: the figures.
        model: its file's name.
        seconds: when the last images were looked at, in Unix time.
    """
    registry = library.CollectorRegistry()

    def gauge(name: str, help_text: str, *labels: str) -> Any:
        name = f"repairkit_monitor_{name}"
        return library.Gauge(name, help_text, labels, registry=registry)

    for name, help_text, value_of in _GAUGES:
        family = gauge(name, help_text, "model", "figure")
        for one in standings:
            family.labels(model, one.watched.name).set(float(value_of(one)))
    last = gauge("last_look_timestamp_seconds", "Unix time of the last look.", "model")
    last.labels(model).set(seconds)
    return bytes(library.generate_latest(registry))
