"""What jobs hand back: patches proven, made, applied and undone, models exported, runs compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repairkit.core.layer_map import LayerMap
from repairkit.core.patch import Evaluation, Figure, FrozenFilter, Patch, Proof, TensorEdit


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was proven.

    `images` says what the outputs were compared on; `inferred`, that no claim named the filters;
    `unproven`, what the patch file tells besides, which no two models can prove; `layers`, where
    the filters come from, if the original says so.
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
    """A frozen filter for JSON."""
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
    """A patch that was applied, and what was proven of the result."""

    out: Path
    digest: str
    verified: Verified

    def to_json(self) -> dict[str, Any]:
        return {"model": str(self.out), "digest": self.digest, **self.verified.to_json()}


@dataclass(frozen=True)
class Reverted:
    """A patch that was taken off. `digest` is the original's; `left` counts patches still on."""

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
    """A model that was written, and what was proven of it.

    Attributes:
        out: the ONNX file.
        map_file: the map from layers to filters, which is in the ONNX file's metadata too.
        layers: that map.
        n_filters: of all sites.
        without_layer: sites that no layer of the framework became.
        relative: the greatest difference of outputs, relative to the greatest output.
        n_images: how many images were compared.
        images: whether they were given, or generated.
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
    """A data set that was attacked, and where its images were written."""

    out: Path
    document: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of two runs' values of the filters that both scored.

    Attributes:
        first: the run that is taken for the truth in `r2`.
        second: the other.
        n_filters: scored by both.
        rank_correlation: Spearman's; None where all values of a run are equal.
        correlation: Pearson's; None likewise.
        r2: coefficient of determination of the second's values for the first's, 1 less the share of
            the first's variance that they miss; None where those are all equal. It says nothing
            where the runs are in different units, as norms are.
        top_k: how many filters each end of the ranking counts.
        highest: the share of the `top_k` highest that both name.
        lowest: likewise of the lowest.
        notes: in what the runs differ beside the method.
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
