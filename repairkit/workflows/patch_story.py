"""What a patch file and a report say of a patch, beside the patch itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from repairkit.core.patch import Evaluation, Figure
from repairkit.repairs import Trial
from repairkit.workflows.bench import Bench
from repairkit.workflows.run_document import versions
from repairkit.workflows.verifying import Verified


def patch_story(
    bench: Bench,
    choice: Mapping[str, Any],
    trials: Sequence[Trial],
    objective: str,
    scoring: Mapping[str, Any] | None,
    evaluations: tuple[Evaluation, Evaluation, dict[str, Figure]],
    verified: Verified,
) -> dict[str, Any]:
    """Versions, choice, data, trials on the selection part, figures on the test part, proof."""
    parts = bench.parts
    before, after, change = evaluations
    return {
        "versions": versions(),
        "objective": objective,
        "choice": {**choice, "absent": bench.settings.absent, "seed": bench.settings.seed},
        "data": {"path": str(bench.settings.data), "digest": bench.dataset.digest},
        "parts": {
            "how": parts.how,
            "overlaps": [list(pair) for pair in parts.overlaps],
            **{p.name: len(p) for p in (parts.calibration, parts.selection, parts.test)},
        },
        "notes": list(bench.dataset.notes),
        # In which coalitions were tried; the figures and the proof below are in 32 bits.
        "tried": {"device": bench.device, "precision": bench.precision} if trials else None,
        "trials": [
            {"n_frozen": len(t.patch), objective: t.objective, "accuracy": t.accuracy}
            for t in trials
        ],
        "evaluations": {
            "before": asdict(before),
            "after": asdict(after),
            "difference": {name: asdict(figure) for name, figure in change.items()},
        },
        "verification": verified.to_json(),
        "scoring": None if scoring is None else dict(scoring),
    }
