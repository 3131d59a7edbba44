"""`run.json` of values that were added up: whose, with which weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.scores import Scores
from repairkit.jobs.owners.owned import OwnedRun
from repairkit.jobs.runs.run_document import versions
from repairkit.jobs.runs.run_folder import key_of

Floats = NDArray[np.float64]

_PARTS = ("calibration", "selection", "test")


def describe(
    runs: Sequence[OwnedRun], scores: Scores, shares: Mapping[str, Floats], how: str
) -> dict[str, Any]:
    """What `run.json` says of values that were added up with these shares, (n_runs,) by metric."""
    documents = [run.document for run in runs]
    digests = sorted(digest for run in runs for digest in run.data)
    parts = [
        {
            "data": list(run.data),
            "images": int(document["parts"]["selection"]),
            "weights": {name: float(share[i]) for name, share in shares.items()},
        }
        for i, (run, document) in enumerate(zip(runs, documents, strict=True))
    ]
    first = documents[0]
    return {
        "schema": first["schema"],
        "kind": first["kind"],
        "versions": versions(),
        "key": key_of({"merged": parts, "of": sorted(d["key"] for d in documents)}),
        "model": {"path": first["model"]["path"], "digest": first["model"]["digest"]},
        "data": {
            "path": "",
            "digest": hashlib.sha256(" ".join(digests).encode()).hexdigest(),
            "n_images": sum(int(d["data"]["n_images"]) for d in documents),
        },
        "settings": first["settings"],
        **({"means": first["means"]} if "means" in first else {}),
        "counts": _counts(documents),
        "merged": parts,
        "parts": {
            "how": f"{len(runs)} runs, weighted by {how}",
            "overlaps": [],
            **{n: sum(int(d["parts"][n]) for d in documents) for n in _PARTS},
        },
        "batching": first["batching"],
        "engine": first["engine"],
        "n_filters": len(scores.values),
        "n_sites": first["n_sites"],
        "notes": [],
        "metrics": {
            name: {
                end: _total(share, [d["metrics"][name][end] for d in documents])
                for end in ("all", "none")
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
        **{n: sum(d[n] for d in documents) for n in ("evaluations", "image_passes", "seconds")},
    }


def _counts(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Those of all owners together; None where a metric is no mean over images."""
    metrics: dict[str, int | None] = {}
    for name in documents[0]["metrics"]:
        own = [d["counts"]["metrics"].get(name) for d in documents]
        metrics[name] = None if None in own else sum(own)
    groups: dict[str, int] = {}
    for document in documents:
        for name, count in document["counts"]["groups"].items():
            groups[name] = groups.get(name, 0) + count
    return {"metrics": metrics, "groups": groups}


def _total(share: Floats, values: list[float]) -> float:
    return float((share * np.array(values)).sum())
