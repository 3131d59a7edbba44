"""Keep the rows of a run: which methods have rows, what they will take on the disk, and the keeper.

A keeper stands between a game and its evaluator. It sees every output before a metric does.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, game
from repairkit.core.process.stages import READING_LOG
from repairkit.core.suite import Array, Suite
from repairkit.engine.evaluator import Evaluator, Reduce, keep_all, reduced
from repairkit.engine.model_game import ModelGame
from repairkit.estimators.driving.checkpoint import CheckpointStore
from repairkit.formats import rows_file
from repairkit.formats.run_file import RunDocument
from repairkit.jobs.setup.workbench import Bench

logger = logging.getLogger(READING_LOG)

METHODS = ("regression", "repair", "auto")
"""Those whose rows can be kept: coalitions on images of their own, solved when the run is read."""
WHY_NOT = (
    "rows are kept by regression, repair and auto (where it takes a regression); walks "
    "(permutation, tmab, marginals), enumeration (exact), leave-one-out, norms, random scores and "
    "methods of your own have none"
)
_FREE_SHARE = 0.9


def check_keeping(method: str, *, folder: bool, here: bool) -> None:
    """Check that rows can be kept, before anything is computed.

    Args:
        method: that was asked for.
        folder: whether a run folder is written.
        here: whether coalitions are evaluated in this process.

    Raises:
        SettingsError: they cannot.
    """
    check_method(method)
    if not folder:
        raise errors.SettingsError("rows are kept in a run folder; name one with out")
    if not here:
        raise errors.SettingsError(
            "--keep-rows and --ray: outputs stay with the workers of a cluster; leave one of them "
            "out"
        )


def check_method(method: str, *, instead_of: str = "") -> None:
    """Refuse a method that has no rows.

    Args:
        method: that is taken.
        instead_of: the one that was asked for, where it leaves the choice.

    Raises:
        SettingsError: it has none.
    """
    if method not in METHODS:
        asked = f"{instead_of}, which takes {method} here" if instead_of else method
        raise errors.SettingsError(
            f"--keep-rows with the method {asked}: {WHY_NOT}; use --method regression, or leave "
            "--keep-rows out"
        )


@dataclass(frozen=True)
class KeepingEvaluator:
    """An evaluator whose outputs are also handed to `keep`, in the order of the rows."""

    evaluator: Evaluator
    keep: Callable[[game.Round, Array], None]

    @property
    def path(self) -> str:
        """See `Evaluator`."""
        return self.evaluator.path

    def answer(
        self, coalitions: game.Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """See `Evaluator`."""
        outputs = self.evaluator.answer(coalitions, images, keep_all)
        self.keep(game.Round(coalitions, images), outputs)
        return reduced(outputs, images, reduce)


class Keeper:
    """Keeps the rows of a run while it is played; a context that ends with the run.

    Args:
        played: the game, whose outputs are seen from now on.

    Raises:
        SettingsError: the game is not played here.
    """

    def __init__(self, played: object) -> None:
        assert isinstance(played, ModelGame)
        self.played = played
        self.played.evaluator = KeepingEvaluator(played.evaluator, self._keep)
        self._ends: list[Array] = []
        self._writer: rows_file.RowsWriter | None = None

    def open(
        self,
        bench: Bench,
        images: Suite,
        *,
        method: str,
        per_row: int,
        most_rows: int | None,
        store: CheckpointStore,
        document: RunDocument,
    ) -> None:
        """Begin to keep, all filters and none having been played; the size is told.

        Args:
            bench: that the run is about.
            images: those that are scored.
            method: that was taken.
            per_row: images of a row.
            most_rows: after how many the run ends at the latest; None where that is not known.
            store: of the run's checkpoint.
            document: the run's `run.json`, which will tell of the rows.

        Raises:
            SettingsError: the method that was taken has no rows.
            RunFolderError: the rows would not fit, or those of earlier rounds are not there.
        """
        check_method(method, instead_of=document["settings"]["method"])
        ends = np.concatenate(self._ends)
        folder = store.path.parent
        kept = _document(bench, images, self.played, key=document["key"])
        facts, about = self.played.facts, images.annotations
        scored = rows_file.ScoredImages(
            annotations=about, numbers=images.indices.astype(np.int64), pool=facts.pool
        )
        self._writer = rows_file.RowsWriter(folder, kept, scored, ends, n_told=store.rounds_saved())
        self._writer.check()
        each = rows_file.bytes_of_row(
            facts.n_players,
            len(facts.pool) if facts.of_sets else per_row,
            ends.nbytes // (2 * len(facts.pool)),
        )
        logger.info("%s", _size_in_words(folder, each, most_rows))
        document["rows"] = self.kept

    def settle(self, n_rounds: int) -> None:
        """The run was told a round; `n_rounds` in all."""
        if self._writer is not None:
            self._writer.settle(n_rounds)

    @property
    def kept(self) -> rows_file.KeptCounts:
        """What was kept so far."""
        assert self._writer is not None
        n_rows, n_bytes = self._writer.size()
        return {"rows": n_rows, "bytes": n_bytes}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        if kind is None:
            self._writer.finish()
        else:
            self._writer.close()

    def _keep(self, asked: game.Round, outputs: Array) -> None:
        if self._writer is None:  # all filters, and none, come before any other round
            self._ends.append(outputs)
        else:
            self._writer.add(asked, outputs)


def _document(
    bench: Bench, images: Suite, played: ModelGame, *, key: str
) -> rows_file.RowsDocument:
    about, form, layers = images.annotations, bench.form, bench.subject.layer_map
    kept: rows_file.KeptForm | None = None
    if form is not None:
        columns = None if form.columns is None else list(form.columns)
        kept = {"kind": form.kind, "columns": columns, "threshold": form.threshold}
    return {
        "schema": rows_file.SCHEMA,
        "kind": rows_file.KIND,
        "key": key,
        "sites": [{"site": s.name, "channels": s.n_channels} for s in bench.roster.sites],
        "layers": None if layers is None else layers.to_json(),
        "part": images.name,
        "n_classes": bench.n_classes,
        "form": kept,
        "class_names": list(about.class_names),
        "group_names": list(about.group_names),
        "of_sets": played.facts.of_sets,
        "n_data": len(bench.dataset.annotations),
    }


def _size_in_words(folder: Path, each: int, rows: int | None) -> str:
    """What rows of `each` bytes will take on the disk.

    Raises:
        RunFolderError: they would not fit.
    """
    if rows is None:
        return f"rows are kept: {each:,} bytes each, as many as the time limit allows"
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free, wanted = shutil.disk_usage(place).free, rows * each
    if wanted > _FREE_SHARE * free:
        raise errors.RunFolderError(
            f"{folder}: {rows:,} rows would take about {_size(wanted)} and {_size(free)} are free; "
            "lower --max-evaluations, choose another place with -o, or leave --keep-rows out"
        )
    return f"rows are kept: about {_size(wanted)} for {rows:,} rows"


def _size(n_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{max(n_bytes // 1000, 1)} kB"
