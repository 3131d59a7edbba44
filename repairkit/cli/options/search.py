"""Options of the search for filters' values."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from repairkit.cli.options.groups import option
from repairkit.core.errors import SettingsError

# Written out, for importing the estimators would load numpy.
METHODS = (
    "auto", "exact", "permutation", "tmab", "regression", "repair", "marginals", "leave-one-out",
    "random", "weight-norm", "activation-norm",
)  # fmt: skip
METHOD_HELP = f"{', '.join(METHODS)}, or module:object."


@dataclass(frozen=True, kw_only=True)
class Search:
    """How values are estimated, and where that ends."""

    title: ClassVar = "Search"
    top_k: int | None = option("How many filters to tell apart.", min=1)
    side: str | None = option("highest, lowest or both.")
    epsilon: float | None = option("Tolerance of the top set.")
    delta: float | None = option("Probability of a wrong top set.")
    truncate_at: float | None = option("Accuracy at which a walk is cut (v_T).")
    setting: list[str] | None = option(
        "A setting of the method; may repeat.", "--set", metavar="NAME=VALUE"
    )
    max_evaluations: int | None = option("Coalitions tried at the most.", min=1)
    time_limit: float | None = option("Seconds that the command may take.", min=0.0)

    def of_method(self) -> dict[str, object]:
        """Those settings of the method that were given.

        Raises:
            SettingsError: a further one is no NAME=VALUE.
        """
        named = {
            "top_k": self.top_k,
            "side": self.side,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "truncate_at": self.truncate_at,
        }
        return {k: v for k, v in named.items() if v is not None} | _parse(self.setting or ())


def _parse(texts: Sequence[str]) -> dict[str, object]:
    """NAME=VALUE: numbers, true, false and null as in JSON, all else as text."""
    settings: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise SettingsError(f"--set {text!r} is no setting; write NAME=VALUE, as in lanes=4")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise SettingsError(f"--set {text!r} is not a finite number; give one such as 0.5")
        settings[name.replace("-", "_")] = parsed
    return settings
