"""Let atheris choose the changes, by which code of repairkit an input reaches.

    python -m tests.fuzz.guided patch_file -runs=20000 -rss_limit_mb=2048 -timeout=10

The bytes that atheris hands over decide, draw by draw, what a target changes; what breaks a promise
ends the run and leaves those bytes in a file, as libFuzzer does.
"""

from __future__ import annotations

import random
import sys
from importlib import import_module

from tests.fuzz.targets import TARGETS
from tests.fuzz.trial import attempt, attempt_drawn


class DrawnFromBytes(random.Random):
    """A generator whose every draw is read off given bytes; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data, self._place = data, 0

    def getrandbits(self, k: int, /) -> int:
        n_bytes = (k + 7) // 8
        taken = self._data[self._place : self._place + n_bytes]
        self._place += n_bytes
        return int.from_bytes(taken.ljust(n_bytes, b"\0"), "little") >> (8 * n_bytes - k)

    def random(self) -> float:
        return self.getrandbits(16) / 2**16


def main() -> None:
    import atheris

    target = sys.argv.pop(1)
    if target not in TARGETS:
        raise SystemExit(f"no target {target}; choose one of {', '.join(TARGETS)}")
    with atheris.instrument_imports(include=["repairkit"]):
        import_module("repairkit.cli")
        import_module("repairkit.api")
    attempt(target, 0)  # imports what is imported late

    def judge(data: bytes) -> None:
        fault = attempt_drawn(target, DrawnFromBytes(data))
        if fault:
            raise AssertionError(f"{target}: {fault}")

    atheris.Setup(sys.argv, judge)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
