"""Cut a round into parts that workers answer apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from repairkit.core.game import Round

_RUN_IMAGES = 128  # see engine.scattered
_FEW_IMAGES = 8
_LEAST_ROWS = 8  # that share their images: the first costs as much as a few of the others
_PARTS_PER_WORKER = 4


def cut(round: Round, n_workers: int) -> list[slice]:
    """The rows of each part: enough parts for all workers, none so small that cutting costs.

    Rows of few images are answered in runs of a fixed size; rows on the same images share work.
    """
    n_rows, parts = len(round), _PARTS_PER_WORKER * n_workers
    if not n_rows:
        return []
    if round.images is not None and 0 < round.images.shape[1] <= _FEW_IMAGES:
        run = max(1, _RUN_IMAGES // round.images.shape[1])
        step = run * max(1, -(-n_rows // run) // parts)
        return _steps(0, n_rows, step)
    if round.images is None:
        return _steps(0, n_rows, max(1, -(-n_rows // parts)))
    changes = np.flatnonzero((round.images[1:] != round.images[:-1]).any(axis=1)) + 1
    edges = [0, *changes.tolist(), n_rows]
    step = max(_LEAST_ROWS, -(-n_rows // parts))
    return [rows for first, last in pairwise(edges) for rows in _steps(first, last, step)]


def _steps(first: int, last: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, last)) for i in range(first, last, step)]
