"""What the last layer makes of its features, and the proof of a changed last layer by it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.patch import HeadChange, Proof
from repairkit.core.suite import Array
from repairkit.engine.proof import equal_outputs, in_batches_or_one_by_one, with_seeds
from repairkit.engine.runner import Feeds, OpenModel
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.class_head import ClassHead, find_head

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
    """Gives the features of the last layer, its scores and the output it makes.

    Args:
        opened: the model; its judged output is the one that the last layer makes.
        head: the last layer.
        optimise: let the runtime rewrite the graph.
        features: whether features are asked for.
    """

    def __init__(
        self, opened: OpenModel, head: ClassHead, *, optimise: bool = True, features: bool = True
    ) -> None:
        self.head, self.output, self.features = head, opened.output, features
        names = [*([head.features] if features else []), head.own_output, opened.output]
        self._runner = opened.tap(names, optimise=optimise)

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
    patched: OpenModel,
    before: OpenModel,
    change: HeadChange,
    images: Array,
    *,
    feeds: Feeds | None = None,
) -> Proof:
    """Compare the outputs of a changed last layer with what NumPy makes of its features.

    Every output that the layer makes is compared, with graph optimisation off and on.

    Args:
        patched: the model to prove. If it takes any batch and fails on several images, it is run
            on one image at a time.
        before: the same model with the last layer as it was.
        change: of the last layer.
        images: shape (n, *input).
        feeds: what the models take beside each image; see `Runner.run`.

    Raises:
        ModelError: ONNX Runtime fails on a model, or the last layer is not there.
    """
    models = with_seeds(patched), with_seeds(before)
    return in_batches_or_one_by_one(
        lambda ours, theirs: _prove(ours, theirs, change, images, feeds), models
    )


def _prove(
    patched: OpenModel,
    before: OpenModel,
    change: HeadChange,
    images: Array,
    feeds: Feeds | None,
) -> Proof:
    index = GraphIndex(before.model)
    relative, same, changed, tolerance = 0.0, True, False, TOLERANCE
    for output, head in _made_by(index, change.layer).items():
        tolerance = _tolerance(head)
        for optimise in (False, True):
            reader = HeadReader(
                replace(before, output=output),
                head,
                optimise=optimise,
                features=change.weight is not None,
            )
            read = reader.read(images, feeds)
            wanted = (output,)
            runner = (
                patched.runner(outputs=wanted) if optimise else patched.as_written(outputs=wanted)
            )
            outputs = runner.run(images, feeds=feeds)[output]
            scores = changed_scores(head, change, read)
            rows = outputs.reshape(len(images), -1).astype(np.float64)
            relative = max(relative, _off(rows, head, scores))
            best = head.answers(scores).argmax(axis=1)
            same = same and np.array_equal(rows.argmax(axis=1), best)
            changed = changed or not equal_outputs(outputs, read.outputs)
    return Proof(
        n_images=len(images),
        exact=False,
        relative=relative,
        same_answer=same,
        changed=changed,
        tolerance=tolerance,
        against="what the features and the new last layer give",
    )


def changed_scores(head: ClassHead, change: HeadChange, read: Tapped) -> Floats:
    """The class scores under a change, from what passes the head without it."""
    if change.weight is None:
        assert change.bias is not None
        return np.asarray(read.scores + head.offset(change.bias) - head.offset(head.bias))
    assert read.features is not None
    return head.scores(read.features, change.weight, change.bias)


def _made_by(index: GraphIndex, layer: str) -> dict[str, ClassHead]:
    """The outputs that the head of that name makes, and what each makes of its scores."""
    heads = {}
    for output in index.outputs:
        try:
            head = find_head(index, output)
        except ModelError:
            continue  # an output of another kind, which no change of this head reaches exactly
        if head.name == layer:
            heads[output] = head
    if not heads:
        raise ModelError(f"no output is made by a last layer {layer!r}")
    return heads


def _off(rows: Floats, head: ClassHead, scores: Floats) -> float:
    """How far outputs are from what scores make, relative to the greatest score or output."""
    wanted = head.answers(scores)
    scale = max(float(np.abs(x).max(initial=0.0)) for x in (wanted, scores)) or 1.0
    return float(np.abs(rows - wanted).max(initial=0.0)) / scale


def _tolerance(head: ClassHead) -> float:
    return _HALF_TOLERANCE if head.dtype == "float16" else TOLERANCE
