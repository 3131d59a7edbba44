"""What a patch changes is said in words wherever it is told of."""

from __future__ import annotations

from typing import Any

import pytest

from repairkit.report.model_card import model_card
from repairkit.report.story import act, head_in_words, verdict
from tests.report.documents import repair

BIAS = {"kind": "bias", "layer": "fc", "bias": [0.5, -0.5], "weight": None}
WEIGHTS = {"kind": "last-layer", "layer": "fc", "bias": None, "weight": "0" * 64}


def _document(frozen: tuple[str, ...], **claim: Any) -> dict[str, Any]:
    document = repair(frozen=frozen)
    document["patch"] = {**document["patch"], **claim}
    document["scoring"] = None
    return document


@pytest.mark.parametrize(
    ("frozen", "claim", "said"),
    [
        (("conv:1", "conv:2"), {}, "Freezing 2 filters"),
        ((), {"head": BIAS}, "Changing the class biases of the last layer"),
        ((), {"head": WEIGHTS}, "Changing the weights of the last layer"),
        (
            ("conv:1",),
            {"head": WEIGHTS},
            "Freezing 1 filter and changing the weights of the last layer",
        ),
        (
            ("conv:1", "conv:2"),
            {"gains": {"conv:2": 0.5}},
            "Freezing 2 filters (1 of them partly)",
        ),
    ],
)
def test_the_verdict_says_what_was_changed(
    frozen: tuple[str, ...], claim: dict[str, Any], said: str
) -> None:
    document = _document(frozen, **claim)
    assert act(document).replace("\N{NO-BREAK SPACE}", " ") == said
    assert verdict(document)["sentence"].startswith(f"{act(document)} ")
    card = model_card(document)
    assert ("Frozen at constants" in card) == bool(frozen)
    assert bool(head_in_words(document)) == ("head" in claim)
    assert ("last layer, fc" in card) == ("head" in claim)
