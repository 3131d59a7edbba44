"""Repair the packaged digit reader from Python, and check what came of it.

    python samples/01_repair_digits.py

The network in samples/digits reads dark-on-light digits much worse than light-on-dark ones; data,
groups and preprocessing stand in the repairkit.toml beside it. Filters are scored on
two thirds of the selection images, and those that harm are frozen jointly for the worst group's
sake; the other third confirms, and the test images tell how much it helped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import repairkit

SAMPLE = Path(__file__).parent / "digits"


def main() -> None:
    """Repair, prove from disk, and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        done = repairkit.patch(
            SAMPLE / "model.onnx",
            out=Path(folder) / "repaired.onnx",
            fairness=True,
        )
        proven = repairkit.verify(SAMPLE / "model.onnx", done.out, patch_file=done.patch_file)
    gain = done.change["worst_group_accuracy"]
    print(f"frozen: {', '.join(f.id for f in done.patch.filters)}")
    for name in done.before.groups:
        before, after = done.before.groups[name], done.after.groups[name]
        print(f"{name}: {before.value:.3f} -> {after.value:.3f} on the test images")
    print(
        f"worst group: {gain.value:+.3f}, 95 % interval {gain.ci_low:+.3f} to {gain.ci_high:+.3f}"
    )
    assert proven.proof.exact
    assert gain.ci_low > 0


if __name__ == "__main__":
    main()
