"""Prove on images what a patched model computes.

Frozen filters: it computes what the instrumented model does under its mask. A changed last layer:
it computes what NumPy makes of the layer's features (`HeadReader`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, results, suite
from repairkit.core.process.stages import stage
from repairkit.engine.runner import Feeds, Masks, OpenModel, Runner
from repairkit.graph.fixing import seeded
from repairkit.graph.kinds.class_head import ClassHead, find_head
from repairkit.graph.protos import GraphIndex

Floats = NDArray[np.float64]
TOLERANCE = 1e-5
"""Of the greatest score: what 32-bit sums may be off."""

_HALF_TOLERANCE = 1e-2  # the same of 16-bit sums


def prove(
    patched: OpenModel,
    instrumented: OpenModel,
    masks: Masks,
    images: suite.Array,
    *,
    feeds: Feeds | None = None,
    tolerance: float = 0.0,
) -> results.Proof:
    """Run both models on the images, with graph optimisation off and on, and compare all outputs.

    Outputs may be of any kind: arrays of any shape, text, sequences, maps. Runs are compared one by
    one, so that nothing need be known of their axes. Nodes that draw random numbers draw the same
    ones in both models.

    Args:
        patched: the model to prove. If it takes any batch and fails on several images, it is run
            on one image at a time.
        instrumented: the original with mask inputs.
        masks: one row: absent where the patch freezes.
        images: shape (n, *input).
        feeds: what the models take beside each image; see `Runner.run`.
        tolerance: see `Proof`.

    Raises:
        ModelError: ONNX Runtime fails on a model.
    """
    models = with_seeds(patched), with_seeds(instrumented)
    proof = in_batches_or_one_by_one(
        lambda ours, theirs: _prove(ours, theirs, masks, images, feeds, tolerance), models
    )
    return replace(proof, tolerance=tolerance)


def with_seeds(opened: OpenModel) -> OpenModel:
    """The model itself, or a variant in which all random nodes have fixed seeds."""
    model = seeded(opened.model)
    return opened if model is opened.model else opened.variant(model)


def _runner(opened: OpenModel, outputs: tuple[str, ...] = (), *, optimise: bool) -> Runner:
    return opened.runner(outputs=outputs) if optimise else opened.as_written(outputs=outputs)


def in_batches_or_one_by_one(
    compare: Callable[[OpenModel, OpenModel], results.Proof], models: tuple[OpenModel, OpenModel]
) -> results.Proof:
    """Compare two models; if they take any batch and fail on several images, on one at a time."""
    try:
        return compare(*models)
    except errors.ModelError:
        if models[0].step is not None:
            raise
    ours, theirs = (replace(opened, step=1) for opened in models)
    return compare(ours, theirs)


def _prove(
    patched: OpenModel,
    instrumented: OpenModel,
    masks: Masks,
    images: suite.Array,
    feeds: Feeds | None,
    tolerance: float,
) -> results.Proof:
    exact, relative, same, changed = True, 0.0, True, False
    all_present = {name: np.ones_like(mask) for name, mask in masks.items()}
    for optimise in (False, True):
        ours = _runner(patched, optimise=optimise)
        theirs = _runner(instrumented, ours.outputs, optimise=optimise)
        runs = zip(ours.raw(images, feeds=feeds), theirs.raw(images, masks, feeds), strict=True)
        for (_, patched_outputs), (_, expected) in runs:
            for a, b in zip(patched_outputs, expected, strict=True):
                if optimise or tolerance:
                    relative = max(relative, relative_difference(a, b))
                    same = same and _same_answer(a, b)
                if not optimise:
                    exact = exact and equal_outputs(a, b)
        if not optimise:
            whole = zip(
                ours.raw(images, feeds=feeds), theirs.raw(images, all_present, feeds), strict=True
            )
            changed = not all(
                equal_outputs(a, b)
                for (_, patched_outputs), (_, plain) in whole
                for a, b in zip(patched_outputs, plain, strict=True)
            )
    return results.Proof(
        n_images=len(images), exact=exact, relative=relative, same_answer=same, changed=changed
    )


def equal_outputs(outputs: Any, expected: Any) -> bool:
    """Whether two outputs of any kind are equal bit for bit, but that one NaN is like another."""
    ours, theirs = list(_leaves(outputs)), list(_leaves(expected))
    return len(ours) == len(theirs) and all(
        type(a) is type(b) and _equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )


def _leaves(output: Any) -> Iterator[Any]:
    """The arrays, numbers and words of an output, with the lengths and keys that hold them."""
    if isinstance(output, Mapping):
        yield len(output)
        for key, value in output.items():
            yield key
            yield from _leaves(value)
    elif isinstance(output, (list, tuple)):
        yield len(output)
        for value in output:
            yield from _leaves(value)
    else:
        yield output


def _equal(outputs: Any, expected: Any) -> bool:
    a, b = np.asarray(outputs), np.asarray(expected)
    return a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def relative_difference(outputs: Any, expected: Any) -> float:
    """The largest difference relative to the largest number; 1 where they are of other kinds."""
    ours, theirs = list(_leaves(outputs)), list(_leaves(expected))
    if len(ours) != len(theirs):
        return 1.0
    return max((_gap(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _gap(outputs: Any, expected: Any) -> float:
    a, b = np.asarray(outputs), np.asarray(expected)
    if a.shape != b.shape:
        return 1.0
    if a.dtype.kind not in "fiub" or b.dtype.kind not in "fiub":
        return 0.0 if _equal(outputs, expected) else 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        a, b = a.astype(np.float64), b.astype(np.float64)
        scale = float(np.nanmax(np.abs(b), initial=0.0)) or 1.0
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nanmax(gaps, initial=0.0)) / scale if np.isfinite(scale) else 0.0


def _same_answer(outputs: Any, expected: Any) -> bool:
    if not (isinstance(outputs, np.ndarray) and isinstance(expected, np.ndarray)):
        return True
    if outputs.dtype.kind not in "fiu" or outputs.shape != expected.shape or not outputs.size:
        return True
    if outputs.ndim < 2 or outputs.size != outputs.shape[0] * outputs.shape[1]:
        return True
    a, b = (x.reshape(len(x), -1).argmax(axis=1) for x in (outputs, expected))
    return bool(np.array_equal(a, b))


@dataclass(frozen=True)
class Tapped:
    """What passes the head for some images, in order.

    Attributes:
        features: (n_images, n_features); None where they were not asked for.
        scores: (n_images, n_classes), class scores as the model has them.
        outputs: of the model, as it gives them.
    """

    features: suite.Array | None
    scores: Floats
    outputs: suite.Array


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

    def read(self, images: suite.Array, feeds: Feeds | None = None) -> Tapped:
        """Run the model on images of shape (n, *input).

        Raises:
            ModelError: ONNX Runtime fails, or the output is not what the head makes of them.
        """
        answers, head = self._runner.run(images, feeds=feeds), self.head
        outputs, n = answers[self.output], len(images)
        rows = [answers[name] for name in (head.own_output, head.features) if name in answers]
        if any(len(row) != n for row in (outputs, *rows)) or outputs.size != n * head.n_classes:
            raise errors.ModelError(
                f"output {self.output!r} is not one row of {head.n_classes} class scores for each "
                f"image, which the last layer {head.name!r} makes"
            )
        scores = head.score_rows(answers[head.own_output])
        features = head.feature_rows(answers[head.features]) if self.features else None
        return Tapped(features, scores, outputs)

    def read_suite(self, images: suite.Suite, batch_size: int) -> Tapped:
        """Run the model on every image of a suite, in order; see `read`."""
        parts = []
        with stage("reading the last layer", total=len(images)) as tell:
            for start in range(0, len(images), batch_size):
                places = np.arange(start, min(start + batch_size, len(images)))
                parts.append(self.read(images.batch(places), images.feeds(places)))
                tell(int(places[-1]) + 1)
        features = [part.features for part in parts if part.features is not None]
        return Tapped(
            np.concatenate(features) if features else None,
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.outputs for part in parts]),
        )


def check_head(head: ClassHead, read: Tapped, output: str) -> None:
    """Raise ModelError unless the output is what the head makes of these features and scores."""
    ways = [read.scores]
    if read.features is not None and not head.fixed_weight:
        ways.append(head.scores(read.features, head.weight, head.bias))
    rows = read.outputs.reshape(len(read.outputs), -1).astype(np.float64)
    for scores in ways:
        if not _off(rows, head, scores) < _tolerance(head):
            raise errors.ModelError(
                f"output {output!r} is not what the last layer {head.name!r} makes of its "
                "features; its biases and weights cannot be changed with a known effect"
            )


def prove_head(
    patched: OpenModel,
    before: OpenModel,
    change: filters.HeadChange,
    images: suite.Array,
    *,
    feeds: Feeds | None = None,
) -> results.Proof:
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
        lambda ours, theirs: _prove_head(ours, theirs, change, images, feeds), models
    )


def _prove_head(
    patched: OpenModel,
    before: OpenModel,
    change: filters.HeadChange,
    images: suite.Array,
    feeds: Feeds | None,
) -> results.Proof:
    index = GraphIndex(before.model)
    relative, same, changed, tolerance = 0.0, True, False, TOLERANCE
    for output, head in _made_by(index, change.layer).items():
        tolerance = _tolerance(head)
        for optimise in (False, True):
            judged, features = replace(before, output=output), change.weight is not None
            reader = HeadReader(judged, head, optimise=optimise, features=features)
            read = reader.read(images, feeds)
            runner = _runner(patched, (output,), optimise=optimise)
            outputs = runner.run(images, feeds=feeds)[output]
            scores = changed_scores(head, change, read)
            rows = outputs.reshape(len(images), -1).astype(np.float64)
            relative = max(relative, _off(rows, head, scores))
            best = head.answers(scores).argmax(axis=1)
            same = same and np.array_equal(rows.argmax(axis=1), best)
            changed = changed or not equal_outputs(outputs, read.outputs)
    return results.Proof(
        n_images=len(images),
        exact=False,
        relative=relative,
        same_answer=same,
        changed=changed,
        tolerance=tolerance,
        against="what the features and the new last layer give",
    )


def changed_scores(head: ClassHead, change: filters.HeadChange, read: Tapped) -> Floats:
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
        except errors.ModelError:
            continue  # an output of another kind, which no change of this head reaches exactly
        if head.name == layer:
            heads[output] = head
    if not heads:
        raise errors.ModelError(f"no output is made by a last layer {layer!r}")
    return heads


def _off(rows: Floats, head: ClassHead, scores: Floats) -> float:
    """How far outputs are from what scores make, relative to the greatest score or output."""
    wanted = head.answers(scores)
    scale = max(float(np.abs(x).max(initial=0.0)) for x in (wanted, scores)) or 1.0
    return float(np.abs(rows - wanted).max(initial=0.0)) / scale


def _tolerance(head: ClassHead) -> float:
    return _HALF_TOLERANCE if head.dtype == "float16" else TOLERANCE
