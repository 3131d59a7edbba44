"""A first look at a model on its data, before any long work: are the images what it expects?

The model answers a few hundred images as they are prepared. If that leaves a doubt, it answers 64
of them prepared in other usual ways, and answers are compared with other usual orders of classes.
The rule and its error rates: docs/decisions/0018-preprocessing-check.md.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import RepairkitError
from repairkit.core.outputs import OutputForm
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Suite
from repairkit.data.usual import Order, Way
from repairkit.metrics.chance import FEWEST, Guessing, better_by_chance, look_for_guessing

MOST_IMAGES = 400
TRIED_IMAGES = 64
# Few images at first, so that a slow model is noticed early.
_CHUNKS = (2, 2, 4, 8, 16, 32)
_CHUNK = 64
_LEAST_TRIED = 16
_MORE = "repairkit inspect --data takes the time"
_SURE = 0.01
_LEAST_LEAD = 0.05
_WORTH_A_SECOND_LOOK = 3  # images
Thorough = Literal["told", "doubt", "all"]
"""Try only the preprocessing in use; also others where they could do better; or all of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """What a way or an order gives on the images on which it was tried.

    `right` is (n_images,); `likelihood` is the mean probability of the right class; `n_changes` is
    how many settings differ from those in use. `ways` are the way and the order that were tried.
    """

    name: str
    right: NDArray[np.bool_]
    share: float
    likelihood: float
    remedy: str = ""
    n_changes: int = 0
    ways: tuple[Way | Order, ...] = ()

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def rank(self) -> tuple[float, int, float]:
        """The key for the best: of equals the one with fewest changes, then the likeliest."""
        return self.accuracy, -self.n_changes, self.likelihood

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "n_images": len(self.right),
            "accuracy": self.accuracy,
            "commonest_answer": self.share,
            "mean_likelihood": self.likelihood,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstLook:
    """The result of a first look at a classifier.

    Attributes:
        told: the answers on all images that were looked at, as they are prepared.
        class_name: of the commonest answer.
        part: the part that the images are from.
        ways: the way in use, then the others that were tried; on the same images.
        orders: of the classes, with the images as they are prepared; on those of `told`.
        better: the way or order that does better with statistical certainty, if any.
        note: what was not tried, and why.
        seconds: the time that it took.
        accepted: whether the job continues in spite of a doubt.
    """

    guessing: Guessing
    class_name: str
    part: str
    ways: tuple[Tried, ...]
    orders: tuple[Tried, ...]
    better: Tried | None
    note: str
    seconds: float
    accepted: bool = False

    @property
    def best(self) -> Tried:
        """The way with the most right answers."""
        return max(self.ways, key=lambda way: way.rank)

    @property
    def doubt(self) -> str:
        """The reason to doubt the preprocessing in use, in words; empty if there is none."""
        guessing = self.guessing
        images = f"{guessing.n_images} {self.part} images"
        if guessing.one_takes_all:
            return (
                f"the model takes {_percent(guessing.share)} of {images} for class "
                f"{self.class_name}, of which {_percent(guessing.label_share)} are"
            )
        if guessing.at_chance:
            return (
                f"the model is right on {_percent(guessing.accuracy)} of {images}, where guessing "
                f"gives {_percent(guessing.by_chance)}"
            )
        if self.better is not None:
            in_use = self.ways[0] if len(self.better.right) == len(self.ways[0].right) else None
            share = guessing.accuracy if in_use is None else in_use.accuracy
            n = len(self.better.right)
            return f"the model is right on {_percent(share)} of {n} {self.part} images"
        return ""

    @property
    def remedy(self) -> str:
        """What to do about the doubt."""
        if self.better is not None:
            return (
                f"with {self.better.name} it is right on {_percent(self.better.accuracy)}: "
                f"{self.better.remedy}"
            )
        n_tried = len(self.ways) - 1
        others = f"none of {n_tried} other usual preprocessings does clearly better"
        check = (
            "check that images and labels are what the model was trained with (--scale, --mean, "
            "--std, --color, --resize, --classes, --output)"
        )
        return "; ".join(part for part in (others if n_tried else "", self.note, check) if part)

    def to_json(self) -> dict[str, Any]:
        """The entry `first_look` of what was read."""
        guessing = self.guessing
        return {
            "metric": "accuracy",
            "value": guessing.accuracy,
            "by_chance": guessing.by_chance,
            "n_images": guessing.n_images,
            "part": self.part,
            "commonest_answer": {
                "class": self.class_name,
                "share": guessing.share,
                "share_of_labels": guessing.label_share,
            },
            "in_use": self.ways[0].name,
            "best": self.best.name,
            "preprocessings": [way.to_json() for way in self.ways],
            "class_orders": [order.to_json() for order in self.orders],
            "doubt": self.doubt,
            "remedy": self.remedy if self.doubt else "",
            "accepted": self.accepted,
            "note": self.note,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class ErrorLook:
    """The result of a first look at a regressor; it never leads to a doubt.

    Attributes:
        error: the mean absolute error.
        of_mean: that of always answering the mean label.
        n_images: that were looked at.
        part: that they are from.
        accepted: see `FirstLook`.
    """

    error: float
    of_mean: float
    n_images: int
    part: str
    accepted: bool = False
    doubt: str = ""
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """See `FirstLook.to_json`."""
        return {
            "metric": "mean_absolute_error",
            "value": self.error,
            "of_the_mean_answer": self.of_mean,
            "n_images": self.n_images,
            "part": self.part,
        }


@dataclass(frozen=True)
class AskedModel:
    """The outputs of a model for a suite, how they are read, and the names of classes, if known."""

    outputs: Callable[[Suite], Array]
    form: OutputForm
    n_classes: int
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pains:
    """How many preprocessings are tried, and how long that may take.

    Attributes:
        thorough: which ways are tried.
        seconds: the time that it may take.
        patience: more seconds, if the answers are no better than guesses.
        seed: of the permutations.
    """

    thorough: Thorough
    seconds: float
    patience: float
    seed: int


def take_first_look(
    judge: AskedModel, images: Suite, ways: Sequence[Way], orders: Sequence[Order], pains: Pains
) -> FirstLook:
    """Judge the images as they are prepared and, if that may help, prepared in other ways.

    Args:
        judge: of the model.
        images: at least one, of which each beginning is much like the whole.
        ways: the first is in use.
        orders: other orders of the classes.
        pains: how much is done.
    """
    began = time.monotonic()
    answers = _Answers(judge, images)
    with stage("checking the preprocessing", total=len(images)) as tell:
        for until in _steps(len(images)):
            answers.go_on(ways[0], until)
            tell(until)
            lasted = time.monotonic() - began
            if lasted > pains.seconds or (lasted > pains.seconds / 2 and until >= FEWEST):
                break
    n = answers.n_of(ways[0])
    guessing = look_for_guessing(
        answers.predictions(ways[0]),
        images.annotations.labels[:n],
        judge.n_classes,
        np.random.default_rng(pains.seed),
    )
    guesses = guessing.at_chance or guessing.one_takes_all
    limit = began + pains.seconds + (pains.patience if guesses else 0.0)
    n_wrong = n - round(guessing.accuracy * n)
    room = n_wrong >= max(_WORTH_A_SECOND_LOOK, _LEAST_LEAD * n)
    tried, note = ways[:1], ""
    if n < min(FEWEST, len(images)):
        note = f"{n} images tell little, and more take too long here; {_MORE}"
    elif len(ways) > 1 and (pains.thorough == "all" or (pains.thorough == "doubt" and room)):
        tried, note = answers.try_all(ways, limit)
    n_tried = min(answers.n_of(way) for way in tried)
    looked = tuple(answers.looked(way, n_tried) for way in tried)
    counted = tuple(answers.looked(ways[0], n, order) for order in orders)
    better = None
    if pains.thorough != "told":
        better = _surely_better(answers, tried, (looked, counted), n, limit)
        if better is None and guesses:
            better = _both(answers, tried, orders, looked)
    name = "" if guessing.commonest < 0 else str(guessing.commonest)
    if 0 <= guessing.commonest < len(judge.class_names):
        name = judge.class_names[guessing.commonest]
    lasted = time.monotonic() - began
    return FirstLook(
        guessing=guessing,
        class_name=name,
        part=images.name,
        ways=looked,
        orders=counted,
        better=better,
        note=note,
        seconds=lasted,
    )


def _steps(n_images: int) -> Iterator[int]:
    """The number of images after each chunk."""
    until = 0
    for size in _CHUNKS:
        until = min(until + size, n_images)
        yield until
    while until < n_images:
        until = min(until + _CHUNK, n_images)
        yield until


class _Answers:
    """Outputs of the model by way, for the first images; each is computed once."""

    def __init__(self, judge: AskedModel, images: Suite) -> None:
        self._judge = judge
        self._images = images
        self._outputs: dict[str, Array] = {}

    def n_of(self, way: Way) -> int:
        return len(self._outputs.get(way.name, ()))

    def go_on(self, way: Way, until: int) -> None:
        """Compute the answers for the first `until` images."""
        done = self.n_of(way)
        if until <= done:
            return
        suite = replace(self._images, images=way.images).take(np.arange(done, until))
        outputs = self._judge.outputs(suite)
        known = self._outputs.get(way.name)
        self._outputs[way.name] = outputs if known is None else np.concatenate([known, outputs])

    def predictions(self, way: Way) -> NDArray[np.int64]:
        return self._judge.form.predictions(self._outputs[way.name])

    def looked(self, way: Way, n: int, order: Order | None = None) -> Tried:
        """The results of the first `n` images, optionally with the classes in another order."""
        outputs, labels = self._outputs[way.name][:n], self._images.annotations.labels[:n]
        if order is not None:
            labels = order.numbers[labels]
        predictions = self._judge.form.predictions(outputs)
        answered = np.bincount(predictions[predictions >= 0], minlength=1)
        chances = np.exp(self._judge.form.log_probabilities(outputs))[np.arange(n), labels]
        return Tried(
            name=way.name if order is None else order.name,
            right=predictions == labels,
            share=float(answered.max() / n),
            likelihood=float(chances.mean()),
            remedy=way.remedy if order is None else order.remedy,
            n_changes=len(way.changes) if order is None else 1,
            ways=(way,) if order is None else (way, order),
        )

    def try_all(self, ways: Sequence[Way], limit: float) -> tuple[Sequence[Way], str]:
        """Try all ways on the same first images while time allows; also says what was left out.

        A way that the model cannot run is left out.
        """
        n = min(TRIED_IMAGES, self.n_of(ways[0]))
        alive = list(ways)
        with stage("trying other preprocessings", total=n) as tell:
            for until in dict.fromkeys(_steps(n)):
                for way in list(alive):
                    if time.monotonic() > limit:
                        return self._in_time(alive)
                    try:
                        self.go_on(way, until)
                    except RepairkitError:  # such as another layout than the model can take
                        alive.remove(way)
                tell(until)
        return alive, ""

    def _in_time(self, ways: Sequence[Way]) -> tuple[Sequence[Way], str]:
        done = [way for way in ways if self.n_of(way) >= min(_LEAST_TRIED, self.n_of(ways[0]))]
        n_left = len(ways) - len(done)
        if not n_left:
            return ways, ""
        return done, (
            f"{n_left} other usual preprocessings were not tried, as that takes too long here; "
            f"{_MORE}"
        )


def _surely_better(
    answers: _Answers,
    ways: Sequence[Way],
    both: tuple[Sequence[Tried], Sequence[Tried]],
    n: int,
    limit: float,
) -> Tried | None:
    """The way or order that is right on significantly more images, if there is one.

    All are compared on the same images, and corrected for their number (Bonferroni). The best way
    where that is near is judged again, alone and on images that did not choose it.
    """
    looked, orders = both
    in_use, n_others = looked[0], len(looked) - 1 + len(orders)
    counted = answers.looked(ways[0], n)
    better = [
        other
        for other, base in [*((w, in_use) for w in looked[1:]), *((o, counted) for o in orders)]
        if other.accuracy - base.accuracy >= _LEAST_LEAD
        and better_by_chance(base.right, other.right) <= _SURE / n_others
    ]
    if better:
        return max(better, key=lambda other: other.rank)
    if len(looked) < 2:
        return None
    place = max(range(1, len(looked)), key=lambda i: looked[i].rank)
    seen = len(in_use.right)
    lead = int(looked[place].right.sum()) - int(in_use.right.sum())
    if lead < _WORTH_A_SECOND_LOOK or n <= seen:
        return None
    for until in _steps(n):
        if time.monotonic() > limit:
            break
        answers.go_on(ways[place], until)
    again = answers.looked(ways[place], answers.n_of(ways[place]))
    fresh, before = again.right[seen:], counted.right[seen : len(again.right)]
    if not len(fresh) or fresh.mean() - before.mean() < _LEAST_LEAD:
        return None
    return again if better_by_chance(before, fresh) <= _SURE else None


def _both(
    answers: _Answers, ways: Sequence[Way], orders: Sequence[Order], looked: Sequence[Tried]
) -> Tried | None:
    """Another way and another order together, if they are significantly better."""
    n = len(looked[0].right)
    pairs = [(way, order) for way in ways[1:] for order in orders]
    better = []
    for way, order in pairs:
        other = answers.looked(way, n, order)
        lead = other.accuracy - looked[0].accuracy
        if lead >= _LEAST_LEAD and better_by_chance(looked[0].right, other.right) <= (
            _SURE / len(pairs)
        ):
            name, remedy = f"{way.name} and {order.name}", f"{way.remedy} and {order.remedy}"
            changes = len(way.changes) + 1
            better.append(replace(other, name=name, remedy=remedy, n_changes=changes))
    return max(better, key=lambda other: other.rank, default=None)


def first_look_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    """The entry `first_look` for people."""
    n, part = entry["n_images"], entry["part"]
    if entry["metric"] != "accuracy":
        yield (
            f"the model's mean absolute error on {n} {part} images is {entry['value']:.4g}; always "
            f"answering the mean of their labels gives {entry['of_the_mean_answer']:.4g}"
        )
        return
    yield (
        f"the model is right on {_percent(entry['value'])} of {n} {part} images; guessing gives "
        f"{_percent(entry['by_chance'])}"
    )
    if entry["note"]:
        yield str(entry["note"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
