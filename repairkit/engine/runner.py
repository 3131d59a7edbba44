"""Run a model: by one session (`Runner`), or by sessions that open when needed (`OpenModel`)."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.errors import ModelError
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Suite
from repairkit.engine import ort
from repairkit.graph.coalitions.masking import tapped
from repairkit.graph.kinds.ensembles import without_zipmaps

Masks = Mapping[str, NDArray[np.bool_]]
Feeds = Mapping[str, Array]
_RAW_IMAGES = 16
_NESTED = (list, dict)  # sequences and maps


def _real(answer: Any, real: int, step: int) -> Any:
    """The rows of the real images of a run that was filled up."""
    if real == step or not np.ndim(answer):
        return answer
    return answer[: real * (len(answer) // step)]


def runs_of(
    images: Array, feeds: Feeds | None, step: int | None
) -> Iterator[tuple[int, Array, dict[str, Array]]]:
    """The runs that take all images: number of real images, images, and what is fed beside them.

    Args:
        images: shape (n, *input).
        feeds: a row per image, by names of inputs.
        step: the number of images that one run must have; the last run is filled up. None where
            any number goes.
    """
    size = step or _RAW_IMAGES
    for start in range(0, len(images), size):
        rows = np.arange(start, min(start + size, len(images)))
        real = len(rows)
        if step is not None:
            rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        yield real, images[rows], {name: feed[rows] for name, feed in (feeds or {}).items()}


def _joined(name: str, parts: Sequence[Any]) -> Array:
    try:
        if all(isinstance(part, np.ndarray) for part in parts):
            return np.concatenate(parts)
    except ValueError:
        pass
    raise ModelError(
        f"output {name!r} is not one array with the same shape for every image; choose another "
        "with --output"
    )


def _is_bare(shape: list[int | str | None]) -> bool:
    """Whether an output of a graph for one image has no axis for images, as it declares them."""
    return bool(shape) and isinstance(shape[0], int) and shape[0] != 1


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[Any]:
    """Run options under which the runtime stops, between two nodes, once the time is over."""
    if seconds is None:
        yield None
        return
    options = ort.load_runtime().RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


class Runner:
    """A session, its image input and the outputs that are wanted.

    Dictionaries of scores (`ZipMap`) are read as the tensor that they were made from. A model may
    hold an endless loop, so a call that takes over `seconds` is stopped. Calls raise ModelError if
    ONNX Runtime fails on the images.
    """

    def __init__(
        self,
        model: ModelProto,
        input_name: str,
        step: int | None,
        *,
        outputs: tuple[str, ...] = (),
        device: str = "cpu",
        optimise: bool = True,
        tf32: bool = False,
        seconds: float | None = None,
    ) -> None:
        self.seconds, self.optimised = seconds, optimise
        plain = without_zipmaps(model)
        self.session = ort.open_session(plain, device=device, optimise=optimise, tf32=tf32)
        ort.release_freed()
        self.input_name = input_name
        self.outputs = outputs or tuple(o.name for o in self.session.get_outputs())
        self._take(step)

    def _take(self, step: int | None) -> None:
        self.step = step
        # A graph for one image may give outputs without a batch axis: they are given one.
        declared = {o.name: o.shape for o in self.session.get_outputs()}
        self._bare = {n for n, shape in declared.items() if step == 1 and _is_bare(shape)}
        # The runtime gives an empty shape to a single number and to what it knows nothing of.
        self._undeclared = {n for n, shape in declared.items() if step == 1 and not shape}

    def sharing(self, *, step: int | None, outputs: tuple[str, ...] = ()) -> Runner:
        """A runner of the same session, for `step` images at a time and with fewer outputs."""
        twin = copy.copy(self)
        twin.outputs = outputs or self.outputs
        twin._take(step)
        return twin

    def run(
        self, images: Array, masks: Masks | None = None, feeds: Feeds | None = None
    ) -> dict[str, Array]:
        """Outputs for images of shape (n, *input); masks are one row, or a row per image.

        `feeds` are what the model takes beside each image: a row per image, by names of inputs.
        """
        if self.step is None:
            fed = {**(masks or {}), **(feeds or {})}
            return dict(zip(self.outputs, self._call(images, fed), strict=True))
        parts = []
        for start in range(0, len(images), self.step):
            batch = images[start : start + self.step]
            real = len(batch)
            if real < self.step:
                batch = np.concatenate([batch, np.repeat(batch[-1:], self.step - real, axis=0)])
            last = np.minimum(np.arange(start, start + self.step), len(images) - 1)
            rows = {
                name: mask if len(mask) == 1 else mask[last] for name, mask in (masks or {}).items()
            }
            rows |= {name: feed[last] for name, feed in (feeds or {}).items()}
            answers = [
                a[None] if self._lacks_axis(name, a) else a
                for name, a in zip(self.outputs, self._call(batch, rows), strict=True)
            ]
            parts.append([_real(a, real, self.step) for a in answers])
        columns = zip(self.outputs, zip(*parts, strict=True), strict=True)
        return {name: _joined(name, column) for name, column in columns}

    def _lacks_axis(self, name: str, answer: Any) -> bool:
        """Whether an output of one image is to get an axis for images."""
        if isinstance(answer, _NESTED):
            return False
        return name in self._bare or (name in self._undeclared and not np.ndim(answer))

    def raw(
        self, images: Array, masks: Masks | None = None, feeds: Feeds | None = None
    ) -> Iterator[tuple[int, list[Any]]]:
        """Outputs of any kind, run by run, each with its number of real images.

        Arguments are those of `run`, with masks of one row.
        """
        for real, batch, fed in runs_of(images, feeds, self.step):
            yield real, self._call(batch, {**(masks or {}), **fed})

    def _call(self, images: Array, masks: Feeds) -> list[Any]:
        what = f"cannot run the model on images of shape {images.shape}"
        with ort.as_model_errors(what), _time_limit(self.seconds) as options:
            answers: list[Any] = self.session.run(
                list(self.outputs), {self.input_name: images, **masks}, options
            )
        return answers


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenModel:
    """A model that runs images and gives its tensors.

    The session of the model itself is opened when it is first needed, and kept as long as this
    object lives: every job hands one `OpenModel` on. Sessions that give inner tensors are not kept,
    since they hold much memory. Methods that open a session raise ModelError if ONNX Runtime
    refuses the model.

    Attributes:
        model: never modified.
        image: the name of the image input.
        output: the output that is judged.
        step: the number of images that one run must have; None where any number goes.
        device: where it runs.
        seconds: after which a run is stopped; None for no limit.
    """

    model: ModelProto
    image: str
    output: str
    step: int | None = None
    device: str = "cpu"
    seconds: float | None = None
    _plain: list[Runner] = field(default_factory=list)  # the kept one, once it is open

    def variant(self, model: ModelProto, *, device: str | None = None) -> OpenModel:
        """Another model with the same inputs and outputs; on the same device if none is named."""
        return replace(self, model=model, device=device or self.device, _plain=[])

    def on_cpu(self) -> OpenModel:
        """The same model on the CPU; this very object if that is where it runs."""
        runs_there = self.device != "cuda" and ort.choose_device(self.device) == "cpu"
        return self if runs_there else self.variant(self.model, device="cpu")

    def runner(self, *, outputs: tuple[str, ...] = ()) -> Runner:
        """A runner of the model itself, for all its outputs unless some are named."""
        if not self._plain:
            self._plain.append(self._open((), optimise=True))
        return self._plain[0].sharing(step=self.step, outputs=outputs)

    def as_written(self, *, outputs: tuple[str, ...] = ()) -> Runner:
        """A runner of the graph as it is written; its session is not kept."""
        return self._open((), optimise=False).sharing(step=self.step, outputs=outputs)

    def tap(self, tensors: Iterable[str], *, optimise: bool = True) -> Runner:
        """A runner that gives some of the model's tensors, by their names.

        It has a session of its own, which lives as long as the runner: the runtime cannot fuse what
        it must give, so other numbers may round differently there.

        Args:
            tensors: names of outputs or of tensors inside the graph.
            optimise: let the runtime rewrite the graph.
        """
        names = tuple(dict.fromkeys(tensors))
        return self._open(names, optimise=optimise).sharing(step=self.step, outputs=names)

    def run(self, images: Array, feeds: Feeds | None = None) -> Array:
        """The judged output for images of shape (n, *input)."""
        return self.runner(outputs=(self.output,)).run(images, feeds=feeds)[self.output]

    def run_suite(self, suite: Suite, batch_size: int) -> Array:
        """The judged output for every image of a suite, in order."""
        parts = []
        with stage("running images", total=len(suite)) as tell:
            for start in range(0, len(suite), batch_size):
                positions = np.arange(start, min(start + batch_size, len(suite)))
                parts.append(self.run(suite.batch(positions), suite.feeds(positions)))
                tell(int(positions[-1]) + 1)
        return np.concatenate(parts)

    def _open(self, taps: tuple[str, ...], *, optimise: bool) -> Runner:
        return Runner(
            tapped(self.model, taps) if taps else self.model,
            self.image,
            self.step,
            device=self.device,
            optimise=optimise,
            seconds=self.seconds,
        )
