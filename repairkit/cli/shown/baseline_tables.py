"""The table of baselines beside the chosen repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repairkit.cli.shown import show
from repairkit.core.patch import Figure

_MOST_METRICS = 3


def baseline_table(rows: Sequence[Mapping[str, Any]], objective: str, n_images: int) -> None:
    """The change that every method makes on the test part, the objective first."""
    names = list(rows[0]["figures"])
    shown = sorted(names, key=lambda name: name != objective)[:_MOST_METRICS]
    cells = [
        [
            row["method"],
            str(row["n_frozen"]),
            *(
                show.change(name, Figure.from_json(row["figures"][name]["difference"]))
                if row["figures"]
                else "-"
                for name in shown
            ),
        ]
        for row in rows
    ]
    show.table(
        f"Change on the {n_images} test images by method, at equal numbers of frozen filters",
        ["method", "frozen", *shown],
        cells,
    )
    for row in rows[1:]:
        show.say(f"{row['method']}: {row['note']}")
