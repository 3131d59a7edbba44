"""Run spoilt inputs in child processes under limits, and say which broke a promise.

    python -m tests.fuzz.driver --inputs 100000 --seconds 3000
    python -m tests.fuzz.driver --only model_fields:123

A child takes one input after the other. It may have 2 GiB of memory of its own; where it takes over
10 s of work (or two minutes asleep) for an input it is killed, and a new one goes on behind. Each
finding is named by its target and seed, which make the same input again.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import TARGETS
from tests.fuzz.trial import SECONDS, attempt, limit_memory

_LIFETIME = 2000
_START_SECONDS = 60.0
_MOST_WAITED = 120.0


@dataclass
class Findings:
    """What was run, and what broke a promise."""

    done: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, int, str]] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    most_memory: int = 0

    def add(self, target: str, seed: int, fault: str) -> None:
        self.broken.append((target, seed, fault))
        sys.stdout.write(f"{target}:{seed}: {fault[:400]}\n")
        sys.stdout.flush()


class Child:
    """A worker process and what it says."""

    def __init__(self, names: list[str], start: int, stop: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.driver", "--worker", f"{start}:{stop}", *names],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._text = b""

    def read(self, seconds: float) -> dict | None:
        """The next message; None where none came in time, or the child has ended."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._text:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                return None
            self._text += more
        line, self._text = self._text.split(b"\n", 1)
        return dict(json.loads(line))

    def seconds_of_work(self) -> float:
        """Processor time so far: a machine with much else to do is no hang."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int | None:
        """Its exit code where it had ended, else None; it is gone afterwards."""
        try:
            code: int | None = self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            code = None
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def drive(names: list[str], start: int, stop: int, seconds: float) -> Findings:
    """Inputs number `start` to `stop`, by turns from each target, for `seconds` at the most."""
    findings, end, position = Findings(), time.monotonic() + seconds, start
    while position < stop and time.monotonic() < end:
        child = Child(names, position, min(stop, position + _LIFETIME))
        position = _follow(child, names, position, findings, end)
    return findings


def _follow(child: Child, names: list[str], position: int, findings: Findings, end: float) -> int:
    """Where to go on once the child has ended."""
    patience = _START_SECONDS
    while True:
        began = child.seconds_of_work()
        said = child.read(patience)
        waited = patience
        while said is None and child.process.poll() is None and waited < _MOST_WAITED:
            if child.seconds_of_work() - began > SECONDS:
                break
            said = child.read(SECONDS)
            waited += SECONDS
        if said is None:
            code = child.end()
            if code == 0:
                return position
            target, seed = names[position % len(names)], position // len(names)
            findings.done[target] += 1
            fault = f"hang over {SECONDS:.0f} s" if code is None else f"crash, exit code {code}"
            findings.add(target, seed, fault)
            return position + 1
        patience = SECONDS
        if "ready" in said:
            continue
        position = said["position"] + 1
        findings.done[said["target"]] += 1
        findings.most_memory = max(findings.most_memory, said["memory"])
        findings.slowest = max(findings.slowest, (said["seconds"], f"{said['target']}"))
        if said["fault"]:
            findings.add(said["target"], said["seed"], said["fault"])
        if time.monotonic() > end:
            child.process.kill()
            child.end()
            return position


def work(names: list[str], start: int, stop: int) -> None:
    """The child: one line of JSON per input."""
    import resource

    limit_memory()
    wire = os.fdopen(os.dup(1), "w")
    wire.write('{"ready": true}\n')
    wire.flush()
    for position in range(start, stop):
        target, seed = names[position % len(names)], position // len(names)
        began = time.monotonic()
        fault = attempt(target, seed)
        said = {
            "position": position,
            "target": target,
            "seed": seed,
            "fault": fault,
            "seconds": time.monotonic() - began,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        wire.write(json.dumps(said) + "\n")
        wire.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers of repairkit.")
    parser.add_argument("names", nargs="*", help=f"targets: {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", help="TARGET:SEED, in this process")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.names or list(TARGETS)
    if given.only:
        target, seed = given.only.split(":")
        sys.stdout.write(f"{attempt(target, int(seed)) or 'kept its promises'}\n")
        return 0
    if given.worker:
        start, stop = map(int, given.worker.split(":"))
        work(names, start, stop)
        return 0
    began = time.monotonic()
    found = drive(names, given.start, given.start + given.inputs, given.seconds)
    sys.stdout.write(
        f"{sum(found.done.values())} inputs in {time.monotonic() - began:.0f} s "
        f"({', '.join(f'{name} {n}' for name, n in found.done.items())}); slowest "
        f"{found.slowest[0]:.1f} s ({found.slowest[1]}); most memory "
        f"{found.most_memory / 2**20:.0f} MiB; {len(found.broken)} broke a promise; go on with "
        f"--start {given.start + sum(found.done.values())}\n"
    )
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
