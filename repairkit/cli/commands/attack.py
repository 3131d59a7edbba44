"""`repairkit attack`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from repairkit import api
from repairkit.cli.options.answer import Answer
from repairkit.cli.options.groups import flag, only, option
from repairkit.cli.options.job import PREPARATION, Job, settle_job
from repairkit.cli.options.source import SourceOptions
from repairkit.core.errors import SettingsError

if TYPE_CHECKING:
    from repairkit.api import Pgd, Square

_OF_JOB = (
    "model", "trust", "data", "group", "classes", "output", "image_input", "inputs", "columns",
    "threshold", "outputs_are", "batch", "device", "seed", "calibration", "selection", "test",
    "accept_preprocessing", *PREPARATION,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Method, strength, and where the images go."""

    out: Path | None = option("The images, .npz; MODEL.attacked.npz.", "-o", "--out")
    method: str | None = option("pgd (with --source) or square (by the ONNX file alone).")
    epsilon: str = option("How far a pixel may move, of a range of 0 to 1.", default="16/255")
    steps: int = option("Gradients taken (pgd).", default=30, min=1)
    step_size: str = option("How far a pixel moves in a step (pgd).", default="0.8/255")
    random_start: bool = flag(
        "Start beside the image (pgd).", "--random-start/--no-random-start", default=True
    )
    queries: int = option("Times an image is tried at the most (square).", default=1000, min=1)
    pixel_range: str | None = option(
        "Pixel range in the model's input, LOW,HIGH, if not known.", "--range"
    )
    images: int | None = option("Images attacked of each part; all.", min=1)

    def chosen(self, *, by_gradients: bool) -> Pgd | Square:
        """The method and its settings; by default the one that takes gradients, if there are any.

        Raises:
            SettingsError: there is no such method, or a number is none.
        """
        method = self.method or ("pgd" if by_gradients else "square")
        epsilon = _fraction("--epsilon", self.epsilon)
        if method == "pgd":
            return api.Pgd(
                epsilon,
                n_steps=self.steps,
                step_size=_fraction("--step-size", self.step_size),
                random_start=self.random_start,
            )
        if method == "square":
            return api.Square(epsilon, n_queries=self.queries)
        raise SettingsError(f"there is no attack {method!r}; choose pgd or square")


def attack_command(
    job: Annotated[Job, only(*_OF_JOB)], attack: Attack, source: SourceOptions, answer: Answer
) -> None:
    """Make images that fool a model: each is moved a little, towards a class drawn at random."""
    from repairkit.cli.shown.results import print_attacked

    method = attack.chosen(by_gradients=source.source is not None)
    pixel_range = _ends(attack.pixel_range)
    model, settings = settle_job(job)
    attacked = api.attack(
        model,
        settings=settings,
        method=method,
        pixel_range=pixel_range,
        at_most=attack.images,
        out=attack.out or Path(f"{model.stem}.attacked.npz"),
        source=source.named(),
    )
    answer.give(
        lambda: {"out": str(attacked.out), **attacked.document}, lambda: print_attacked(attacked)
    )


def _fraction(option: str, text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    try:
        number = float(numerator) / float(denominator) if slash else float(text)
        if not math.isfinite(number):
            raise ValueError
        return number
    except (ValueError, ZeroDivisionError):
        raise SettingsError(
            f"{option} {text!r} is no number; give one such as 16/255 or 0.06"
        ) from None


def _ends(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2:
        raise SettingsError(f"--range {text!r} is no range; give LOW,HIGH such as 0,1")
    return _fraction("--range", parts[0]), _fraction("--range", parts[1])
