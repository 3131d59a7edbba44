"""Documents as the jobs write them, of any size and with any names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from repairkit.metrics.catalogue import METRICS, measure_of
from repairkit.report.charts import Picture

HOSTILE = (
    "<script>alert(1)</script>",
    "\"onload='alert(2)'",
    "\u05e9\u05dc\u05d5\u05dd (\u0627\u0644\u0639\u0631\u0628\u064a\u0629)",
    "a\u202egnp.exe\x1b[2J",
    "{{ 7 * 7 }} | `x` | [y](javascript:z) & </title>",
)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
MEASURES = {metric.name: metric.measure.to_json() for metric in METRICS if not metric.takes}
PICTURES = {row: Picture(PIXEL, 8, 8) for row in range(8)}


def figure(value: float, reach: float = 0.05) -> dict[str, float]:
    return {"value": value, "ci_low": value - reach, "ci_high": value + reach}


def repair(
    groups: Sequence[str] = ("dark", "light"),
    *,
    sizes: Sequence[int] = (),
    gain: float = 0.1,
    objective: str = "worst_group_accuracy",
    frozen: Sequence[str] = ("conv:1", "conv:2"),
    classes: Sequence[str] = ("cat", "dog"),
    **more: Any,
) -> dict[str, Any]:
    """The report of a repair that moved the objective, and every group, by `gain`."""
    sizes = sizes or [200] * len(groups)
    shares = objective != "mean_absolute_error"
    names = [*(["accuracy"] if shares else []), objective]
    before = {
        "suite": "test",
        "n_images": max(sum(sizes), 100),
        "metrics": {name: figure(0.6) for name in names},
        "groups": {name: figure(0.6) for name in groups},
        "group_sizes": dict(zip(groups, sizes, strict=True)),
    }
    after = {
        **before,
        "metrics": {name: figure(0.6 + gain) for name in names},
        "groups": {name: figure(0.6 + gain) for name in groups},
    }
    moved = dict.fromkeys([*names, *(f"accuracy:{g}" for g in groups)], figure(gain, abs(gain) / 2))
    return {
        "schema": 1,
        "kind": "repairkit report",
        "measures": MEASURES | {objective: measure_of(objective).to_json()},
        "versions": {"repairkit": "0.1.0", "onnxruntime": "1.31.1"},
        "objective": objective,
        "choice": {
            "how": "fairness",
            "scores": None,
            "at_most": 16,
            "max_drop": 0.01,
            "promised_on_selection": figure(gain),
            "absent": "mean",
            "seed": 0,
        },
        "data": {"path": "faces.csv", "digest": "d" * 64},
        "parts": {
            "how": "shares drawn by label and group with seed 0.",
            "overlaps": [],
            "calibration": 100,
            "selection": 200,
            "test": before["n_images"],
        },
        "notes": [],
        "trials": [
            {"n_frozen": n, objective: 0.6 + n * gain / 2, "accuracy": 0.6 + n / 100}
            for n in range(3)
        ],
        "evaluations": {"before": before, "after": after, "difference": moved},
        "verification": {"verified": True, "images": "64 calibration images"},
        "runtime": runtime(frozen),
        "scoring": None,
        "patch": {"source": "s" * 64, "frozen": [[name, -0.25] for name in frozen]},
        "patch_digest": "a" * 64,
        "changed": changed(frozen, groups, classes),
        "source": {"path": "model.onnx", "digest": "b" * 64},
        "result": {"path": "model.patched.onnx", "digest": "c" * 64},
        "interpretation": interpretation(frozen, groups, classes),
        **more,
    }


def runtime(frozen: Sequence[str]) -> dict[str, Any]:
    """Of a patch that adds a bias to the layer of each frozen filter."""
    names = [name.rpartition(":")[0] for name in frozen]
    common = {"shape": [4], "type": "float32", "bytes": 16}
    rows = [{"name": f"{n}/bias", "kind": "added", "changed": None, **common} for n in names]
    rows.append({"name": "kernel", "kind": "initializer", "changed": 2, **common})
    needs = [
        {"kind": "bias", "tensor": f"{n}/bias", "reason": f"adds a tensor ({n!r}: no bias)"}
        for n in names
    ]
    keys = ["COREML_CACHE_KEY"]
    return {
        "refit": not needs,
        "bytes": 16 * len(rows),
        "tensors": rows,
        "needs": needs,
        "cache_keys": keys,
    }


def changed(frozen: Sequence[str], groups: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Images whose answer changed: of each kind as many as there are classes."""

    def counts(name: str, n: int) -> dict[str, Any]:
        kinds = {key: {"n": n, **figure(n / 200, 0.01)} for key in ("better", "worse", "other")}
        return {"name": name, "n_images": 200, **kinds}

    kinds = ("better", "worse", "other")
    images = [
        {
            "row": row,
            "kind": kind,
            "label": name,
            "group": groups[0] if groups else None,
            "before": name,
            "after": classes[row - 1],
            "frozen": [{"filter": one, "response": 0.5, "from_level": row - 1.5} for one in frozen],
        }
        for kind in kinds
        for row, name in enumerate(classes)
    ]
    return {
        "suite": "test",
        "n_images": 400,
        "n_changed": 3 * len(classes),
        "by": "group" if groups else "class",
        "all": counts("", len(classes)),
        "sets": [counts(name, 1) for name in groups or classes],
        "rule": "of each kind 8 images at most, drawn at random with seed 0",
        "images": images,
    }


def interpretation(
    filters: Sequence[str], groups: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """What was seen of filters, on pictures of 8 x 8 pixels."""
    images = [
        {
            "row": row,
            "label": classes[row % len(classes)] if classes else "0.5",
            "group": groups[row % len(groups)] if groups else None,
            "peak": 1.5 - row / 4,
            "at": [0.25, 0.75],
        }
        for row in range(8)
    ]
    by = [{"name": name, "n": 10, "mean": 0.5} for name in groups]
    return {
        "suite": "selection",
        "n_images": 200,
        "metric": "accuracy",
        "n_filters": len(filters),
        "filters": [
            {
                "filter": name,
                "site": name.rpartition(":")[0],
                "channel": 1,
                "kind": "Conv",
                "layer": 1,
                "n_layers": 3,
                "n_channels": 32,
                "effect": {"value": 0.01, "groups": {f"accuracy:{g}": 0.02 for g in groups}},
                "map": [4, 4],
                "sees": [3, 3],
                "response": {"mean": 0.1, "deviation": 0.2},
                "most": images[:4],
                "least": images[4:],
                **({"groups": by} if groups else {}),
                **(
                    {
                        "classes": [{"name": c, "n": 3, "mean": 0.1} for c in classes[:6]],
                        "n_classes": len(classes),
                    }
                    if classes
                    else {}
                ),
            }
            for name in filters[:2]
        ],
    }


def scoring(n_filters: int = 40, *, site: str = "conv", metric: str = "accuracy") -> dict[str, Any]:
    """The report of a run over filters of one site; the page shows its extremes."""
    rows = [
        {
            "filter": f"{site}:{n}",
            "value": 0.01 * (n_filters / 2 - n) / n_filters,
            "std_error": 0.001,
            "ci_low": 0.01 * (n_filters / 2 - n) / n_filters - 0.002,
            "ci_high": 0.01 * (n_filters / 2 - n) / n_filters + 0.002,
            "samples": 50,
            "decided": True,
        }
        for n in range(n_filters)
    ]
    n_layers = max(n_filters // 100, 1)
    layers = [
        {"site": f"{site}{n}", "n_filters": 100, "highest": n % 5, "lowest": n % 3}
        for n in range(n_layers)
    ]
    removed = [0, 1, 2, 5]
    return {
        "schema": 1,
        "kind": "repairkit run report",
        "run": {
            "measures": MEASURES | {metric: measure_of(metric).to_json()},
            "versions": {"repairkit": "0.1.0", "onnxruntime": "1.31.1"},
            "model": {"path": "model.onnx", "digest": "b" * 64},
            "data": {"path": "images", "digest": "d" * 64, "n_images": 500},
            "settings": {"metrics": [metric], "method": "auto", "groups": [], "seed": 0},
            "parts": {
                "how": "drawn by label with seed 0.",
                "overlaps": [],
                "calibration": 100,
                "selection": 200,
                "test": 200,
            },
            "n_filters": n_filters,
            "n_sites": n_layers,
            "notes": [],
            "metrics": {metric: {"all": 0.9, "none": 0.1}},
            "finished": True,
            "n_undecided": 3,
            "evaluations": 5000,
            "image_passes": 64000,
            "seconds": 12.5,
            "reason": "the budget is spent",
            "confidence": 0.95,
            "interval": "normal",
            "sum_of_values": 0.8,
            "adds_up": True,
        },
        "scores": {
            "n_filters": n_filters,
            "harmful": 3,
            "helpful": 5,
            "highest": rows[:15],
            "lowest": rows[::-1][:15],
            "samples": {"edges": [50, 51], "filters": [n_filters]},
        },
        "statistics": {
            "curve": [[n, 10, 0.9 - n / 100, 0.9] for n in range(30)],
            "truncation": {"walks": 10, "truncated_walks": 0},
        },
        "spread": {"n_each": min(n_filters // 2, 100), "layers": layers},
        "removal": {
            "metric": metric,
            "suite": "selection",
            "n_images": 200,
            "random_orders": 3,
            "removed": removed,
            "top": [0.9, 0.8, 0.6, 0.2],
            "bottom": [0.9, 0.91, 0.92, 0.9],
            "random": [0.9, 0.89, 0.88, 0.8],
        },
        "interpretation": interpretation([f"{site}:{n}" for n in range(12)], (), ("cat", "dog")),
        "notes": [],
    }


def curve_line(name: str, words: str, values: Sequence[float]) -> dict[str, Any]:
    figures = [{"value": v, "low": v - 0.05, "high": v + 0.05} for v in values]
    return {
        "name": name,
        "words": words,
        "filters": ["c:0", "c:1"],
        "figures": {"accuracy": figures},
    }


def curve() -> dict[str, Any]:
    """A removal curve of two filters, as `run.json` has it."""
    lines = [
        curve_line("highest", "highest values first", [0.9, 0.5, 0.2]),
        curve_line("lowest", "lowest values first", [0.9, 0.9, 0.91]),
        curve_line("weight-norm", "greatest kernel norms first", [0.9, 0.8, 0.6]),
        {**curve_line("random", "random filters (mean of 5 draws)", [0.9, 0.89, 0.8]), "draws": 5},
    ]
    return {
        "metric": "accuracy",
        "measures": {"accuracy": MEASURES["accuracy"]},
        "part": "test",
        "images": "e" * 64,
        "n_images": 200,
        "n_part": 200,
        "judged": "200 images of the test part, which scored nothing",
        "sizes": [0, 1, 2],
        "lead": "highest",
        "seed": 0,
        "lines": lines,
        "evaluations": 19,
        "image_passes": 3800,
        "seconds": 1.5,
    }


def overlay(label: str = "auto") -> dict[str, Any]:
    """The curves of one run, as `repairkit curve --json` prints them."""
    one = curve()
    lines = [
        {
            "label": f"{label}, {line['words']}",
            "run": label,
            "name": line["name"],
            "filters": line["filters"],
            "figures": line["figures"]["accuracy"],
        }
        for line in one["lines"]
    ]
    run = {"path": label, "label": label, "key": "k", "method": label, "metric": "accuracy"}
    return {
        "schema": 1,
        "kind": "repairkit removal curves",
        "versions": {"repairkit": "0.1.0", "onnxruntime": "1.31.1"},
        "model": {"path": label, "digest": "b" * 64},
        "images": one["images"],
        "n_images": one["n_images"],
        "judged": one["judged"],
        "metric": "accuracy",
        "measure": MEASURES["accuracy"],
        "side": "highest",
        "sizes": one["sizes"],
        "runs": [{**run, "stored": True, "evaluations": 5000, "image_passes": 64000}],
        "lines": lines,
        "notes": [label],
    }
