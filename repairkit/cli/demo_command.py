"""`repairkit demo`."""

from __future__ import annotations


def demo_command() -> None:
    """The whole story on the packaged sample."""
