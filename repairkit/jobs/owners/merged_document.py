"""`run.json` of values that were added up: whose, with which weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from repairkit.core.scores import Scores
from repairkit.formats.run_file import OwnersShare, RunCounts, RunDocument, key_of
from repairkit.jobs.owners.owned import OwnedRun
from repairkit.jobs.runs.run_document import measures_in, versions

Floats = NDArray[np.float64]


def describe(
    runs: Sequence[OwnedRun], scores: Scores, shares: Mapping[str, Floats], how: str
) -> RunDocument:
    """What `run.json` says of values that were added up with these shares, (n_runs,) by metric."""
    documents = [run.document for run in runs]
    of_parts = [document["parts"] for document in documents]
    digests = sorted(digest for run in runs for digest in run.data)
    shared: list[OwnersShare] = [
        {
            "data": list(run.data),
            "images": document["parts"]["selection"],
            "weights": {name: float(share[i]) for name, share in shares.items()},
        }
        for i, (run, document) in enumerate(zip(runs, documents, strict=True))
    ]
    first = documents[0]
    document = {
        "schema": first["schema"],
        "kind": first["kind"],
        "versions": versions(),
        "key": key_of({"merged": shared, "of": sorted(d["key"] for d in documents)}),
        "model": {"path": first["model"]["path"], "digest": first["model"]["digest"]},
        "data": {
            "path": "",
            "digest": hashlib.sha256(" ".join(digests).encode()).hexdigest(),
            "n_images": sum(d["data"]["n_images"] for d in documents),
        },
        "settings": first["settings"],
        **({"means": first["means"]} if "means" in first else {}),
        "counts": _counts(documents),
        "merged": shared,
        "parts": {
            "how": f"{len(runs)} runs, weighted by {how}",
            "overlaps": [],
            "calibration": sum(parts["calibration"] for parts in of_parts),
            "selection": sum(parts["selection"] for parts in of_parts),
            "test": sum(parts["test"] for parts in of_parts),
        },
        "batching": first["batching"],
        "engine": first["engine"],
        "n_filters": len(scores.values),
        "n_sites": first["n_sites"],
        "notes": [],
        "measures": measures_in(first),
        "metrics": {
            name: {
                "all": _total(share, [d["metrics"][name]["all"] for d in documents]),
                "none": _total(share, [d["metrics"][name]["none"] for d in documents]),
            }
            for name, share in shares.items()
        },
        "finished": True,
        "decided": bool(scores.decided.all()),
        "n_undecided": int((~scores.decided).sum()),
        "reason": f"merged from {len(runs)} runs",
        "confidence": scores.confidence,
        "interval": scores.interval,
        "adds_up": scores.efficient,
        "sum_of_values": float(scores.values[:, 0].sum()),
        "evaluations": sum(d["evaluations"] for d in documents),
        "image_passes": sum(d["image_passes"] for d in documents),
        "seconds": sum(d["seconds"] for d in documents),
    }
    return cast(RunDocument, document)


def _counts(documents: Sequence[RunDocument]) -> RunCounts:
    """Those of all owners together; None where a metric is no mean over images."""
    metrics: dict[str, int | None] = {}
    for name in documents[0]["metrics"]:
        counts = [d["counts"]["metrics"].get(name) for d in documents]
        known = [count for count in counts if count is not None]
        metrics[name] = sum(known) if len(known) == len(counts) else None
    groups: dict[str, int] = {}
    for document in documents:
        for name, count in document["counts"]["groups"].items():
            groups[name] = groups.get(name, 0) + count
    return {"metrics": metrics, "groups": groups}


def _total(share: Floats, values: list[float]) -> float:
    return float((share * np.array(values)).sum())
