"""What the cures of the last layer share: the layer, what passes it, and how a change is judged.

The model is run once on all selection images, and what passes its last layer is kept. All that
follows is arithmetic: a choice without some images costs no forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.outputs import OutputForm
from repairkit.core.patch import HeadChange, Patch
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Indices
from repairkit.engine.features import HeadReader, Tapped, changed_scores, check_head
from repairkit.graph.baking import changes_head
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.class_head import ClassHead, find_head
from repairkit.jobs.repair.cures.supplies import Supplies
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs import (
    Bound,
    Criterion,
    Cured,
    Folds,
    Nothing,
    Story,
    assign_folds,
    gain_of_columns,
)

N_FOLDS = 5
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of a change: where the whole of it costs too much, a part of it may not."""

_DOUBT, _RESAMPLES = 0.3, 200
_STREAM = 5  # of the seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """The last layer of a workbench's model, and what passes it for the selection images.

    Attributes:
        index: of the model.
        layer: its last layer.
        form: of the outputs.
        read: what passes it.
        n_classes: of the data.
    """

    index: GraphIndex
    layer: ClassHead
    form: OutputForm
    read: Tapped
    n_classes: int

    @property
    def columns(self) -> slice:
        """The scores that count."""
        first, behind = self.form.columns or (0, self.layer.n_classes)
        return slice(first, behind)

    @property
    def is_single(self) -> bool:
        """Whether one score tells two classes apart: the log-odds of class 1."""
        return self.form.kind.startswith("binary")

    def outputs(self, scores: NDArray[np.float64]) -> Array:
        """What the model makes of class scores, as it gives them."""
        plain = self.read.outputs
        return self.layer.answers(scores).astype(plain.dtype).reshape(-1, *plain.shape[1:])

    def shifted(self, biases: NDArray[np.float64]) -> NDArray[np.float64]:
        """Biases of the classes of the data, as a shift of all class scores."""
        shift = np.zeros(self.layer.n_classes)
        shift[self.columns] = biases[1:] - biases[:1] if self.is_single else biases
        return shift


def find_class_head(bench: Bench) -> Head:
    """Find the last layer, run the model once on all selection images, and check both.

    Raises:
        ModelError: why the last layer cannot be changed, in one line.
    """
    form = bench.form
    if form is None or form.kind == "values" or not bench.n_classes:
        raise ModelError("the model gives no classes, so its last layer has no class scores")
    index, output = GraphIndex(bench.subject.model), bench.subject.output
    head = find_head(index, output)
    if head.fixed_bias and head.fixed_weight:
        raise ModelError(f"{head.fixed_bias}; {head.fixed_weight}")
    reader = HeadReader(bench.working.opened, head, features=not head.fixed_weight)
    suite, parts = bench.parts.selection, []
    with stage("reading the last layer", total=len(suite)) as tell:
        for start in range(0, len(suite), bench.working.effort.batch_size):
            places = np.arange(start, min(start + bench.working.effort.batch_size, len(suite)))
            parts.append(reader.read(suite.batch(places), suite.feeds(places)))
            tell(int(places[-1]) + 1)
    features = [part.features for part in parts if part.features is not None]
    read = Tapped(
        np.concatenate(features) if features else None,
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.outputs for part in parts]),
    )
    check_head(head, read, output)
    return Head(index=index, layer=head, form=form, read=read, n_classes=bench.n_classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadChoice:
    """What cures of the last layer have in common.

    Attributes:
        head: the last layer.
        criterion: what to improve, on all selection images.
        labels: of the selection images, (n_images,).
        groups: of the selection images, or None where there are none.
        strata: see `assign_folds`.
        twins: see `assign_folds`.
        seed: of the job.
    """

    head: Head
    criterion: Criterion
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None
    strata: NDArray[np.int64]
    twins: NDArray[np.intp] | None = None
    seed: int = 0

    @classmethod
    def of(cls, bench: Bench, criterion: Criterion, supplies: Supplies) -> HeadChoice:
        """For a workbench.

        Raises:
            ModelError: why the last layer cannot be changed, in one line.
        """
        about = bench.parts.selection.annotations
        return cls(
            head=supplies.once(find_class_head, bench),
            criterion=criterion,
            labels=about.labels,
            groups=about.groups,
            strata=supplies.strata,
            twins=supplies.twins,
            seed=bench.settings.seed,
        )

    def folds(self, within: Indices) -> Folds:
        """Folds inside the images that choose."""
        rng = np.random.default_rng([self.seed, _STREAM])
        return assign_folds(self.strata, N_FOLDS, rng, within=within, twins=self.twins)

    @cached_property
    def plain_columns(self) -> Array:
        """Of the criterion, for the model as it is."""
        return self.criterion.columns(self.head.outputs(self.head.read.scores))

    def gain(self, scores: NDArray[np.float64], folds: Folds) -> Bound:
        """What class scores gain that no image chose for itself, over the model as it is."""
        rng = np.random.default_rng([self.seed, _STREAM, 1])
        return gain_of_columns(
            self.criterion,
            self.plain_columns,
            self.criterion.columns(self.head.outputs(scores)),
            folds,
            doubt=_DOUBT,
            n_resamples=_RESAMPLES,
            rng=rng,
        )

    def cured(
        self,
        *,
        name: str,
        action: str,
        change_of: Callable[[float], HeadChange],
        scores: NDArray[np.float64],
        folds: Folds,
        story: Story,
    ) -> Cured | Nothing:
        """The cure, with a quarter, a half and three quarters of the change as smaller steps.

        Args:
            name: of the cure.
            action: what it does, in words.
            change_of: a share of the change, in (0, 1], to what is baked.
            scores: class scores of each image under the change that its fold did not choose.
            folds: inside the images that chose.
            story: how it was chosen.
        """
        steps: list[Cured] = []
        read = self.head.read
        for share in SHARES:
            change = change_of(share)
            if not changes_head(self.head.layer, change):
                continue
            outputs = self.head.outputs(changed_scores(self.head.layer, change, read))
            gain = self.gain(read.scores + share * (scores - read.scores), folds)
            steps.append(
                Cured(
                    patch=Patch((), change),
                    outputs=outputs,
                    gain=gain,
                    story={"layer": change.layer, "share": share, **story},
                    name=name,
                    action=action,
                )
            )
        if not steps:
            return Nothing("the change is less than the model's numbers can hold", story)
        return replace(steps[-1], fewer=tuple(steps[:-1]))
