"""What the last layer makes of its features, and the proof of a changed last layer by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.core.patch import HeadChange
from repairkit.engine.proof import Proof, equal_outputs
from repairkit.engine.runner import Feeds, Runner
from repairkit.graph.coalitions.instrument import tapped
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.class_head import ClassHead, find_head
from repairkit.graph.seeding import seeded

Floats = NDArray[np.float64]

TOLERANCE = 1e-5
"""Of the greatest score: what 32-bit sums may be off."""
_HALF_TOLERANCE = 1e-2  # the same of 16-bit sums


@dataclass(frozen=True)
class Tapped:
    """What passes the head for some images, in order.

    Attributes:
        features: (n_images, n_features); None where they were not asked for.
        scores: (n_images, n_classes), class scores as the model has them.
        outputs: of the model, as it gives them.
    """

    features: Array | None
    scores: Floats
    outputs: Array


class HeadReader:
    """A session that gives the features of the head, its scores and the output it makes."""

    def __init__(
        self,
        model: ModelProto,
        head: ClassHead,
        output: str,
        input_name: str,
        step: int | None,
        *,
        device: str = "cpu",
        optimise: bool = True,
        features: bool = True,
    ) -> None:
        self.head, self.output, self.features = head, output, features
        names = dict.fromkeys([*([head.features] if features else []), head.own_output, output])
        self._runner = Runner(
            tapped(model, names),
            input_name,
            step,
            outputs=tuple(names),
            device=device,
            optimise=optimise,
        )

    def read(self, images: Array, feeds: Feeds | None = None) -> Tapped:
        """Run the model on images of shape (n, *input).

        Raises:
            ModelError: ONNX Runtime fails, or the output is not what the head makes of them.
        """
        answers, head = self._runner.run(images, feeds=feeds), self.head
        outputs, n = answers[self.output], len(images)
        rows = [answers[name] for name in (head.own_output, head.features) if name in answers]
        if any(len(row) != n for row in (outputs, *rows)) or outputs.size != n * head.n_classes:
            raise ModelError(
                f"output {self.output!r} is not one row of {head.n_classes} class scores for each "
                f"image, which the last layer {head.name!r} makes"
            )
        scores = head.score_rows(answers[head.own_output])
        features = head.feature_rows(answers[head.features]) if self.features else None
        return Tapped(features, scores, outputs)


def check_head(head: ClassHead, read: Tapped, output: str) -> None:
    """The output is what the head makes of features and scores, as far as these images show.

    Raises:
        ModelError: it is not.
    """
    ways = [read.scores]
    if read.features is not None and not head.fixed_weight:
        ways.append(head.scores(read.features, head.weight, head.bias))
    rows = read.outputs.reshape(len(read.outputs), -1).astype(np.float64)
    for scores in ways:
        if not _off(rows, head, scores) < _tolerance(head):
            raise ModelError(
                f"output {output!r} is not what the last layer {head.name!r} makes of its "
                "features; its biases and weights cannot be changed with a known effect"
            )


def prove_head(
    patched: ModelProto,
    before: ModelProto,
    change: HeadChange,
    images: Array,
    *,
    input_name: str,
    step: int | None,
    feeds: Feeds | None = None,
) -> Proof:
    """Compare the outputs of a changed head with what NumPy makes of its features.

    Every output that the head makes is compared, with graph optimisation off and on.

    Args:
        patched: the model to prove.
        before: the same model with the head as it was.
        change: of the head.
        images: shape (n, *input).
        input_name: the image input.
        step: the fixed batch of both models, if any. A model of a free batch that fails on several
            images is run on one at a time.
        feeds: what the models take beside each image; see `Runner.run`.

    Raises:
        ModelError: ONNX Runtime fails on a model, or the head is not there.
    """
    models = seeded(patched), seeded(before)
    try:
        return _prove(models, change, images, feeds, input_name, step)
    except ModelError:
        if step is not None:
            raise
    return _prove(models, change, images, feeds, input_name, 1)


def _prove(
    models: tuple[ModelProto, ModelProto],
    change: HeadChange,
    images: Array,
    feeds: Feeds | None,
    input_name: str,
    step: int | None,
) -> Proof:
    index = GraphIndex(models[1])
    relative, same, changed, tolerance = 0.0, True, False, TOLERANCE
    for output, head in _made_by(index, change.layer).items():
        tolerance = _tolerance(head)
        for optimise in (False, True):
            reader = HeadReader(
                models[1],
                head,
                output,
                input_name,
                step,
                optimise=optimise,
                features=change.weight is not None,
            )
            read = reader.read(images, feeds)
            patched = Runner(models[0], input_name, step, outputs=(output,), optimise=optimise)
            found = patched.run(images, feeds=feeds)[output]
            scores = changed_scores(head, change, read)
            rows = found.reshape(len(images), -1).astype(np.float64)
            relative = max(relative, _off(rows, head, scores))
            best = head.answers(scores).argmax(axis=1)
            same = same and np.array_equal(rows.argmax(axis=1), best)
            changed = changed or not equal_outputs(found, read.outputs)
    against = "what the features and the new last layer give"
    return Proof(len(images), False, relative, same, changed, tolerance, against)


def changed_scores(head: ClassHead, change: HeadChange, read: Tapped) -> Floats:
    """The class scores under a change, from what passes the head without it."""
    if change.weight is None:
        assert change.bias is not None
        return np.asarray(read.scores + head.offset(change.bias) - head.offset(head.bias))
    assert read.features is not None
    return head.scores(read.features, change.weight, change.bias)


def _made_by(index: GraphIndex, layer: str) -> dict[str, ClassHead]:
    """The outputs that the head of that name makes, and what each makes of its scores."""
    found = {}
    for output in index.outputs:
        try:
            head = find_head(index, output)
        except ModelError:
            continue  # an output of another kind, which no change of this head reaches exactly
        if head.name == layer:
            found[output] = head
    if not found:
        raise ModelError(f"no output is made by a last layer {layer!r}")
    return found


def _off(rows: Floats, head: ClassHead, scores: Floats) -> float:
    """How far outputs are from what scores make, relative to the greatest score or output."""
    wanted = head.answers(scores)
    scale = max(float(np.abs(x).max(initial=0.0)) for x in (wanted, scores)) or 1.0
    return float(np.abs(rows - wanted).max(initial=0.0)) / scale


def _tolerance(head: ClassHead) -> float:
    return _HALF_TOLERANCE if head.dtype == "float16" else TOLERANCE
