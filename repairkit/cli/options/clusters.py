"""Options for work that is done on a cluster."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from repairkit.jobs.score.clusters import Cluster, ClusterOptions, find_cluster

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="auto|ADDRESS|local",
        help="Evaluate on a Ray cluster: the one that runs, one's address, or one started here.",
    ),
]
RayCores = Annotated[
    int, typer.Option("--ray-cores", min=1, help="Cores of each worker on the Ray cluster.")
]


def ray_cluster(address: str | None, *, workers: int | None, cores: int) -> Cluster | None:
    """The cluster asked for; `auto` is the one of RAY_ADDRESS where that is set."""
    if address is None:
        return None
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    return find_cluster("ray", ClusterOptions(address, workers, cores))
