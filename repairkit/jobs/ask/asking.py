"""Ask a run that kept its rows anew: another metric, group, class or set of images."""

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from repairkit.core import errors, framework
from repairkit.core.filters import Filter
from repairkit.core.metric import Metric
from repairkit.core.process.stages import stage
from repairkit.core.process.text import clean
from repairkit.core.process.trust import check_trusted
from repairkit.core.scores import Scores, Spent
from repairkit.core.suite import Indices
from repairkit.data.annotations import columns_to_group, cross_groups
from repairkit.engine.ort import versions
from repairkit.estimators.driving.driver import Estimation
from repairkit.estimators.linear.fits import LEAST_ROWS
from repairkit.estimators.revaluing import FEW_ROWS
from repairkit.formats.documents import finite_rows
from repairkit.formats.effects import key_of
from repairkit.formats.rows_file import AskedOf, read_rows
from repairkit.formats.run_file import (
    RunDocument,
    RunFolder,
    scores_table,
)
from repairkit.jobs.ask.choosing import ImageChoice, choose_images
from repairkit.jobs.ask.replay import Replay, Replayed, accuracy_of, metrics_of
from repairkit.jobs.output.destination import Places
from repairkit.jobs.runs import claiming, run_document
from repairkit.jobs.score.collapse import collapse_in_words, find_collapse, floor_note
from repairkit.jobs.score.excluding import NOTHING, Excluded, top_players
from repairkit.jobs.setup.looking import told_of_ends
from repairkit.jobs.setup.settings import Again, named_in
from repairkit.metrics.catalogue import measure_of, spell_out
from repairkit.notebook.values import ValueTable

_UNSURE = 0.3  # of the reliability


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a run's rows.

    Attributes:
        metrics: the first ranks; those of the run if empty.
        groups: columns that are crossed into groups; those of the run if empty.
        choice: the images that the question is about.
        exclude_top_of: a metric whose top filters, by the same rows on all images, are left out of
            the ranking; none if None.
        exclude_share: the share of the filters that counts as top.
        trust: whether code that the run names may run.
    """

    metrics: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    choice: ImageChoice = field(default_factory=ImageChoice)
    exclude_top_of: str | None = None
    exclude_share: float = 0.2
    trust: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.exclude_share < 1:
            raise errors.SettingsError(
                f"--exclude-share is {self.exclude_share:g}; expected a share between 0 and 1, "
                "such as 0.2"
            )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Asked(ValueTable):
    """The answer to a question: values of all filters, as a scoring has them.

    Attributes:
        scores: of all filters, in the order of `filters`.
        filters: of the run.
        document: what `run.json` says of the answer.
        folder: where it was written; nowhere if None.
        excluded: positions of filters that are left out of the ranking.
        layers: of the framework's model, where the run knew them.
    """

    scores: Scores
    filters: tuple[Filter, ...]
    document: RunDocument
    folder: Path | None = None
    excluded: frozenset[int] = frozenset()
    layers: framework.LayerMap | None = None

    def table(self) -> list[dict[str, Any]]:
        return scores_table(self.scores, self.filters, self.layers, without=self.excluded)

    def to_json(self) -> dict[str, Any]:
        return {**self.document, "scores": finite_rows(self.table())}


@stage("asking the kept rows")
def ask(folder: Path, question: Question, *, out: Path | None = None) -> Asked:
    """Answer a question from the rows of a run, without a forward pass.

    Args:
        folder: a finished run that kept its rows.
        question: what is asked.
        out: a run folder for the answer; nothing is written if None.

    Raises:
        RepairkitError: the run kept no rows, or they cannot answer this.
    """
    began = time.monotonic()
    run = RunFolder(folder).read_finished()
    replay = _opened(folder, run, question)
    positions = choose_images(question.choice, replay.rows, replay.rows.document["part"])
    names = _names(replay, question, positions)
    same = positions is None and not question.groups and names[:1] == tuple(run["metrics"])[:1]
    replayed = replay.answer(names, positions, same=same)
    if replayed.widened:
        words = f"{replayed.scores.interval}; widened, since rows are few"
        replayed = replace(replayed, scores=replace(replayed.scores, interval=words))
    excluded = _excluded(replay, question)
    document = _document(replay, question, replayed, names=names, positions=positions)
    document["notes"] += excluded.notes
    if excluded.document is not None:
        document["excluded"] = excluded.document
    spent = Spent(
        run.get("rounds", 0), run["evaluations"], run["image_passes"], time.monotonic() - began
    )
    reason = (
        f"asked of {folder} without a forward pass: {replayed.n_rows:,} of its {replayed.n_all:,} "
        "rows saw these images"
    )
    estimation = Estimation(
        scores=replayed.scores,
        spent=spent,
        finished=True,
        reason=reason,
        statistics=_statistics(replayed),
    )
    run_document.conclude(document, estimation, replayed.scores)
    document["notes"] += _doubts(replayed, len(replay.roster), document["statistics"])
    layers = replay.rows.document["layers"]
    asked = Asked(
        scores=replayed.scores,
        filters=replay.roster.filters,
        document=document,
        folder=out,
        excluded=frozenset(excluded.players),
        layers=None if layers is None else framework.LayerMap.from_json(layers),
    )
    if out is not None:
        beside = f"{Places.here().relative(out)}.again"
        again = Again(command="ask", words=_words(folder, question))
        document["again"] = again.to_json() | {"out": beside}
        _write(out, asked, replay)
    return asked


def _opened(folder: Path, run: RunDocument, question: Question) -> Replay:
    if not question.metrics and not question.trust:
        named_by = named_in(RunFolder(folder).run_file, run["settings"]["metrics"])
        for name in run["settings"]["metrics"]:
            check_trusted(name, named_by)
    rows = read_rows(folder)
    if rows.document["key"] != run["key"]:
        raise errors.RunFolderError(
            f"{folder}: its rows are of another run; score the model again with --keep-rows"
        )
    if question.groups:
        about = rows.scored.annotations
        columns = columns_to_group(about, question.groups)
        numbers = rows.scored.numbers.tolist()
        groups, group_names = cross_groups(
            columns, question.groups, lambda index: f"image {numbers[index]}"
        )
        about = dataclasses.replace(about, groups=groups, group_names=group_names)
        rows = replace(rows, scored=replace(rows.scored, annotations=about))
    return Replay(folder=folder, document=run, rows=rows)


def _names(replay: Replay, question: Question, positions: Indices | None) -> tuple[str, ...]:
    """The metrics that are asked, patterns spelt out for the images that are meant."""
    if not question.metrics:
        return tuple(replay.document["metrics"])
    about = replay.rows.scored.annotations
    about = about if positions is None else about.take(positions)
    return spell_out(question.metrics, about, replay.rows.document["n_classes"])


def _statistics(replayed: Replayed) -> dict[str, float]:
    known: Mapping[str, float] = getattr(replayed.run, "statistics", {})
    return {name: float(value) for name, value in known.items() if np.isfinite(value)}


def _excluded(replay: Replay, question: Question) -> Excluded:
    """The top filters by another metric of the same rows, on all their images."""
    wanted = question.exclude_top_of
    if wanted is None:
        return NOTHING
    replayed = replay.answer((wanted,), None, same=False)
    more = metrics_of(replay, (wanted,))[0].measure.greater_is_better
    players = top_players(replayed.scores.values[:, 0], question.exclude_share, more=more)
    filters = replay.roster.filters
    return Excluded(
        frozenset(players),
        {
            "run": str(replay.folder),
            "key": replay.document["key"],
            "metric": wanted,
            "share": question.exclude_share,
            "filters": [filters[player].id for player in sorted(players)],
        },
    )


def _document(
    replay: Replay,
    question: Question,
    replayed: Replayed,
    *,
    names: tuple[str, ...],
    positions: Indices | None,
) -> RunDocument:
    """`run.json` of the answer: that of the run, with what the question changes."""
    run, part = replay.document, replay.suite
    part = part if positions is None else part.take(positions)
    metrics = metrics_of(replay, names)
    measures = {metric.name: metric.measure.to_json() for metric in metrics}
    groups = list(map(clean, question.groups)) or run["settings"]["groups"]
    asked: AskedOf = {
        "run": str(replay.folder),
        "key": run["key"],
        "where": question.choice.words,
        "n_images": len(part),
        "n_rows": replayed.n_rows,
    }
    images = "" if positions is None else hashlib.sha256(part.indices.tobytes()).hexdigest()
    kept = {name: value for name, value in run.items() if name not in _OF_THE_RUN}
    changed: Mapping[str, Any] = {
        "versions": versions(),
        "key": key_of({"run": run["key"], "metrics": names, "groups": groups, "images": images}
                      | {"excluded": [question.exclude_top_of, question.exclude_share]}),
        "settings": {**run["settings"], "metrics": list(names), "groups": groups},
        "counts": run_document.counts_of(metrics, part.annotations),
        "less_is_better": run_document.less_is_better(measures),
        "measures": measures,
        "metrics": {
            name: {"all": float(replayed.ends[0, i]), "none": float(replayed.ends[1, i])}
            for i, name in enumerate(names)
        },
        "notes": [*_notes_of_data(run)],
        "asked": asked,
    }  # fmt: skip
    document = cast(RunDocument, {**kept, **changed})
    if positions is not None:
        document["notes"].append(
            f"values are about {len(part):,} of the {len(replay.suite):,} scored images: "
            f"{question.choice.words}"
        )
    document["notes"] += told_of_ends(document["metrics"])
    _warn_of_collapse(document, replayed, metrics[0], replay)
    return document


_OF_THE_RUN = (
    "statistics", "again", "excluded", "rows", "notes", "curve", "rewards_collapse", "known",
)  # fmt: skip


def _notes_of_data(run: RunDocument) -> list[str]:
    """The notes of a run without those about its own ranking."""
    first, ends = next(iter(run["metrics"])), run["metrics"]
    stale = {*told_of_ends(ends), floor_note(first, ends[first])}
    if "rewards_collapse" in run:
        measure = measure_of(first)
        stale.add(collapse_in_words(run["rewards_collapse"], measure, ends[first]))
    if "excluded" in run:
        players = frozenset(range(len(run["excluded"].get("filters", []))))
        stale |= {*Excluded(players, run["excluded"]).notes}
    return [note for note in run.get("notes", []) if note not in stale]


def _warn_of_collapse(
    document: RunDocument, replayed: Replayed, metric: Metric, replay: Replay
) -> None:
    """Note that the metric may reward a broken model, as `score` does."""
    ends = document["metrics"][metric.name]
    floor = floor_note(metric.name, ends)
    document["notes"] += [floor] if floor else []
    accuracy = accuracy_of(replay.rows.scored.annotations)
    filters = replay.roster.filters
    collapse = find_collapse(replayed.run.read(), metric.measure, accuracy, filters)
    if collapse is not None:
        document["rewards_collapse"] = collapse
        document["notes"].append(collapse_in_words(collapse, metric.measure, ends))


def _doubts(replayed: Replayed, n_filters: int, statistics: Mapping[str, float]) -> list[str]:
    """What keeps the answer from being sure."""
    notes = []
    if replayed.n_unseen:
        notes.append(
            f"{replayed.n_unseen:,} of these images were seen by no row: values are about the "
            "others"
        )
    remedy = "ask of more images, or score with a larger --max-evaluations and --keep-rows"
    if replayed.n_rows < LEAST_ROWS:
        notes.append(
            f"only {replayed.n_rows} rows saw these images, and {LEAST_ROWS} are needed for any "
            f"value at all: no interval is bounded; {remedy}"
        )
    elif replayed.n_rows < FEW_ROWS * n_filters or statistics.get("reliability", 1.0) < _UNSURE:
        notes.append(
            f"{replayed.n_rows:,} rows saw these images, which is little for {n_filters} filters: "
            f"intervals are wide, and the ranking is hardly known; {remedy}"
        )
    if replayed.n_rows >= LEAST_ROWS and not replayed.scores.std_errors[:, 0].any():
        notes.append(
            f"none of the {replayed.n_rows:,} rows changed the outcome of these images: a value of "
            "0 says that no effect was seen, not that there is none"
        )
    return notes


def _write(out: Path, asked: Asked, replay: Replay) -> None:
    folder = RunFolder(out)
    claiming.check_free(folder, resume=False)
    with claiming.locked(out):
        run_document.claim(folder, asked.document, resume=False)
        folder.write_result(
            asked.document, asked.scores, replay.roster, asked.layers, without=asked.excluded
        )


def _words(folder: Path, question: Question) -> tuple[str, ...]:
    """The run, and the options that ask the same again."""
    choice, top = question.choice, question.exclude_top_of
    images = choice.images
    if images is not None and not isinstance(images, str | Path):
        images = ",".join(map(str, images))
    given = [
        *(("--metric", metric) for metric in question.metrics),
        ("--group", ",".join(question.groups)),
        ("--where", choice.where),
        ("--class", choice.class_name),
        ("--images", images),
        ("--exclude-top-of", top),
        ("--exclude-share", None if top is None else repr(question.exclude_share)),
    ]
    words = [word for name, value in given if value for word in (name, str(value))]
    return (Places.here().relative(folder), *words)
