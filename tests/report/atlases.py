"""Documents of atlases, of any size and with any names, and their pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from repairkit.formats.looks.atlas_file import AtlasDocument
from repairkit.jobs.atlas.making_atlas import Originals
from tests.report.documents import MEASURES

SIDE = 120


def atlas_document(
    n_filters: int = 12,
    *,
    sites: tuple[str, ...] = ("conv1", "conv2", "dense"),
    classes: tuple[str, ...] = ("cat", "dog"),
    groups: tuple[str, ...] = ("dark", "light"),
    n_rows: int = 40,
) -> AtlasDocument:
    """An atlas of filters in turn of each site; the first third helps, the last third harms."""
    sets = [("class", name) for name in classes] + [("group", name) for name in groups]
    cards = [
        _card(number, n_filters, sites, sets=sets, n_rows=n_rows) for number in range(n_filters)
    ]
    shared: Any = {
        "a": {"kind": "class", "name": classes[0], "n_images": 10},
        "b": {"kind": "class", "name": classes[1], "n_images": 12},
        "confidence": 0.95,
        "rule": "a rule",
        "counts": {"both": 1, "a": 1, "b": 1, "neither": 1},
        "below_a": 0,
        "below_b": 0,
        "filters": [
            {
                "filter": f"{sites[0]}:{n}",
                "a": _figure(0.1 * (of in ("a", "both")), 0.02),
                "b": _figure(0.1 * (of in ("b", "both")), 0.02),
                "sign_a": int(of in ("a", "both")),
                "sign_b": int(of in ("b", "both")),
                "of": of,
            }
            for n, of in enumerate(("both", "a", "b", "neither"))
        ],
    }
    document: Any = {
        "schema": 1,
        "kind": "repairkit atlas",
        "versions": {"repairkit": "0.1.0", "onnxruntime": "1.31.1"},
        "run": {"path": "run", "key": "k", "method": "regression", "interval": "normal"},
        "model": {"path": f"{sites[0]}.onnx", "digest": "a" * 64},
        "data": {"path": "data.npz", "digest": "b" * 64},
        "metric": "accuracy",
        "valued": True,
        "less_is_better": False,
        "measures": MEASURES,
        "n_filters": 2 * n_filters,
        "n_asked": n_filters,
        "images": {"suite": "selection", "n_images": 100, "n_effects": 64},
        "sites": list(sites),
        "by_source": "value",
        "by_words": "They are values of the run's own metrics.",
        "shared": shared,
        "shared_words": "",
        "filters": cards,
        "notes": [],
    }
    made: AtlasDocument = document
    return made


def originals(document: AtlasDocument, *, seed: int = 0) -> Originals:
    """Noise for every image, which hardly any picture format makes smaller."""
    rng = np.random.default_rng(seed)
    rows = {image["row"] for card in document["filters"] for image in card["most"] + card["least"]}
    return Originals(
        images={row: rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for row in sorted(rows)},
        dreams={
            card["filter"]: rng.integers(0, 256, (40, 40, 3), np.uint8)
            for card in document["filters"]
            if card["dream"] is not None
        },
    )


def _figure(value: float, reach: float) -> dict[str, float]:
    return {"value": value, "ci_low": value - reach, "ci_high": value + reach}


def _card(
    number: int, n_filters: int, sites: tuple[str, ...], *, sets: list[Any], n_rows: int
) -> dict[str, Any]:
    third = 3 * number // n_filters
    layer = number % len(sites)
    value = 0.02 * (1 - third) - number * 1e-6
    names = [{"kind": kind, "name": name, "n_images": 10} for kind, name in sets]
    by = [
        {
            **one,
            **_figure(value * (1 if place % 2 == number % 2 else 0), 0.001),
            "sign": ("helps", "open", "harms")[third] if place % 2 == number % 2 else "open",
        }
        for place, one in enumerate(names)
    ]
    images = [
        {
            "row": (8 * number + n) % n_rows,
            "label": names[n % 2]["name"],
            "group": names[-1 - n % 2]["name"],
            "peak": 4.0 - n / 4,
            "at": [0.25, 0.75],
            "box": [10.0, 40.0 + number % 60, 20, 20],
        }
        for n in range(8)
    ]
    return {
        "filter": f"{sites[layer]}:{number}",
        "site": sites[layer],
        "channel": number,
        "kind": "Conv",
        "layer": layer + 1,
        "n_layers": len(sites),
        "n_channels": n_filters,
        "place": number + 1,
        "why": [{"of": ("valuable", "layer", "harmful")[third], "place": number + 1}],
        "sign": ("helps", "open", "harms")[third],
        "values": {"accuracy": _figure(value, 0.001), "loss": _figure(-value, 0.01)},
        "by": by,
        "effect": _figure(-value, 0.02),
        "map": [50, 50],
        "sees": [20, 20],
        "most": images[:4],
        "least": images[4:],
        "response": {"mean": 0.5, "deviation": 0.1},
        "classes": [{"name": one["name"], "n": 10, "mean": 0.5} for one in names[:2]],
        "n_classes": 2,
        "groups": [{"name": one["name"], "n": 10, "mean": 0.5} for one in names[2:]],
        "responds_most_to": [names[number % 2], names[2 + number % 2]],
        "dream": None
        if number % 2
        else {"response": 5.0, "best_real": 4.0, "excess": 1.0, "control": 0.5, "way": "passes"},
        "concepts": []
        if number % 3
        else [
            {
                "measure": "iou",
                "concept": names[0]["name"],
                "score": 0.2,
                "ci_low": 0.15,
                "ci_high": 0.25,
                "chance": 0.02,
                "named": True,
            }
        ],
    }
