"""repairkit from Python: what the commands do, as functions."""

from repairkit.api.frameworks import attack, export
from repairkit.api.repairing import apply, patch, revert, verify
from repairkit.api.scoring import means, merge, score

__all__ = ["apply", "attack", "export", "means", "merge", "patch", "revert", "score", "verify"]
