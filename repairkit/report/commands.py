"""Options that say again how images were read, for the commands that a page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NOTHING = {"scale": 1.0}


def reading_words(
    preprocessing: Mapping[str, Any] | None, class_names: Sequence[str] | None = None
) -> list[str]:
    """`--scale=0.5` and so on for what differs from the defaults, and `--classes`.

    Names that hold a comma fit into no option, only into `repairkit.toml`.

    Args:
        preprocessing: by name, as `run.json` has it; documents of other versions may have none.
        class_names: in the order of the model's outputs.
    """
    words = []
    for name, value in (preprocessing or {}).items():
        if value in (None, [], ()) or value == _NOTHING.get(name):
            continue
        told = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words.append(f"--{name}={told}")
    if class_names and not any("," in name for name in class_names):
        words.append(f"--classes={','.join(class_names)}")
    return words


def accepting_words(read: Mapping[str, Any] | None) -> list[str]:
    """`--accept-preprocessing` where a job went on although its first look left a doubt.

    Args:
        read: what was read, as documents have it; those of other versions may have none.
    """
    look = (read or {}).get("first_look") or {}
    return ["--accept-preprocessing"] if look.get("doubt") and look.get("accepted") else []
