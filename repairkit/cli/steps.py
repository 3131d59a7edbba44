"""Which step of how many a command is at, and how long a step still takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HALF_LIFE = 15.0  # seconds after which a speed counts half; half of the time so far, if more
_CAUTION = 0.25  # of the way to a later end, each time that one is estimated
_LEAST_LEFT = 0.1  # of the time left when last estimated


class Forecast:
    """The time that a stage still takes, from the work that is done.

    At a constant speed it falls second by second. The speed is that of the last while: older work
    counts less and less. An earlier end is taken at once, a later one a quarter of the way at a
    time, so that one slow moment does not change it much.
    """

    def __init__(self, begun: float) -> None:
        self._begun = self._at = begun
        self._done = 0
        self._work = self._seconds = 0.0
        self._end: float | None = None

    def update(self, done: int, total: int, now: float) -> None:
        """So much of the total is done at this moment, of the clock that `begun` is of."""
        if done <= self._done or now <= self._at:
            return
        seconds, work = now - self._at, done - self._done
        kept = 0.5 ** (seconds / max(_HALF_LIFE, (now - self._begun) / 2))
        self._work = kept * self._work + work
        self._seconds = kept * self._seconds + seconds
        end = now + max(total - done, 0) * self._seconds / self._work
        if self._end is not None and end > self._end:
            end = self._end + _CAUTION * (end - self._end)
        self._at, self._done, self._end = now, done, end

    def left(self, now: float) -> float | None:
        """Seconds from now on; None before anything is done."""
        if self._end is None:
            return None
        return max(self._end - now, _LEAST_LEFT * (self._end - self._at), 0.0)


Options = Mapping[str, Any]
"""The options of a command, by name."""


@dataclass(frozen=True)
class Step:
    """A step of a command.

    Attributes:
        name: for people.
        stages: how the names of the stages begin with which it begins.
        taken: whether it is taken, by the options.
    """

    name: str
    stages: tuple[str, ...]
    taken: Callable[[Options], bool] = lambda _: True


def _chooses(options: Options) -> bool:
    return not (options.get("remove") or options.get("remove_top"))


def _scores(options: Options) -> bool:
    return _chooses(options) and not options.get("scores")


_OPENING = Step("opening the model", ("opening the model", "looking for filters"))
_READING = Step(
    "reading", ("opening the model", "finding filters", "reading images", "checking batches")
)
_CHECKING = Step(
    "checking the preprocessing",
    ("checking the preprocessing", "trying other", "comparing with the mean answer"),
)
_PREPARING = Step("preparing", ("opening the instrumented model", "measuring means", "compiling"))
_SCORING = Step("scoring", ("playing with all", "timing a pass of", "measuring norms", "scoring"))
_CURVE = Step("drawing the removal curve", ("ordering filters", "drawing the removal curve"))
_REPAIR = (
    _READING,
    _CHECKING,
    _PREPARING,
    Step("scoring", _SCORING.stages, _scores),
    Step("choosing", ("reading the last layer", "choosing", "confirming"), _chooses),
    Step("proving", ("baking", "proving the patch")),
    Step("judging", ("judging",)),
    Step("writing", ("writing",)),
)
STEPS: Mapping[str, tuple[Step, ...]] = {
    "score": (
        _READING,
        _CHECKING,
        _PREPARING,
        _SCORING,
        Step("confirming at full size", ("confirming",), lambda o: bool(o.get("score_size"))),
        Step(_CURVE.name, _CURVE.stages, lambda o: bool(o.get("curve"))),
    ),
    "patch": _REPAIR,
    "demo": (*_REPAIR, Step("verifying", ("verifying",))),
    "inspect": (
        _OPENING,
        Step("reading", ("reading images", "finding filters"), lambda o: bool(o.get("data"))),
        Step(_CHECKING.name, _CHECKING.stages, lambda o: bool(o.get("data"))),
    ),
    "attack": (_READING, _CHECKING, Step("attacking", ("attacking",))),
    "export": (
        Step("exporting", ("loading the model", "exporting")),
        Step("comparing outputs", ("comparing outputs",)),
        Step("mapping", ("finding the layers", "counting", "finding the filters", "mapping")),
    ),
    "means": (
        Step("reading", _READING.stages, lambda o: not o.get("merge")),
        Step("measuring means", ("measuring means",), lambda o: not o.get("merge")),
    ),
}
"""The steps of the commands that have several, in their order."""


class Plan:
    """The steps of a command, known before it begins, and the one that it is at."""

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self._steps = tuple(steps)
        self._at = -1

    @classmethod
    def of(cls, command: str, options: Options) -> "Plan":
        """The plan of a command with these options; empty where it has one step."""
        steps = [step for step in STEPS.get(command, ()) if step.taken(options)]
        return cls(steps if len(steps) > 1 else ())

    def begin(self, stage: str) -> None:
        """A stage begins; it may be the first of a step. No step is gone back to."""
        for position in range(max(self._at, 0), len(self._steps)):
            if stage.startswith(self._steps[position].stages):
                self._at = position
                return

    @property
    def step(self) -> str:
        """The step, such as `2 of 5: scoring`; empty before the first one and without a plan."""
        if self._at < 0:
            return ""
        return f"{self._at + 1} of {len(self._steps)}: {self._steps[self._at].name}"

    def title(self, stage: str) -> str:
        """The step, and the stage within it where that has another name; else the stage."""
        if not self.step or self.step.endswith(f": {stage}"):
            return self.step or stage
        return f"{self.step} ({stage})"
