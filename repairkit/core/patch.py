"""What is decided about a model, and the results of jobs.

A patch says which filters to freeze and at what, and how to change the model's head. Results are
patches made, proven, applied and reverted, models exported and attacked, and runs compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import Filter, LayerMap
from repairkit.core.suite import Array

Constant = float | tuple[float, ...]
"""What a frozen filter yields: one number, or for a tree one per class or target."""


def constant_of(level: Any) -> Constant:
    """A constant from a number, or from some in an array or a list; one alone is that number.

    Raises:
        TypeError, ValueError: `level` is neither.
    """
    if not np.ndim(level):
        return float(level)
    numbers = tuple(map(float, level))
    return numbers[0] if len(numbers) == 1 else numbers


@dataclass(frozen=True)
class FrozenFilter:
    """A filter and the constant that it is to yield.

    `gain`, in [0, 1), is how much of the filter is left: it yields
    `constant + gain * (own output - constant)`. 0 freezes it wholly.
    """

    filter: Filter
    constant: Constant
    gain: float = 0.0


def constant_text(frozen: FrozenFilter) -> str:
    """The constant of a frozen filter in as many digits as 32-bit floats have."""
    return " ".join(f"{number:.9g}" for number in np.atleast_1d(frozen.constant))


HeadKind = Literal["bias", "last-layer"]


@dataclass(frozen=True, eq=False)
class HeadChange:
    """New numbers for the layer that makes the class scores.

    Attributes:
        kind: `bias` where only the biases change; `last-layer` where the weights change too.
        layer: its name, as a site's: of its node, or of the node's first output.
        bias: (n_classes,), the whole bias of every class; None where the layer has none and keeps
            having none.
        weight: (n_classes, n_features), or None for kind `bias`.
    """

    kind: HeadKind
    layer: str
    bias: NDArray[np.float64] | None = None
    weight: NDArray[np.float64] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadChange) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        arrays = (self.bias, self.weight)
        return (
            self.kind,
            self.layer,
            *(a if a is None else (a.shape, a.tobytes()) for a in arrays),
        )


@dataclass(frozen=True)
class Patch:
    """Filters and constants, and a change of the head if any; decided, not yet applied.

    Filters are ordered as they were chosen.
    """

    frozen: tuple[FrozenFilter, ...] = ()
    head: HeadChange | None = None

    @property
    def filters(self) -> tuple[Filter, ...]:
        return tuple(f.filter for f in self.frozen)

    def __len__(self) -> int:
        """How many filters are frozen."""
        return len(self.frozen)


@dataclass(frozen=True)
class Figure:
    """A figure with its interval; NaN where the images do not define it."""

    value: float
    ci_low: float
    ci_high: float

    @classmethod
    def from_json(cls, figure: Mapping[str, float | None]) -> Figure:
        """The figure that `to_json` wrote."""
        return cls(**{name: math.nan if end is None else end for name, end in figure.items()})

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)

    def to_json(self) -> dict[str, float | None]:
        """Null for what is not defined."""
        ends = {"value": self.value, "ci_low": self.ci_low, "ci_high": self.ci_high}
        return {name: None if math.isnan(end) else end for name, end in ends.items()}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's metrics on one suite, overall and per group, with intervals."""

    suite: str
    n_images: int
    metrics: dict[str, Figure]
    groups: dict[str, Figure]
    group_sizes: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Figures that are not defined are null."""
        return {
            "suite": self.suite,
            "n_images": self.n_images,
            "metrics": {name: figure.to_json() for name, figure in self.metrics.items()},
            "groups": {name: figure.to_json() for name, figure in self.groups.items()},
            "group_sizes": dict(self.group_sizes),
        }


# What baking writes


@dataclass(frozen=True, kw_only=True)
class TensorChange:
    """Values at flat positions of the tensor that a node reads at `slot`.

    `clone` names the new initializer, if the tensor is shared or computed and has to be cloned.
    """

    node: int
    slot: int
    positions: Array
    values: NDArray[np.float64]
    clone: str


@dataclass(frozen=True, kw_only=True)
class AddedTensor:
    """A new initializer that a node reads at `slot`."""

    node: int
    slot: int
    array: Array
    name: str


@dataclass(frozen=True, kw_only=True)
class ListChange:
    """Values at flat positions of a list of numbers, the attribute `name` of a node."""

    node: int
    name: str
    positions: NDArray[np.intp]
    values: Array


Change = TensorChange | AddedTensor | ListChange


@dataclass(frozen=True, kw_only=True)
class TensorEdit:
    """One change that baking made to a stored tensor, enough to undo it.

    `kind` is `initializer` or `constant` (edited in place: `old` holds the little-endian bytes
    that stood at the flat element ranges `runs`), or `added` (a new initializer `tensor`, read by
    input `slot` of node `node` instead of `replaces`, which is None where it had no such input), or
    `attribute` (edited in place as a tensor would be: the list `tensor` of the node that makes
    `node`).
    """

    kind: str
    tensor: str
    runs: Sequence[tuple[int, int]] = ()
    old: bytes = b""
    node: str = ""
    slot: int = 0
    replaces: str | None = None


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found on `n_images` images, of all outputs of the model.

    `exact`: all outputs equal bit for bit with graph optimisation off. `relative`: the largest
    difference with it on, relative to the largest number of that output. `same_answer`: the
    class with the largest score is the same for every image (true where outputs are no scores).
    `changed`: on some image some output is not that of the model as it was. `tolerance` is the
    `relative` difference that rounding at another place may cause; 0 where all must be `exact`.
    Then `relative` is the largest with optimisation and without. `against` says in words what the
    outputs were compared with.
    """

    n_images: int
    exact: bool
    relative: float
    same_answer: bool
    changed: bool = True
    tolerance: float = 0.0
    against: str = "the masked original"

    @property
    def holds(self) -> bool:
        return self.exact or self.relative < self.tolerance

    def joined(self, other: Proof) -> Proof:
        """What two proofs on the same images show together."""
        return Proof(
            n_images=self.n_images,
            exact=self.exact and other.exact,
            relative=max(self.relative, other.relative),
            same_answer=self.same_answer and other.same_answer,
            changed=self.changed or other.changed,
            tolerance=max(self.tolerance, other.tolerance),
            against=" and ".join(dict.fromkeys((self.against, other.against))),
        )


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was proven about a patched model.

    Attributes:
        patch: the proven changes.
        edits: the changed tensors.
        proof: the comparison of outputs.
        images: in words, the images that outputs were compared on.
        inferred: whether the changes were read off the tensors, because no claim named them.
        unproven: names of further facts in the patch file, which two models cannot prove.
        layers: the layers that the filters come from, if the original knows them.
    """

    patch: Patch
    edits: tuple[TensorEdit, ...]
    proof: Proof
    images: str
    inferred: bool = False
    unproven: tuple[str, ...] = ()
    layers: LayerMap | None = None

    def to_json(self) -> dict[str, Any]:
        head = self.patch.head
        return {
            "verified": True,
            "inferred": self.inferred,
            "frozen": [frozen_entry(f) for f in self.patch.frozen],
            **({} if head is None else {"head": {"kind": head.kind, "layer": head.layer}}),
            "tensors": [e.tensor for e in self.edits],
            "n_images": self.proof.n_images,
            "images": self.images,
            "exact_without_optimisation": self.proof.exact,
            "relative_difference_with_optimisation": self.proof.relative,
            "same_answers": self.proof.same_answer,
            "unproven": list(self.unproven),
        }


def frozen_entry(frozen: FrozenFilter) -> dict[str, Any]:
    """A frozen filter as JSON."""
    gain = {"gain": frozen.gain} if frozen.gain else {}
    return {"filter": frozen.filter.id, "constant": frozen.constant, **gain}


@dataclass(frozen=True, kw_only=True)
class Patched:
    """A patch that was made, proven and written."""

    out: Path
    patch_file: Path
    report_file: Path
    patch: Patch
    verified: Verified
    promise: Figure | None
    objective: str | None
    before: Evaluation
    after: Evaluation
    change: dict[str, Figure]
    document: dict[str, Any]


@dataclass(frozen=True)
class Applied:
    """A patch that was applied, and what was proven about the result."""

    out: Path
    digest: str
    verified: Verified

    def to_json(self) -> dict[str, Any]:
        return {"model": str(self.out), "digest": self.digest, **self.verified.to_json()}


@dataclass(frozen=True)
class Reverted:
    """A patch that was reverted. `digest` is the original's; `left` counts remaining patches."""

    out: Path
    digest: str
    patch: Patch
    left: int

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.out),
            "digest": self.digest,
            "taken_off": [f.filter.id for f in self.patch.frozen],
            **({} if self.patch.head is None else {"head_restored": self.patch.head.layer}),
            "patches_left": self.left,
        }


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model that was written, and what was proven about it.

    Attributes:
        out: the ONNX file.
        map_file: the map from layers to filters; the ONNX file's metadata has it too.
        layers: that map.
        n_filters: of all sites.
        without_layer: sites that come from no layer of the framework.
        relative: the largest difference of outputs, relative to the largest output.
        n_images: how many images were compared.
        images: in words, whether images were given or generated.
        digest: of the ONNX file.
    """

    out: Path
    map_file: Path
    layers: LayerMap
    n_filters: int
    without_layer: tuple[str, ...]
    relative: float
    n_images: int
    images: str
    digest: str

    @property
    def n_mapped(self) -> int:
        return sum(m.layer.n_channels for m in self.layers.layers if m.site is not None)

    @property
    def n_proven(self) -> int:
        return self.n_mapped - sum(len(m.unproven) for m in self.layers.layers)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.out),
            "digest": self.digest,
            "map": str(self.map_file),
            "n_filters": self.n_filters,
            "n_mapped": self.n_mapped,
            "n_proven": self.n_proven,
            "sites_without_layer": list(self.without_layer),
            "parity": {
                "relative": self.relative,
                "n_images": self.n_images,
                "images": self.images,
            },
            **self.layers.to_json(),
        }


@dataclass(frozen=True)
class Attacked:
    """A data set that was attacked, and the file of its images."""

    out: Path
    document: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the values of two runs agree, for filters that both scored.

    Attributes:
        first: the run that `r2` takes as the truth.
        second: the other.
        n_filters: scored by both.
        rank_correlation: Spearman's; None if all values of a run are equal.
        correlation: Pearson's; None in the same case.
        r2: coefficient of determination, when the second's values predict the first's; None if the
            first's are all equal. Meaningless if the runs have different units, as norms have.
        top_k: number of filters at each end of the ranking.
        highest: share of the `top_k` highest that both runs have in common.
        lowest: the same for the lowest.
        notes: other differences of the runs than the method.
    """

    first: str
    second: str
    n_filters: int
    rank_correlation: float | None
    correlation: float | None
    r2: float | None
    top_k: int
    highest: float
    lowest: float
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}
